"""Poses: what a caller says of the camera, and the four numbers that a model takes."""

import math
from typing import Any

import numpy as np
import pytest

from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.tasks.views.pose import Pose, pose_array, poses_from_keywords
from latentrt.runtime.metadata.view import pose_pairs


def numbers(kind: PoseKind, **keywords: Any) -> list[float]:
    """Those of one view."""
    (pose,) = poses_from_keywords(kind, keywords, 1)  # type: ignore[arg-type]
    return list(pose.numbers)


@pytest.mark.parametrize("up", [-80.0, 0.0, 30.0])
@pytest.mark.parametrize("around", [-150.0, 0.0, 45.0, 270.0])
def test_zero123_takes_the_change_of_the_camera(up: float, around: float) -> None:
    """As the authors' demo makes them of x (down is positive), y and z."""
    x, y, z = -up, around, 0.3
    expected = [math.radians(x), math.sin(math.radians(y)), math.cos(math.radians(y)), z]
    assert numbers(PoseKind.DISTANCE, elevation=up, azimuth=around, distance=z) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("image_elevation", [-10.0, 0.0, 25.0])
def test_stable_zero123_takes_the_polar_angle_of_the_picture(image_elevation: float) -> None:
    """As threestudio makes them of the elevations of both views and the azimuths of both."""
    elevation, azimuth, cond_azimuth = 40.0, 70.0, 20.0
    expected = [
        math.radians((90 - elevation) - (90 - image_elevation)),
        math.sin(math.radians(azimuth - cond_azimuth)),
        math.cos(math.radians(azimuth - cond_azimuth)),
        math.radians(90 - image_elevation),
    ]
    got = numbers(
        PoseKind.IMAGE_ELEVATION,
        elevation=elevation - image_elevation,
        azimuth=azimuth - cond_azimuth,
        image_elevation=image_elevation,
    )
    assert got == pytest.approx(expected, abs=1e-12)


def test_what_is_left_out() -> None:
    """The picture's own place; Stable Zero123's picture was taken at the height of the object."""
    assert numbers(PoseKind.DISTANCE) == [0.0, 0.0, 1.0, 0.0]
    assert numbers(PoseKind.IMAGE_ELEVATION) == [0.0, 0.0, 1.0, math.pi / 2]


def test_a_whole_turn_is_none() -> None:
    """To the last bit."""
    assert numbers(PoseKind.DISTANCE, azimuth=360) == numbers(PoseKind.DISTANCE, azimuth=0)
    assert numbers(PoseKind.DISTANCE, azimuth=-90) == numbers(PoseKind.DISTANCE, azimuth=270)


def test_lists_are_one_per_view_and_numbers_are_for_all() -> None:
    """NumPy's arrays, too."""
    poses = poses_from_keywords(PoseKind.DISTANCE, {"azimuth": np.arange(0, 360, 90), "elevation": 10}, 1)
    assert [pose.azimuth for pose in poses] == [0.0, 90.0, 180.0, 270.0]
    assert {pose.elevation for pose in poses} == {10.0}
    assert pose_array(poses).shape == (4, 4)
    assert pose_array(poses).dtype == np.float32
    assert len(poses_from_keywords(PoseKind.DISTANCE, {"elevation": 10}, 3)) == 3
    assert len(poses_from_keywords(PoseKind.DISTANCE, {"azimuth": [5]}, 1)) == 1


@pytest.mark.parametrize(
    ("kind", "keywords", "pictures", "message"),
    [
        (PoseKind.DISTANCE, {"image_elevation": 5}, 1, "got image_elevation with .* distance .*; leave"),
        (PoseKind.IMAGE_ELEVATION, {"distance": 0.1}, 1, "got distance with .* image_elevation"),
        (PoseKind.DISTANCE, {"azimuth": [1, 2], "elevation": [1, 2, 3]}, 1, "3 of elevation and 2 of azimuth"),
        (PoseKind.DISTANCE, {"azimuth": [1, 2]}, 3, "2 of azimuth and 3 of image"),
        (PoseKind.DISTANCE, {"azimuth": []}, 1, "an empty list of azimuth"),
        (PoseKind.DISTANCE, {"azimuth": "30"}, 1, "got azimuth '30', expected a number"),
        (PoseKind.DISTANCE, {"azimuth": True}, 1, "expected a number"),
        (PoseKind.DISTANCE, {"azimuth": math.inf}, 1, "got azimuth inf, expected a finite number"),
        (PoseKind.DISTANCE, {"elevation": [0, math.nan]}, 1, "expected finite numbers"),
        (PoseKind.DISTANCE, {"elevation": 181}, 1, "got elevation 181, expected -180 to 180"),
        (PoseKind.DISTANCE, {"distance": 100}, 1, "got distance 100, expected -10 to 10; the model knows"),
        (PoseKind.IMAGE_ELEVATION, {"image_elevation": 91}, 1, "got image_elevation 91, expected -90 to 90"),
    ],
)
def test_bad_poses(kind: PoseKind, keywords: Any, pictures: int, message: str) -> None:
    """Each in a sentence."""
    with pytest.raises(RequestError, match=message):
        poses_from_keywords(kind, keywords, pictures)


def test_settings_name_what_the_model_was_told() -> None:
    """Of several views in one file a number that holds for all stands once."""
    turn = [Pose(elevation=10.0, azimuth=around, distance=0.0) for around in (0.0, 90.0)]
    assert pose_pairs(turn[1:]) == {"Elevation": "10", "Azimuth": "90", "Distance": "0"}
    assert pose_pairs(turn) == {"Elevation": "10", "Azimuth": '"0, 90"', "Distance": "0"}
    stable = Pose(elevation=-5.0, azimuth=0.0, image_elevation=20.0)
    assert pose_pairs([stable]) == {"Elevation": "-5", "Azimuth": "0", "Image elevation": "20"}
