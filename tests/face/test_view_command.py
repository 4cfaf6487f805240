"""``latentrt view`` and ``variation``: files, turntables, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

FAST = ("--steps", 1, "--seed", 7)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A green square before nothing, in a folder with nothing else."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 255, 0, 255), (10, 10, 30, 30))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "square.png")
    return tmp_path / "in" / "square.png"


def settings(path: Path) -> dict[str, str]:
    """Those in a picture's file."""
    return settings_from_parameters(str(read_parameters(path)))


def test_views_are_numbered(
    command: Callable[..., Any], tiny_zero123_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    """One file each, with equal noise: the view alone differs."""
    out = tmp_path / "v.png"
    done = command("view", tiny_zero123_bundle, picture, *FAST, "--azimuth", "-30,0,30", "--elevation", 5, "-o", out)
    assert done.status == 0, done.stderr
    told = [settings(tmp_path / f"v-{index}.png") for index in range(3)]
    assert [one["Azimuth"] for one in told] == ["-30", "0", "30"]
    assert {one["Seed"] for one in told} == {"7"}
    assert {one["Elevation"] for one in told} == {"5"}
    assert len({(tmp_path / f"v-{index}.png").read_bytes() for index in range(3)}) == 3
    assert done.stdout.splitlines()[-1].startswith("3 pictures in ")


@pytest.mark.parametrize(
    "suffix", [".webp", pytest.param(".apng", marks=pytest.mark.slow), pytest.param(".gif", marks=pytest.mark.slow)]
)
def test_a_turntable_is_an_animation(
    command: Callable[..., Any], tiny_zero123_bundle: Path, picture: Path, tmp_path: Path, suffix: str
) -> None:
    """With the settings of all views inside."""
    out = tmp_path / f"turn{suffix}"
    done = command("view", tiny_zero123_bundle, picture, *FAST, "--turntable", 5, "--fps", 10, "-o", out)
    assert done.status == 0, done.stderr
    with Image.open(out) as clip:
        assert (clip.n_frames, clip.size) == (5, (32, 32))
    assert done.stdout.splitlines()[0] == f"{out}  (5 views, seed 7)"


def test_a_turntable_is_a_sheet(
    command: Callable[..., Any], tiny_zero123_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    """With the places of all views in its settings; what the last row lacks is white."""
    out = tmp_path / "turn.png"
    done = command("view", tiny_zero123_bundle, picture, *FAST, "--turntable", 8, "--azimuth", 10, "--json", "-o", out)
    assert done.status == 0, done.stderr
    assert settings(out)["Azimuth"] == "10, 55, 100, 145, 190, 235, 280, 325"
    told = json.loads(done.stdout)
    assert told["path"] == str(out)
    assert [one["poses"][0]["azimuth"] for one in told["pictures"]][:2] == [10.0, 55.0]
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[0] < sheet.shape[1]
    assert (sheet[-100:, -100:] == 255).all()


def test_variations_are_drawn_in_batches(
    command: Callable[..., Any], picture_bundle: Callable[[str], Path], picture: Path, tmp_path: Path
) -> None:
    """Seeds count up; each is the picture that its seed draws alone."""
    bundle = picture_bundle("sd-image-variations")
    done = command("variation", bundle, picture, *FAST, "--count", 3, "-o", tmp_path / "v.png")
    assert done.status == 0, done.stderr
    assert [settings(tmp_path / f"v-{index}.png")["Seed"] for index in range(3)] == ["7", "8", "9"]
    command("variation", bundle, picture, "--steps", 1, "--seed", 9, "-o", tmp_path / "alone.png")
    np.testing.assert_allclose(*(np.asarray(Image.open(tmp_path / f"{n}.png"), int) for n in ("alone", "v-2")), atol=1)


REFUSED = {
    "suffix": ("view {views} {picture} --turntable 4 -o {tmp}/t.bmp", "t.bmp", "choose .webp for an animation"),
    "one view": ("view {views} {picture} --turntable 1 -o {tmp}/t.webp", "got --turntable 1", "12 are common"),
    "two azimuths": ("view {views} {picture} --turntable 4 --azimuth 1,2 -o {tmp}/t.webp", "give one of them"),
    "speed alone": ("view {views} {picture} --fps 4 -o {tmp}/t.png", "got --fps without --turntable"),
    "speed": ("view {views} {picture} --turntable 4 --fps 0 -o {tmp}/t.webp", "got fps 0"),
    "text": ("view {views} {picture} --azimuth left -o {tmp}/t.png", "got --azimuth 'left', expected numbers"),
    "lists": ("view {views} {picture} --azimuth 1,2 --elevation 1,2,3 -o {tmp}/t.png", "3 of elevation"),
    "other kind": ("view {views} {picture} --image-elevation 9 -o {tmp}/t.png", "fourth number is distance"),
    "no picture": ("view {views} {tmp}/none.png -o {tmp}/t.png", "cannot read the picture"),
    "there": ("view {views} {picture} --turntable 4 -o {picture}", "there already"),
    "other model": ("variation {views} {picture} -o {tmp}/t.png", "use view"),
    "prompt": ("view {views} {picture} --negative red -o {tmp}/t.png", "--negative"),
    "text model": ("view {text} {picture} -o {tmp}/t.png", "a model that draws pictures from text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(
    command: Callable[..., Any],
    tiny_zero123_bundle: Path,
    tiny_bundle: Path,
    picture: Path,
    tmp_path: Path,
    case: str,
) -> None:
    """And nothing is written."""
    line, *fragments = REFUSED[case]
    places = {"views": tiny_zero123_bundle, "text": tiny_bundle, "picture": picture, "tmp": tmp_path}
    done = command(*(word.format(**places) for word in line.split()))
    assert done.status == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for fragment in fragments:
        assert fragment in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
