"""A model of views trained from the embedded one: the cards it learns from, what it begins with, a whole run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

import latentrt
from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.export.sources.source import checkpoint_from_headers
from latentrt.runtime.call.tasks.views.pose import poses_from_keywords
from tests.test_examples import EXAMPLES, icons, run

VIEW_TRAINING = EXAMPLES / "94_train_views.py"
__all__ = ["icons"]  # a fixture


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("emoji_views")


def extent(card: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of what is not white."""
    dark = card.mean(axis=-1) < 200
    return int(dark.any(axis=0).sum()), int(dark.any(axis=1).sum())


def test_a_card_is_seen_as_its_place_says(views: ModuleType) -> None:
    """Narrower from the side, lower from above, smaller from afar; its back is its front in a mirror."""
    cutout = np.zeros((128, 128, 4), np.uint8)
    cutout[:, :64] = (200, 0, 0, 255)
    cutout[:, 64:] = (0, 0, 200, 255)

    def card(**place: float) -> npt.NDArray[np.uint8]:
        drawn: npt.NDArray[np.uint8] = views.card_from_view(cutout, 0.8, views.View(**place), 64)
        return drawn

    front = card()
    assert extent(front) == pytest.approx((51.2, 51.2), abs=1)
    np.testing.assert_array_equal(front[32, [16, 48]], [(200, 0, 0), (0, 0, 200)])
    np.testing.assert_array_equal(card(azimuth=180), front[:, ::-1])
    np.testing.assert_array_equal(card(azimuth=360), front)
    rim = 64 * 0.8 * views.THICKNESS
    assert extent(card(azimuth=60))[0] == pytest.approx(64 * 0.8 * 0.5 + rim * 0.866, abs=1.5)
    assert extent(card(azimuth=90))[0] == pytest.approx(rim + 2, abs=1.5)
    assert extent(card(elevation=60))[1] == pytest.approx(64 * 0.8 * 0.5 + rim * 0.866, abs=1.5)
    assert extent(card(distance=1)) == pytest.approx((25.6, 25.6), abs=1)


def test_the_rim_is_on_the_side_that_the_camera_leaves(views: ModuleType) -> None:
    """From the right the front turns to the left, and the rim shows to the right of it."""
    cutout = np.full((128, 128, 4), (200, 200, 200, 255), np.uint8)
    rims = {}
    for azimuth in (-40, 40):
        row = views.card_from_view(cutout, 0.8, views.View(azimuth=azimuth), 64)[32, :, 0]
        rims[azimuth] = np.flatnonzero(row < 150).mean()
    assert rims[-40] < 20
    assert rims[40] > 44


def test_a_view_is_told_as_the_runtime_tells_it(views: ModuleType) -> None:
    for seed in range(8):
        view = views.random_view(np.random.default_rng(seed))
        (pose,) = poses_from_keywords(PoseKind.DISTANCE, vars(view), 1)
        np.testing.assert_allclose(view.numbers, pose.numbers, atol=1e-12)


def test_random_views_differ(views: ModuleType) -> None:
    places = [views.random_view(np.random.default_rng(seed)) for seed in range(64)]
    assert 16 < sum(place.elevation == 0 for place in places) < 48
    assert 16 < sum(place.distance == 0 for place in places) < 48
    assert len({place.azimuth for place in places}) == 64


@pytest.mark.slow
def test_training_makes_a_model_of_views(icons: Path, tmp_path: Path) -> None:
    """A folder that is known, in fp16, below 24 MB; a second run gives the same weights, and every layer learns."""
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    first, second = tmp_path / "first" / "views", tmp_path / "second" / "views"
    for out in (first, second):
        options = ("--data", icons, "--work", out.parent, "--out", out, "--steps", 2, "--threads", 1)
        assert "turns.png" in run(VIEW_TRAINING, tmp_path, *options)
        assert (out.parent / "turns.png").is_file()
    assert checkpoint_from_headers(str(first)).family.name == "zero123"
    assert sum(file.stat().st_size for file in first.rglob("*") if file.is_file()) < 24e6
    for name in ("unet/diffusion_pytorch_model", "image_encoder/model", "cc_projection/diffusion_pytorch_model"):
        weights, again = (load_file(folder / f"{name}.safetensors") for folder in (first, second))
        assert {value.dtype for value in weights.values() if value.dtype.kind == "f"} == {np.dtype(np.float16)}
        assert all(np.array_equal(weights[key], again[key]) for key in weights)
        if name.startswith("unet"):
            assert weights["conv_in.weight"][:, 4:].any()
            assert all(weights[key].any() for key in weights if ".proj_out.weight" in key)


@pytest.mark.slow
def test_the_training_draws_as_the_runtime_does(
    icons: Path, tmp_path: Path, views: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views of a bundle that is built of its folder, against those of the loop that draws its sheet."""
    torch = pytest.importorskip("torch")
    zero123: Any = importlib.import_module("emoji_zero123")
    out = tmp_path / "emoji-views"
    run(VIEW_TRAINING, tmp_path, "--data", icons, "--work", tmp_path, "--out", out, "--steps", 2, "--threads", 1)
    assert not [line for line in json.loads((out / "model_index.json").read_text()).values() if "/" in line]
    cutout = np.zeros((128, 128, 4), np.uint8)
    cutout[30:90, 40:100] = (200, 120, 0, 255)
    card = views.card_from_view(cutout, 0.8, views.View(), 64)
    places = [views.View(azimuth=60), views.View(elevation=20, azimuth=-100, distance=0.3)]
    parts, vae = zero123.load_checkpoint(out)
    expected = zero123.draw_views(
        parts,
        vae,
        torch.from_numpy(card).permute(2, 0, 1).float().div(127.5).sub(1),
        [place.numbers for place in places],
        sizes=zero123.Sizes(),
        steps=4,
        guidance=2.0,
        seed=3,
    )
    latentrt.build(out, tmp_path / "views.bundle")
    with latentrt.open(tmp_path / "views.bundle") as pipe:
        drawn = pipe.view(
            card,
            **{name: [getattr(place, name) for place in places] for name in ("elevation", "azimuth", "distance")},
            num_inference_steps=4,
            guidance_scale=2.0,
            seed=[3, 3],
            output_type="np",
        ).images
    theirs = expected.add(1).div(2).permute(0, 2, 3, 1).numpy()
    error = np.square(np.asarray(drawn) - theirs).mean()
    assert -10 * np.log10(error) > 50
