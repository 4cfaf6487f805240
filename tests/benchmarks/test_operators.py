"""Where a call of the U-Net goes: operators as ONNX Runtime's profiler tells them."""

from pathlib import Path

import onnx
import pytest

from latentrt.benchmarks.operators import PRODUCTS, operator_seconds, seconds_of_trace
from latentrt.engines.bundle import open_bundle
from latentrt.engines.cache import compiled_folder
from latentrt.engines.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.ort_cpu import MODEL_FILE
from latentrt.engines.precision import Backend
from latentrt.engines.profile import profile_from_text


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
    found = seconds_of_trace(events)
    assert list(found) == ["Add", "Conv"]
    assert found == pytest.approx({"Add": 600e-6, "Conv": 120e-6})


def test_every_operator_of_the_compiled_unet(tiny_bundle: Path) -> None:
    """All that the graph has and no other, products among them; the trace leaves nothing behind."""
    bundle = open_bundle(tiny_bundle)
    component = Component(root=bundle.root, manifest=bundle.manifest, name="unet")
    graph = onnx.load(str(compiled_folder(component, Backend.ORT_CPU) / MODEL_FILE), load_external_data=False).graph
    found = operator_seconds(bundle, bundle.manifest.profiles[0], 2, threads=1, calls=2)
    assert set(found) == {node.op_type for node in graph.node}
    assert {"Conv", "MatMul", "MultiHeadAttention"} <= set(found) & PRODUCTS
    assert min(found.values()) >= 0
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_bundle_without_an_engine_is_refused(tiny_copy: Path) -> None:
    for folder in (tiny_copy / "engines").iterdir():
        folder.rename(tiny_copy / folder.name)
    with pytest.raises(EngineError, match="has no ort-cpu engine of unet"):
        operator_seconds(open_bundle(tiny_copy), profile_from_text("32x32"), 1, threads=1)
