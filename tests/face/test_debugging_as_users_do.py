"""Debugging as a user with a black picture does: from what is refused or drawn to a bundle that is as it should be."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_faults import CONV, disturbed, enlarged, found, part_of, planted
from safetensors.numpy import load_file, save_file
from shared import no_preview_fitted

import latentrt
from latentrt.debugging.drawn_runs import Drawing
from latentrt.debugging.marks import marks_of
from latentrt.debugging.tensorrt_side import TensorRTSide
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.spec import Array
from latentrt.quantization.settings import Effort

pytestmark = pytest.mark.slow

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
CAT = Drawing(prompt="a cat", seed=3, steps=2)


def test_attention_scores(tiny_bundle: Path, tmp_path: Path) -> None:
    """Queries and keys fit into fp16 and their products do not, so the attention is named, and mended in fp32."""

    def larger(weight: Array) -> Array:
        return weight * np.float32(300.0)

    over = planted(tiny_bundle, tmp_path / "queries.bundle", "unet", f"{ATTENTION}.to_q.weight", larger)
    over = planted(over, tmp_path / "over.bundle", "unet", f"{ATTENTION}.to_k.weight", larger)
    # Which key is the nearest may change by rounding alone
    findings = found(over, precision="fp16", run=0, suggest=True, tolerance=0.05)
    place = findings.not_finite
    assert place is not None
    assert (place.mark.module, place.mark.operator) == (f"unet.{ATTENTION}", "Attention")
    assert np.isfinite(place.takes)
    assert findings.furthest is not None
    assert findings.furthest.figures.expected < 1000
    suggested = findings.suggestion
    assert suggested is not None
    assert suggested.mends
    assert [(one.scope, one.reason) for one in suggested.islands] == [(f"unet.{ATTENTION}", "attention scores")]


@pytest.fixture
def overflowing_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with a convolution whose results fp16 cannot hold."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (file,) = (folder / "unet").glob("*.safetensors")
    weights = load_file(file)
    weights[CONV] = enlarged(weights[CONV])
    save_file(weights, file, {"format": "pt"})
    return folder


def test_from_a_refused_build_to_one_that_draws(
    overflowing_checkpoint: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the command; what that suggests builds, as options and as rows; no number is lost then."""
    model, bundles = overflowing_checkpoint, {name: tmp_path / f"{name}.bundle" for name in ("fp32", "options", "rows")}
    refused = command("build", model, "-o", tmp_path / "refused.bundle", "--precision", "fp16")
    assert refused.status == 2
    assert "latentrt debug --component unet --precision fp16 --suggest" in refused.stderr
    with no_preview_fitted():
        latentrt.build(model, bundles["fp32"])
        told = command("debug", bundles["fp32"], "--precision", "fp16", "--suggest", "--json", "--threads", 1)
        assert told.status == 0, told.stderr
        suggested = json.loads(told.stdout)["suggestion"]
        assert suggested["mends"]
        latentrt.build(model, bundles["options"], precision="fp16", fp32=suggested["fp32"])
        known = {"Island": Island, "Precision": Precision}
        rows = [eval(text.removesuffix(","), known) for text in suggested["rows"]]
        monkeypatch.setattr("latentrt.engines.graphs.islands.ISLANDS", (*_islands(), *rows))
        latentrt.build(model, bundles["rows"], precision="fp16")
    kept = [open_bundle(bundles[name]).manifest.components["unet"].islands for name in ("options", "rows")]
    assert sum(kept[0].values()) == sum(kept[1].values()) > len(suggested["fp32"])
    for name in ("options", "rows"):
        findings = found(bundles[name])
        assert findings.not_finite is findings.apart is None
        with latentrt.open(bundles[name]) as pipe:
            assert np.isfinite(pipe("a cat", num_inference_steps=2, output_type="np").images[0]).all()


def _islands() -> tuple[Island, ...]:
    from latentrt.engines.graphs.islands import ISLANDS

    return ISLANDS


def drawing_bundle(source: Path, folder: Path, changed: Callable[[Array], Array]) -> Path:
    """A bundle with another convolution, and engines that no gate has seen."""
    made = planted(source, folder, "unet", CONV, changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentrt.engines.bundle.checks.gate.gate", lambda *those: None)
        latentrt.build(made)
    return made


def test_what_a_picture_is_drawn_with(tiny_bundle: Path, tmp_path: Path) -> None:
    """Each call of the U-Net is a run; what overflows there is found as in recorded runs."""
    whole = found(tiny_bundle, drawing=CAT)
    assert whole.runs >= CAT.steps == 2
    assert whole.not_finite is whole.apart is None
    assert not whole.torch
    over = drawing_bundle(tiny_bundle, tmp_path / "over.bundle", enlarged)
    findings = found(over, precision="fp16", drawing=CAT, run=0, modules="unet.mid_block.*", suggest=True)
    assert findings.not_finite is not None
    assert findings.not_finite.mark.module == "unet.mid_block.resnets.0.conv1"
    assert findings.suggestion is not None
    assert findings.suggestion.mends
    with pytest.raises(RequestError, match="got run 99, expected one from 0 to"):
        found(tiny_bundle, drawing=CAT, run=99)
    with pytest.raises(RequestError, match="got vae_encoder to debug by a picture that is drawn without it"):
        found(tiny_bundle, "vae_encoder", drawing=CAT)


def test_the_first_run_without_numbers(tiny_bundle: Path, tmp_path: Path) -> None:
    """Where a picture breaks as it is drawn, the run in which it does is the one to look at."""

    def broken(weight: Array) -> Array:
        weight[0] = np.nan
        return weight

    nan = drawing_bundle(tiny_bundle, tmp_path / "nan.bundle", broken)
    findings = found(nan, drawing=CAT, reference=tiny_bundle)
    assert findings.runs == 1
    assert findings.not_finite is not None
    assert findings.not_finite.mark.module.startswith("unet.mid_block.resnets.0.")


def test_bf16(tiny_bundle: Path, tmp_path: Path) -> None:
    """A bundle in fp32 is debugged as a build in bf16 would have it: a wrong weight, islands for what rounds most."""
    as_built = found(tiny_bundle, precision="bf16", run=0)
    assert "rounded to bf16" in as_built.suspect
    assert as_built.not_finite is as_built.apart is None
    assert 1e-3 < max(place.figures.error for place in as_built.places) < as_built.tolerance == 0.1
    strict = found(tiny_bundle, precision="bf16", run=0, suggest=True, tolerance=1e-2)
    assert strict.suggestion is not None
    assert strict.suggestion.mends
    assert {island.precisions for island in strict.suggestion.islands} == {(Precision.BF16,)}
    weight = "up_blocks.0.resnets.1.conv2.weight"
    wrong = planted(tiny_bundle, tmp_path / "wrong.bundle", "unet", weight, disturbed)
    findings = found(wrong, precision="bf16", reference=tiny_bundle, run=0)
    assert findings.apart is not None
    assert findings.apart.mark.module == "unet.up_blocks.0.resnets.1.conv2"
    assert list(findings.different_weights) == [weight]


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_a_bundle_in_bf16(
    tiny_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Every component of it; where OpenVINO computes, and where every result is rounded."""
    pytest.importorskip("openvino")
    monkeypatch.setattr("latentrt.bf16.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))
    made, source = tmp_path / "bf16.bundle", shutil.copytree(tiny_bundle, tmp_path / "fp32.bundle")
    latentrt.build(source, made, precision="bf16", prompts=int8_prompts, quality=30.0)
    for component in open_bundle(made).manifest.components:
        findings = found(made, component, backend=backend, run=0)
        assert findings.not_finite is None
        assert findings.places[-1].figures.error < findings.tolerance
        assert findings.torch["suspect"].psnr > 40


@pytest.fixture(scope="module")
def eight_bits(
    tiny_bundle: Path, int8_prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The tiny model in eight bits for GPUs."""
    pytest.importorskip("tensorrt_rtx")

    def built(precision: str) -> Path:
        folder = tmp_path_factory.mktemp(precision)
        source = shutil.copytree(tiny_bundle, folder / "fp32.bundle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=2, calls=1))
            patch.setattr("latentrt.engines.bundle.checks.gate.gate", lambda *those: None)  # random weights miss it
            options: dict[str, Any] = {"precision": precision, "prompts": int8_prompts, "quality": 5.0}
            latentrt.build(source, folder / "made.bundle", backend="tensorrt-rtx", gpus=["sm89"], **options)
        return folder / "made.bundle"

    return built


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_eight_bits_for_gpus(
    eight_bits: Callable[[str], Path], tiny_bundle: Path, tmp_path: Path, precision: str
) -> None:
    """What is not in eight bits is rounded to fp16; what does not compute it is refused; a plan shows all tensors."""
    made = eight_bits(precision)
    findings = found(made, run=0)
    assert "rounded to fp16" in findings.suspect
    assert findings.end == 65504
    assert findings.not_finite is None
    assert max(place.figures.error for place in findings.places) > 0
    against = found(made, run=0, reference=tiny_bundle)
    assert len(against.places) > 100
    assert against.torch["reference"].psnr > 100
    assert any(place.mark.operator == "DequantizeLinear" for place in findings.places)
    with pytest.raises(RequestError, match=r"got suggest for unet in .*; name the bundle in fp32 .*--precision fp16"):
        found(made, suggest=True)
    with pytest.raises(RequestError, match=f"got (precision|backend).*{precision}"):
        found(made, backend="openvino")
    rtx = pytest.importorskip("tensorrt_rtx")
    part, feeds = part_of(made, "unet")
    side = TensorRTSide(part, Backend.TENSORRT_RTX, tmp_path, rtx.ComputeCapability.SM89)
    assert side.plan([mark.tensor for mark in marks_of(load_graph(part.component.onnx))], feeds[:1])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_polygraphy_runs_what_was_saved(
    tiny_bundle: Path, tmp_path: Path, command: Callable[..., Any], precision: str
) -> None:
    """The command that is printed passes; with another weight in the graph it fails."""
    some = ("--run", 0, "--modules", "*.mid_block.*", "--threads", 1, "--save", tmp_path)
    told = command("debug", tiny_bundle, *some, *(("--precision", precision) if precision != "fp32" else ()))
    assert told.status == 0, told.stderr
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("saved")]
    name, *arguments = line.removeprefix("saved").split()
    assert name == "polygraphy"

    def ran() -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(name)
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)

    passed = ran()
    assert passed.returncode == 0, passed.stdout[-2000:] + passed.stderr[-2000:]
    assert "PASSED" in passed.stdout
    weights = tmp_path / "model.onnx.data"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    assert ran().returncode == 1
