"""Where a call of the U-Net goes: operators as ONNX Runtime's profiler tells them."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from latentrt.benchmarks.bench.machine import operators
from latentrt.benchmarks.bench.machine.operators import operator_seconds, seconds_of_trace
from latentrt.benchmarks.peers.arithmetic.onnx_trace import PRODUCTS
from latentrt.engines.backends.ort_cpu.model import MODEL_FILE
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import profile_from_text
from latentrt.engines.store.store import compiled_folder


def event(operator: str, node: str, microseconds: int, kind: str = "kernel_time") -> dict[str, object]:
    return {"cat": "Node", "name": f"{node}_{kind}", "dur": microseconds, "args": {"op_name": operator}}


def test_medians_of_nodes_are_summed_by_operator() -> None:
    """Three calls: the first is left out, and what is no kernel does not count."""
    events = [
        {"cat": "Session", "name": "model_run", "dur": 10**9},
        *(event("Conv", "a", time) for time in (90000, 10, 30)),
        *(event("Conv", "b", time) for time in (90000, 100, 100)),
        *(event("Add", "c", time) for time in (90000, 500, 700)),
        event("Conv", "a", 10**8, "fence_before"),
    ]
    found = seconds_of_trace(events, 2)
    assert list(found) == ["Add", "Conv"]
    assert found == pytest.approx({"Add": 600e-6, "Conv": 120e-6})


def test_both_halves_of_the_first_call_are_left_out() -> None:
    """Two events a call."""
    events = [event("Conv", "a", time) for time in (90000, 90000, 10, 30, 20, 20)]
    assert seconds_of_trace(events, 2) == pytest.approx({"Conv": 20e-6})


@pytest.mark.parametrize(("threads", "batch"), [(1, 2), (2, 2), (2, 1)])
def test_every_operator_of_the_compiled_unet(
    threads: int, batch: int, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the graph has and no other, products among them, halved or not; the trace leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bundle = open_bundle(tiny_bundle)
    component = Component(root=bundle.root, manifest=bundle.manifest, name="unet")
    graph = onnx.load(str(compiled_folder(component, Backend.ORT_CPU) / MODEL_FILE), load_external_data=False).graph
    found = operator_seconds(bundle, bundle.manifest.profiles[0], batch, threads=threads, calls=2)
    assert set(found) == {node.op_type for node in graph.node}
    assert {"Conv", "MatMul", "MultiHeadAttention"} <= set(found) & PRODUCTS
    assert found["Conv"] > 0
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_an_engine_is_refused(tiny_copy: Path) -> None:
    for folder in (tiny_copy / "engines").iterdir():
        folder.rename(tiny_copy / folder.name)
    with pytest.raises(EngineError, match="has no ort-cpu engine of unet"):
        operator_seconds(open_bundle(tiny_copy), profile_from_text("32x32"), 1, threads=1)


@pytest.mark.parametrize(
    ("text", "said"), [('[{"cat": "Node"', "trace.json cannot be read"), ("[]", "names no operator")]
)
def test_a_trace_that_says_nothing(
    text: str, said: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off by a full disk, or empty."""
    trace = tmp_path / "trace.json"
    trace.write_text(text, "utf-8")
    monkeypatch.setattr(
        operators, "OrtCpuModel", SimpleNamespace(of_compiled=lambda *_, **__: SimpleNamespace(
            engine=lambda spec: SimpleNamespace(run=lambda inputs: None),
            session=SimpleNamespace(end_profiling=lambda: str(trace)),
            close=lambda: None,
        ))
    )  # fmt: skip
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(EngineError, match=said):
        operator_seconds(bundle, bundle.manifest.profiles[0], 1, threads=1, calls=1)
