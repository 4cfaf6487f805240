"""Where the camera of a view stands, as a caller says it and as a model takes it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.from_picture import PoseKeywords
from latentrt.runtime.checks import is_list, number, numbers


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A camera's place, from the place that the picture was taken from.

    Attributes:
        elevation: degrees upwards.
        azimuth: degrees to the right.
        distance: Zero123: how much farther away; None where the model is not told.
        image_elevation: Stable Zero123: degrees of the picture's own place above the object; None where the model is
            not told.
    """

    elevation: float
    azimuth: float
    distance: float | None = None
    image_elevation: float | None = None

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """What the model takes: the change of the polar angle, sine and cosine of the azimuth, and a fourth number.

        The polar angle is measured from the zenith, so that it falls as the camera rises. The fourth number is the
        distance's change (Zero123, ``gradio_new.py``), or the polar angle of the picture's own place (Stable Zero123,
        threestudio's ``stable_zero123_guidance.py``).
        """
        around = math.radians(self.azimuth % 360.0)
        polar = None if self.image_elevation is None else math.radians(90.0 - self.image_elevation)
        fourth = (self.distance or 0.0) if polar is None else polar
        return -math.radians(self.elevation), math.sin(around), math.cos(around), fourth


@dataclass(frozen=True)
class _Range:
    """What a keyword of a pose may be."""

    least: float
    most: float
    advice: str = "give one of these"


_RANGES = {
    "elevation": _Range(-180.0, 180.0),
    "azimuth": _Range(-math.inf, math.inf),
    "distance": _Range(-10.0, 10.0, "the model knows about −0.5 to 0.5"),
    "image_elevation": _Range(-90.0, 90.0),
}
_FOURTH = {PoseKind.DISTANCE: "distance", PoseKind.IMAGE_ELEVATION: "image_elevation"}


def poses_from_keywords(kind: PoseKind, keywords: PoseKeywords, pictures: int) -> tuple[Pose, ...]:
    """The pose of each view, from numbers that hold for all and lists with one for each.

    Args:
        kind: what the model's fourth number is.
        keywords: those of the group that were set.
        pictures: how many are given: one for all views, or one each.

    Raises:
        RequestError: a keyword that the model does not take, no numbers, or lists of different lengths.
    """
    fourth = _FOURTH[kind]
    (other,) = set(_FOURTH.values()) - {fourth}
    if other in keywords:
        raise RequestError(
            f"got {other} with a model whose fourth number is {fourth} (latentrt inspect shows it), expected "
            f"{fourth}; leave {other} out"
        )
    given: dict[str, Any] = dict(keywords)
    columns = {name: _column(name, given.get(name, 0.0)) for name in ("elevation", "azimuth", fourth)}
    lengths = {name: len(column) for name, column in columns.items() if is_list(given.get(name))}
    if pictures > 1:
        lengths["image"] = pictures
    views = max(lengths.values(), default=1)
    if len(set(lengths.values())) > 1:
        told = " and ".join(f"{count} of {name}" for name, count in lengths.items())
        raise RequestError(f"got {told}, expected equally many; give one for all views, or one per view")
    of_each = {name: column if len(column) == views else column * views for name, column in columns.items()}
    return tuple(Pose(**dict(zip(of_each, row, strict=True))) for row in zip(*of_each.values(), strict=True))


def pose_array(poses: tuple[Pose, ...]) -> Array:
    """Poses as the model takes them: (N, 4) float32."""
    return np.array([pose.numbers for pose in poses], np.float32)


def _column(name: str, value: Any) -> tuple[float, ...]:
    """The values of a keyword: one, or one per view."""
    column = numbers(value, name) if is_list(value) and not isinstance(value, str) else (number(value, name),)
    if not column:
        raise RequestError(f"got an empty list of {name}, expected a number per view; give one")
    allowed = _RANGES[name]
    for one in column:
        if not (math.isfinite(one) and allowed.least <= one <= allowed.most):
            span = "a finite number" if math.isinf(allowed.most) else f"{allowed.least:g} to {allowed.most:g}"
            raise RequestError(f"got {name} {one:g}, expected {span}; {allowed.advice}")
    return column
