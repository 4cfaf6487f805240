"""``latentrt img2vid``: videos of pictures, each written as it is drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.runtime.pictures.picture_file import settings_from_parameters

FAST = ("--steps", 1, "--max-guidance", 1)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "house.png"
    Image.effect_noise((32, 32), 90).convert("RGB").save(path)
    return path


def test_videos(command: Callable[..., Any], tiny_svd_bundle: Path, picture: Path, tmp_path: Path) -> None:
    """Each with its seed and its settings; previews on the way."""
    told = (
        "--fps",
        12,
        "--motion-bucket",
        90,
        "--noise-aug",
        0.1,
        "--decode-chunk",
        3,
        "--preview",
        tmp_path / "p.png",
    )
    pattern = tmp_path / "{prompt}-{seed}.webp"
    done = command("img2vid", tiny_svd_bundle, picture, *FAST, *told, "--count", 2, "--seed", 7, "-o", pattern)
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{tmp_path / 'house-7.webp'}  (seed 7)"
    assert done.stdout.splitlines()[-1].startswith("2 videos in ")
    for seed in (7, 8):
        path = tmp_path / f"house-{seed}.webp"
        with Image.open(path) as clip:
            assert (clip.n_frames, clip.size) == (4, (32, 32))  # type: ignore[attr-defined]
        settings = settings_from_parameters(str(latentrt.read_parameters(path)))
        found = [settings[name] for name in ("Seed", "FPS", "Motion bucket", "Noise augmentation", "Decode chunk")]
        assert found == [str(seed), "12", "90", "0.1", "3"]
    with Image.open(tmp_path / "p.png") as strip:
        assert strip.size == (4 * 16, 16)


def test_json_and_latents(command: Callable[..., Any], tiny_svd_bundle: Path, picture: Path, tmp_path: Path) -> None:
    """One object; the latents are the video's."""
    out = tmp_path / "clip.npy"
    done = command("img2vid", tiny_svd_bundle, picture, *FAST, "--seed", 7, "--json", "-o", out)
    assert done.status == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["videos"][0]["clip"]["frames"] == 4
    assert np.load(out).shape == (1, 4, 4, 16, 16)


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "frames": (("--frames", 14), "got 14 frames of 32x32, but the bundle has 32x32x4f, 48x32x3f"),
    "fps": (("--fps", 0), "got fps 0, expected 1 to 1000"),
    "motion": (("--motion-bucket", -1), "got motion_bucket_id -1"),
    "size": (("--size", "64x64"), "got 4 frames of 64x64"),
    "form": (("--size", "wide"), "got size 'wide', expected WIDTHxHEIGHT"),
    "count": (("--count", 0), "got count 0, expected 1 to"),
    "suffix": (("-o", "clip.jpg"), "got output 'clip.jpg', expected a name that ends in"),
    "gif": (("-o", "clip.gif", "--fps", 60), "got fps 60 for .gif"),
    "preview": (("--preview", "p.jpg"), "got preview 'p.jpg'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be(
    command: Callable[..., Any],
    tiny_svd_bundle: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """One sentence, and nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    told, sentence = REFUSED[name]
    done = command("img2vid", tiny_svd_bundle, picture, *told)
    assert done.status == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2  # a warning may stand before it
    assert [path.name for path in tmp_path.iterdir()] == ["house.png"]


def test_other_models(command: Callable[..., Any], tiny_bundle: Path, tiny_svd_bundle: Path, picture: Path) -> None:
    """Both ways."""
    done = command("img2vid", tiny_bundle, picture)
    assert done.status == 2
    assert "got image-to-video with a model that draws pictures from text" in done.stderr
    done = command("generate", tiny_svd_bundle, "a cat")
    assert done.status == 2
    assert "a model that draws videos" in done.stderr
