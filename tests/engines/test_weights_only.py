"""Graphs whose weights alone are in eight bits."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latentrt.engines.backends.ort_cpu.compile import compile_onnx
from latentrt.engines.backends.ort_cpu.compiled_weights import CompiledLayout, CompiledWeights
from latentrt.engines.backends.ort_cpu.model import OrtCpuModel
from latentrt.engines.backends.ort_cpu.provenance import record_weights
from latentrt.engines.backends.weights_record import read_weights_record
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.graphs.quantization.weights_only import write_with_rounded_weights
from latentrt.engines.spec import EngineSpec, TensorSpec

WIDTH = 64


@pytest.fixture
def weights(tmp_path: Path) -> OnnxWeights:
    """Two products with one matrix, then one with another that is stored the other way round and has a bias."""
    value, random = helper.make_tensor_value_info, np.random.default_rng(0)
    # Channels of very different size, one of them of zeros
    sizes = 10.0 ** np.linspace(-3.0, 2.0, WIDTH)
    sizes[3] = 0.0
    arrays = {
        "w": random.normal(size=(WIDTH, WIDTH)) * sizes[None, :],
        "g": random.normal(size=(WIDTH, WIDTH)) * sizes[:, None],
        "b": random.normal(size=WIDTH),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="first"),
            helper.make_node("MatMul", ["y", "w"], ["z"], name="second"),
            helper.make_node("Gemm", ["z", "g", "b"], ["out"], name="third", transB=1),
        ],
        "products",
        [value("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [value("out", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    path = tmp_path / "source" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx.data")
    return OnnxWeights(path)


def test_every_channel_has_steps_of_its_own(weights: OnnxWeights, tmp_path: Path) -> None:
    """Matrices are off by half a step at most, biases are as they were, and a matrix of two nodes is stored once."""
    write_with_rounded_weights(weights, weights.quantizable(), tmp_path / "int8")
    written = OnnxWeights(tmp_path / "int8" / "model.onnx")
    names = set(written.model.graph.initializers)
    assert names == {"b", *(f"{name}.{part}" for name in "wg" for part in ("rounded", "steps"))}
    for name, axis in (("w", 1), ("g", 0)):
        exact, rounded = weights.array(name), written.array(f"{name}.rounded")
        assert rounded.dtype == np.int8
        steps = np.expand_dims(written.array(f"{name}.steps"), 1 - axis)
        assert (np.abs(rounded * steps - exact) <= 0.5001 * steps).all()
        assert np.abs(rounded).max(axis=1 - axis).tolist() == [127 if index != 3 else 0 for index in range(WIDTH)]
    np.testing.assert_array_equal(written.array("b"), weights.array("b"))
    assert [node.attributes["axis"].value for node in written.model.graph if node.op_type == "DequantizeLinear"] == [
        1,
        0,
    ]


def test_the_engine_keeps_eight_bits(weights: OnnxWeights, tmp_path: Path) -> None:
    """Compiled it multiplies with them in blocks, knows where each is, and takes others in their place."""
    write_with_rounded_weights(weights, weights.quantizable()[:1], tmp_path / "int8")
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    compile_onnx(tmp_path / "int8" / "model.onnx", compiled)
    record_weights(tmp_path / "int8" / "model.onnx", compiled, ["w.rounded", "w.steps", "w", "g", "b"])
    found = read_weights_record(compiled, "text_encoder", CompiledWeights)
    assert found.lost == ()
    ((matrix,), (steps,)) = (found.weights[f"w.{name}"] for name in ("rounded", "steps"))
    assert (matrix.layout, steps.layout) == (CompiledLayout.BYTE_BLOCKS, CompiledLayout.REPEATED)
    tensor = TensorSpec(shape=("batch", WIDTH), dtype=np.dtype(np.float32))
    spec = EngineSpec(inputs={"x": tensor}, outputs={"out": tensor}, batches=(1,))
    written, random = OnnxWeights(tmp_path / "int8" / "model.onnx"), np.random.default_rng(1)
    x = random.normal(size=(1, WIDTH)).astype(np.float32)
    rounded, sizes = written.array("w.rounded"), written.array("w.steps")
    others = random.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    replaced = {row.initializer: row.compiled(new) for row, new in ((matrix, others), (steps, 2.0 * sizes))}
    opened = OrtCpuModel.of_compiled(compiled, threads=1)
    for model, first in (
        (opened, rounded * sizes),
        (opened.with_weights(replaced, packs=True), others * (2.0 * sizes)),
    ):
        expected = x @ first @ weights.array("w") @ weights.array("g").T + weights.array("b")
        with model.engine(spec) as engine:
            out = engine.run({"x": x})["out"]
        # ONNX Runtime rounds x as well, in blocks of 32
        assert np.linalg.norm(out - expected) < 0.02 * np.linalg.norm(expected)
