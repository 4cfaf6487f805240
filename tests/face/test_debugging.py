"""Debugging a component: planted faults are found by module, and islands mend what overflows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_faults import CONV, disturbed, enlarged, found, part_of, planted

from latentrt.cli.app import main
from latentrt.debugging.findings import Findings
from latentrt.debugging.marks import marks_of
from latentrt.debugging.tensorrt_side import TensorRTSide
from latentrt.engines.errors import EngineError, LatentrtError, RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Backend


@pytest.fixture(scope="module")
def overflowing(half_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in fp16 with a convolution whose results fp16 cannot hold."""
    return planted(half_bundle, tmp_path_factory.mktemp("debugging") / "over.bundle", "unet", CONV, enlarged)


def test_an_overflow_is_found_by_module_and_mended(overflowing: Path, tmp_path: Path) -> None:
    """Infinity begins in the planted convolution; it is gone with this and what takes its results in fp32."""
    findings = found(overflowing, run=0, modules="unet.mid_block.*", suggest=True, save=tmp_path)
    place = findings.not_finite
    assert place is not None
    assert place.mark.module == "unet.mid_block.resnets.0.conv1"
    assert place.mark.operator == "Conv"
    assert findings.apart is not None
    assert findings.apart.mark == place.mark
    assert np.isfinite(place.takes)
    assert place.figures.expected > 65504
    assert np.isnan(findings.torch["suspect"].psnr)
    assert findings.reference_off  # its graph has the planted weight, too
    suggested = findings.suggestion
    assert suggested is not None
    assert suggested.mends
    scopes = {island.scope for island in suggested.islands}
    assert "unet.mid_block.resnets.0.conv1" in scopes
    assert all(scope.startswith("unet.mid_block.resnets.0") for scope in scopes)
    _check_saved(tmp_path, findings)


def _check_saved(folder: Path, findings: Findings) -> None:
    """Polygraphy reads what was saved: every tensor of both sides, and inputs that the graph takes."""
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    (inputs,) = load_json(str(folder / "inputs.json"))
    assert set(inputs) == {"sample", "timestep", "encoder_hidden_states"}
    for side in ("suspect", "reference"):
        ((name, (result,)),) = RunResults.load(str(folder / f"{side}.json"))
        assert name == side
        assert set(result) == {place.mark.tensor for place in findings.places}
    assert (folder / "model.onnx").is_file()


def test_a_wrong_weight_is_found_by_module(half_bundle: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Against the bundle in fp32 the first tensor that is off is made by the wrong weight, which is named."""
    wrong = planted(half_bundle, tmp_path / "wrong.bundle", "unet", "up_blocks.0.resnets.1.conv2.weight", disturbed)
    findings = found(wrong, run=0, reference=tiny_bundle)
    assert findings.apart is not None
    assert findings.apart.mark.module == "unet.up_blocks.0.resnets.1.conv2"
    assert list(findings.different_weights) == ["up_blocks.0.resnets.1.conv2.weight"]
    assert findings.not_finite is None
    first = next(row for row in findings.modules if row.figures.error > findings.tolerance)
    assert first.module == "unet.up_blocks.0.resnets.1"
    assert first.takes < findings.tolerance


def test_where_nothing_is_wrong(half_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounding alone keeps below the tolerance; the command says so, and gives the table as data."""
    with pytest.raises(SystemExit) as stop:
        main(["debug", str(half_bundle), "--component", "text_encoder", "--threads", "1", "--suggest", "--json"])
    assert stop.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["apart"] is told["not_finite"] is told["suggestion"] is None
    assert 0 < max(row["error"] for row in told["modules"]) < told["tolerance"]
    assert told["recorded"]["suspect"]["psnr"] > 45


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "openvino-npu"}, "expected one of ort-cpu, openvino"),
        ({"backend": "ort"}, "got backend 'ort', expected"),
        ({"run": 99}, "got run 99, expected one from 0"),
        ({"suggest": True}, "got suggest for unet in fp32"),
        ({"backend": "tensorrt-rtx"}, "CUDA"),
    ],
)
def test_what_is_refused(tiny_bundle: Path, settings: dict[str, object], message: str) -> None:
    """In one sentence, before anything is run."""
    with pytest.raises((RequestError, EngineError), match=message):
        found(tiny_bundle, **settings)
    with pytest.raises(LatentrtError, match="got component 'net', expected one of"):
        found(tiny_bundle, "net")


def test_openvino_shows_every_tensor(tiny_bundle: Path, tmp_path: Path) -> None:
    """By the names of the ONNX; a wrong weight is found there, too."""
    pytest.importorskip("openvino")
    weight = "layers.1.mlp.fc1.weight"
    wrong = planted(tiny_bundle, tmp_path / "wrong.bundle", "text_encoder", f"text_model.encoder.{weight}", disturbed)
    findings = found(wrong, "text_encoder", backend="openvino", reference=tiny_bundle, run=0)
    assert findings.hidden == 0
    assert findings.apart is not None
    assert findings.apart.mark.module == "layers.1.mlp.fc1"
    assert findings.torch["reference"].psnr > 100 > findings.torch["suspect"].psnr


@pytest.mark.parametrize("name", ["text_encoder", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_plan_that_shows_every_tensor_builds(half_bundle: Path, tmp_path: Path, name: str) -> None:
    """For sm89, without a GPU: by Polygraphy's loaders, strongly typed, with an island that was made afterwards."""
    rtx = pytest.importorskip("tensorrt_rtx")
    part, feeds = part_of(half_bundle, name)
    islands = (Island(component=name, scope="*.mlp.fc1", reason="tried"),)
    side = TensorRTSide(replace(part, islands=islands), Backend.TENSORRT_RTX, tmp_path, rtx.ComputeCapability.SM89)
    tensors = [mark.tensor for mark in marks_of(load_graph(part.component.onnx))]
    assert side.tensors == set(tensors)
    assert len(side.plan(tensors, feeds)) > part.component.onnx_bytes / 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_a_wrong_weight_in_what_was_compiled(tiny_bundle: Path, tmp_path: Path, backend: str) -> None:
    """In fp32 the graphs that backends make are looked into."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    wrong = planted(tiny_bundle, tmp_path / "wrong.bundle", "unet", "conv_in.weight", disturbed)
    findings = found(wrong, backend=backend, reference=tiny_bundle)
    assert findings.apart is not None
    assert findings.apart.mark.module in ("unet.conv_in", "unet.down_blocks.0.resnets.0.norm1")
    assert findings.torch["reference"].psnr > 100 > findings.torch["suspect"].psnr
