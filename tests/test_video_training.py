"""A video model trained from the embedded one: the clips it learns from, the fit it starts with, a whole run."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from safetensors.numpy import load_file
from torch import nn

from latentrt.export.sources.source import checkpoint_from_headers
from latentrt.models import EMBEDDED_MODELS, EMBEDDED_VIDEO
from tests.test_examples import EXAMPLES, icons, run

VIDEO_TRAINING = EXAMPLES / "93_train_video.py"
SHIPPED = EMBEDDED_MODELS[EMBEDDED_VIDEO]
__all__ = ["icons"]  # a fixture


@pytest.fixture
def motion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("emoji_motion")


def ink(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How much of each frame is not white, and where that is: (F, 3) of amount, row and column."""
    dark = 255.0 - frames.mean(axis=-1)
    rows, columns = np.indices(dark.shape[1:])
    amount = dark.sum(axis=(1, 2))
    return np.stack([amount, (dark * rows).sum((1, 2)) / amount, (dark * columns).sum((1, 2)) / amount], axis=1)


def test_a_clip_does_what_its_settings_say(motion: ModuleType) -> None:
    """Rest at first; how far is the motion bucket's, how fast the frame rate's; eight frames at seven make a loop."""
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[24:104, 44:84] = 0
    usual = motion.Take(motion_bucket=127, fps=7, size=0.8)

    def clip(frames: int = 9, **changes: object) -> npt.NDArray[np.float64]:
        return ink(motion.clip_from_picture(picture, replace(usual, **changes), frames, 64))

    hop, still = clip(), clip(motion_bucket=0)
    np.testing.assert_allclose(hop[0], still[0])
    np.testing.assert_allclose(hop[8], hop[0], rtol=1e-3)
    np.testing.assert_allclose(still, np.broadcast_to(still[0], still.shape))
    assert hop[4, 1] - hop[0, 1] == pytest.approx(-7.7, abs=0.1)  # 0.12 of the side
    assert clip(motion_bucket=63.5)[4, 1] - hop[0, 1] == pytest.approx(-3.8, abs=0.1)
    np.testing.assert_allclose(hop[:, 2], hop[0, 2], rtol=1e-3)
    np.testing.assert_allclose(clip(fps=14)[::2], hop[:5])


def test_takes_differ(motion: ModuleType) -> None:
    takes = [motion.random_take(np.random.default_rng(seed)) for seed in range(64)]
    assert len({take.motion_bucket for take in takes}) > 32
    assert all(0 <= take.motion_bucket <= 255 and 5 <= take.fps <= 14 for take in takes)


def test_a_fitted_network_comes_near_one_with_other_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight groups copied into thirty-two: what the weights alone leave of the error, and what the fit leaves."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    fit = importlib.import_module("emoji_fit")
    torch.manual_seed(0)

    class Network(nn.Module):
        """Two ResNet blocks between two convolutions."""

        def __init__(self, groups: int) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
            self.blocks = nn.ModuleList(
                ResnetBlock2D(in_channels=32, temb_channels=None, groups=groups) for _ in range(2)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for block in self.blocks:
                x = block(x, None)
            return cast(torch.Tensor, self.last(x))

    wanted, fitted = Network(8), Network(32)
    for parameter in wanted.parameters():
        nn.init.normal_(parameter, std=0.1)
    fitted.load_state_dict(wanted.state_dict())
    seen, new = torch.rand(24, 3, 12, 12), torch.rand(24, 3, 12, 12)

    def error() -> float:
        with torch.no_grad():
            out = wanted(new)
            return float(
                (
                    fitted(
                        new,
                    )
                    - out
                )
                .square()
                .mean()
                / out.var()
            )

    with torch.no_grad():
        before = error()
    fit.fit_layers(wanted, lambda: wanted(seen), fitted, lambda: fitted(seen), {})
    assert error() < 0.2 * before


@pytest.mark.slow
def test_training_makes_a_video_model(icons: Path, tmp_path: Path) -> None:
    """A folder as diffusers loads it, in fp16, below 24 MB; a second run gives the same weights."""
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    first, second = tmp_path / "first" / "video", tmp_path / "second" / "video"
    for out in (first, second):
        options = ("--data", icons, "--work", out.parent, "--out", out, "--steps", 2, "--threads", 1)
        assert "clips.png" in run(VIDEO_TRAINING, tmp_path, *options)
        assert (out.parent / "clips.png").is_file()
    assert json.loads((first / "model_index.json").read_text())["_class_name"] == "StableVideoDiffusionPipeline"
    assert sum(file.stat().st_size for file in first.rglob("*") if file.is_file()) < 24e6
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        weights, again, shipped = (load_file(folder / name) for folder in (first, second, SHIPPED))
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
        assert {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in shipped.items()}
        if part == "unet":
            assert all(weights[name].any() for name in weights if "temporal_res_block.conv2" in name)


def test_the_embedded_video_model_is_small() -> None:
    """Below 24 MB, in fp16, found by its name, and no path of the machine that it was trained on."""
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 24e6
    for file in files:
        if file.suffix == ".safetensors":
            values = load_file(file)
            assert {value.dtype for value in values.values() if value.dtype.kind == "f"} == {np.dtype(np.float16)}
            assert all(np.isfinite(value).all() for value in values.values())
        else:
            assert "name_or_path" not in file.read_text("utf-8")
    assert checkpoint_from_headers(EMBEDDED_VIDEO).family.name == "svd"
