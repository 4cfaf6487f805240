"""fp8 from the command line: refused where nothing computes it; built, judged and described."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.precision import Precision
from latentrt.quantization.settings import Effort


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--backend", "ort-cpu"), "got precision fp8 for backend ort-cpu, which does not compute it, expected"),
        (("--backend", "openvino"), "build with --backend tensorrt-rtx --gpu sm89, or in int8 for CPUs"),
        (("--backend", "tensorrt-rtx", "--gpu", "sm86", "--gpu", "sm89"), "got precision fp8 for sm86, expected GPUs"),
        (("--backend", "tensorrt-rtx", "--gpu", "sm89", "--lora-ready"), "got lora-ready for fp8"),
        (("--backend", "tensorrt-rtx", "--gpu", "sm89", "--fp32", "unet"), "got fp32 unet for a bundle in fp8"),
    ],
)
def test_wishes_that_cannot_be_met(
    arguments: tuple[str, ...], reason: str, emoji_bundle: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A sentence each, before anything is drawn."""
    if "tensorrt-rtx" in arguments:
        pytest.importorskip("tensorrt_rtx")
    ran = command("build", emoji_bundle, "-o", tmp_path / "x.bundle", "--precision", "fp8", *arguments)
    assert ran.status == 2
    assert reason in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "x.bundle").exists()


@pytest.mark.slow
def test_the_embedded_model_in_fp8(
    emoji_bundle: Path,
    int8_prompts: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plans for two architectures; pictures as near as asked for, with attention; what CPUs say of it."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))
    source, output = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle"), tmp_path / "fp8.bundle"
    wishes = (source, "-o", output, "--precision", "fp8", "--prompts", int8_prompts, "--quality", 24)
    gpus = ("--backend", "tensorrt-rtx", "--gpu", "sm89", "--gpu", "sm120")
    ran = command("build", *wishes, *gpus)
    assert ran.status == 0, ran.stderr
    bundle = open_bundle(output)
    bundle.check_all()
    assert bundle.manifest.precision is Precision.FP8
    unet, before = bundle.manifest.components["unet"], open_bundle(source).manifest.components["unet"]
    told = unet.quantization
    assert told is not None
    assert (told.recipe, unet.precision, bundle.manifest.components["vae_decoder"].precision) == (
        Recipe.E4M3,
        "fp8",
        "fp32",
    )
    assert told.psnr_mean >= 24.0
    assert told.attention is not None
    assert told.attention.attentions == 14
    assert [(point.step, point.floating) for point in told.frontier] == [(None, 0)]
    assert unet.weights is not None
    assert before.weights is not None
    sizes = [manifest.files[str(part.weights)].size for manifest, part in (
        (bundle.manifest, unet), (open_bundle(source).manifest, before))]  # fmt: skip
    assert sizes[0] <= 0.3 * sizes[1]
    weights = bundle.weights("unet")
    assert all(row.reason is None for row in weights.named.weights.values())
    shown = command("inspect", output).stdout
    assert "unet in fp8 (e4m3" in shown
    assert "time of a call on a GPU" in shown
    assert json.loads(command("inspect", output, "--json").stdout)["components"]["unet"]["quantization"]["attention"]
    assert "up to date" in command("build", *wishes, *gpus).stdout
    for backend in ("ort-cpu", "openvino"):
        refused = command("build", output, "--backend", backend)
        assert refused.status == 2
        assert f"got precision fp8 for backend {backend}" in refused.stderr
        refused = command("generate", output, "cat", "-o", tmp_path / "cat.png", "--backend", backend)
        assert refused.status == 2
        assert f"{backend} does not compute fp8" in refused.stderr
