"""Which arithmetic contenders use: read back from what runs them, whatever they were asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentrt.benchmarks.bench.aggregate import contender
from latentrt.benchmarks.bench.contenders import Entrant
from latentrt.benchmarks.bench.journal import Journal
from latentrt.benchmarks.peers.arithmetic import onnx_trace, openvino_nodes, torch_trace
from latentrt.benchmarks.peers.arithmetic.own_engine import arithmetic_of_engine

REQUEST = {"prompts": ["cat"], "seeds": [1], "steps": 2, "guidance": 7.5, "width": 32, "height": 32}


def test_kernels_tell_what_openvino_computes_in() -> None:
    """Half-stored weights are no arithmetic in half of the precision, and what is no product does not count."""

    def node(**info: str) -> SimpleNamespace:
        texts = {name: SimpleNamespace(astype=lambda kind, text=text: kind(text)) for name, text in info.items()}
        return SimpleNamespace(get_rt_info=lambda: texts)

    nodes = [
        node(layerType="FullyConnected", primitiveType="brgemm_avx512_f32", runtimePrecision="f16"),
        *(node(layerType="Convolution", primitiveType="brgconv_avx512_amx_1x1_bf16", runtimePrecision="bf16"),) * 2,
        *(node(layerType="MatMul", primitiveType="brgemm_avx512_amx_i8", runtimePrecision="i8"),) * 3,
        node(layerType="Reorder", primitiveType="jit_uni_i32", runtimePrecision="i32"),
    ]
    model = SimpleNamespace(get_ops=lambda: nodes)
    found = openvino_nodes.arithmetic_of_compiled(SimpleNamespace(get_runtime_model=lambda: model))
    assert list(found["products"].items()) == [("int8", 3), ("bf16", 2), ("fp32", 1)]


def test_a_model_read_by_openvino_tells() -> None:
    """One product, in the type that it was pinned to."""
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset15
    left = ops.parameter([4, 64], np.float32)
    right = ops.constant(np.ones((64, 64), np.float32))
    model = openvino.Model([ops.matmul(left, right, transpose_a=False, transpose_b=True)], [left], "one")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert openvino_nodes.arithmetic_of_compiled(compiled)["products"] == {"fp32": 1}


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_pytorchs_profiler_tells(dtype: str, kind: str) -> None:
    """A convolution, a product, and attention; what they come down to is not counted again."""
    import torch

    picture = torch.ones(1, 4, 8, 8, dtype=getattr(torch, dtype))
    kernel, square = torch.ones(4, 4, 3, 3, dtype=picture.dtype), torch.ones(8, 8, dtype=picture.dtype)

    def work() -> Any:
        torch.nn.functional.scaled_dot_product_attention(picture, picture, picture)
        return torch.nn.functional.linear(torch.nn.functional.conv2d(picture, kernel), square[:, :6])

    given, events = torch_trace.traced(work)
    assert given.shape == (1, 4, 6, 8)
    assert torch_trace.arithmetic_of_trace(events)["products"] == {kind: 3}


def test_nodes_of_onnx_runtime_count_once() -> None:
    """However often they ran; a quantized product takes bytes first."""

    def event(operator: str, node: str, *types: str) -> dict[str, object]:
        shapes = [{name: [1]} for name in types]
        return {
            "cat": "Node", "name": f"{node}_kernel_time", "args": {"op_name": operator, "input_type_shape": shapes},
        }  # fmt: skip

    events = [
        *(event("QLinearConv", "a", "uint8", "float"),) * 3,
        event("QLinearConv", "b", "uint8", "float"),
        event("Conv", "c", "float", "float"),
        event("Add", "d", "double"),
    ]
    found = onnx_trace.arithmetic_of_trace(events)
    assert found == {"products": {"int8": 2, "fp32": 1}, "source": "ONNX Runtime's profiler"}


def test_a_runtime_that_names_no_product_has_not_told() -> None:
    """That is a failure, and not an arithmetic without a type."""
    with pytest.raises(RuntimeError, match="names no product"):
        onnx_trace.arithmetic_of_trace([])


def test_our_own_engine_tells(tiny_bundle: Path) -> None:
    """On the CPU; of a GPU's nothing is told."""
    found = arithmetic_of_engine(tiny_bundle, "ort-cpu", REQUEST, threads=1)
    assert found is not None
    assert list(found["products"]) == ["fp32"]
    assert arithmetic_of_engine(tiny_bundle, "tensorrt-rtx", REQUEST, threads=1) is None


@pytest.mark.parametrize(
    "answer", [None, {"arithmetic": None}, {"arithmetic": {"products": {"bf16": 2}, "source": "s"}}]
)
def test_a_row_has_what_was_told(answer: dict[str, Any] | None, tmp_path: Path) -> None:
    """Nothing where it was not asked, or did not tell."""
    options = SimpleNamespace(runs=1, cold_runs=0, varied_runs=0)
    (tmp_path / "weights").write_bytes(b"one")
    plan: Any = SimpleNamespace(options=options, case=None, varied={}, request=lambda case: REQUEST)
    entrant = Entrant(name="one", adapter="any", precision="fp32", python=Path("python"), model=tmp_path)
    journal = Journal(None, {})
    journal.add(("latency", "one", 0, "one"), {"seconds": {"total": 1.0}, "peak_bytes": 1, "versions": {}})
    if answer is not None:
        journal.add(("arithmetic", "one"), answer)
    row = contender(entrant, plan, journal, {}, None, None)
    told = (answer or {}).get("arithmetic")
    assert row.computes == (None if told is None else "bf16")
    assert row.precision == "fp32"
