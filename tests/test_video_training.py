"""A video model trained from the embedded one: the clips it learns from, the fit it starts with, a whole run."""

from __future__ import annotations

import importlib
import json
import sys
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

from tests.test_examples import EXAMPLES, icons, run

VIDEO_TRAINING = EXAMPLES / "93_train_video.py"
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
    rest = motion.Take(motion=motion.Motion.SLIDE, mirrored=False, motion_bucket=127, fps=7, size=0.8)

    def clip(frames: int = 9, **changes: object) -> npt.NDArray[np.float64]:
        return ink(motion.clip_from_picture(picture, replace(rest, **changes), frames, 64))

    slide, hop = clip(), clip(motion=motion.Motion.HOP)
    turn, scale = clip(motion=motion.Motion.TURN), clip(motion=motion.Motion.SCALE)
    for moved in (slide, hop, turn, scale):
        np.testing.assert_allclose(moved[0], slide[0])
        np.testing.assert_allclose(moved[8], moved[0], rtol=1e-3)
    assert np.allclose(clip(motion_bucket=0), slide[0])
    assert slide[2, 2] - slide[0, 2] == pytest.approx(6.4, abs=0.1)  # a tenth of the side
    assert clip(motion_bucket=254)[2, 2] - slide[0, 2] == pytest.approx(12.8, abs=0.1)
    assert clip(mirrored=True)[2, 2] - slide[0, 2] == pytest.approx(-6.4, abs=0.1)
    np.testing.assert_allclose(clip(fps=14)[::2], slide[:5])
    assert hop[4, 1] - hop[0, 1] == pytest.approx(-7.7, abs=0.1)
    assert scale[4, 0] < 0.7 * scale[0, 0]
    np.testing.assert_allclose(turn[:, 0], turn[0, 0], rtol=0.01)
    tilted = motion.clip_from_picture(picture, replace(rest, motion=motion.Motion.TURN), 3, 64)[2]
    assert np.abs(tilted.astype(int) - tilted[:, ::-1]).max() > 200


def test_takes_differ(motion: ModuleType) -> None:
    takes = [motion.random_take(np.random.default_rng(seed)) for seed in range(64)]
    assert {take.motion for take in takes} == set(motion.Motion)
    assert {take.mirrored for take in takes} == {True, False}
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
        weights, again = (load_file(out / part / "diffusion_pytorch_model.safetensors") for out in (first, second))
        assert {value.dtype for value in weights.values()} == {np.dtype(np.float16)}
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
        if part == "unet":
            assert all(weights[name].any() for name in weights if "temporal_res_block.conv2" in name)
    assert str(sys.prefix) not in (first / "unet" / "config.json").read_text()
