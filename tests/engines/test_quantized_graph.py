"""The written int8 graph: who is rounded, and whose weights are."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import input_of, weight_of
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.graphs.quantization.smooth import SmoothedGraph
from latentrt.engines.precision import Backend


@pytest.fixture(scope="module")
def weights(tiny_bundle: Path) -> OnnxWeights:
    """The tiny U-Net's."""
    component = Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")
    return OnnxWeights(component.onnx)


def choice(divisor: Any = None) -> InputChoice:
    return InputChoice(range=Range(lowest=-3.0, highest=3.0), divisor=divisor, alpha=None, error=0.1)


@pytest.mark.parametrize("recipe", [Recipe.U8S8, Recipe.S8S8])
def test_what_was_not_chosen_is_not_rounded(weights: OnnxWeights, recipe: Recipe, tmp_path: Path) -> None:
    """Neither nodes left in floating point nor residual sums and norms that read what a chosen node reads."""
    nodes = weights.quantizable()
    chosen = nodes[::2]
    inputs = {node.input: choice() for node in nodes}
    outputs = {
        node.output: Range(lowest=-3.0, highest=3.0) for node in nodes if node.operator in recipe.quantizes_outputs
    }
    write_quantized(weights, chosen, inputs, outputs, recipe, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    made = {output: node for node in graph.node for output in node.output}
    names = {node.name for node in chosen}
    results = {node.output for node in chosen} & set(outputs)
    shared = 0
    for node in graph.node:
        sources = [made[name] for name in node.input if name in made and made[name].op_type == "DequantizeLinear"]
        activations = [made[source.input[0]].input[0] for source in sources if source.input[0] in made]
        if node.name in names:
            assert activations
        elif node.op_type != "QuantizeLinear":
            assert set(activations) <= results
            shared += any(name in {one.input for one in chosen} for name in node.input)
    assert shared  # or the test shows nothing


def test_a_weight_of_two_norms_is_scaled_for_each(tmp_path: Path) -> None:
    """Exporters store equal weights once; smoothing multiplies them by different numbers."""
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3) + 1.0
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "w"], [f"{name}.out"], name=f"linear.{name}") for name in ("a", "b", "c")],
        "linears",
        [value(name, TensorProto.FLOAT, ["n", 4]) for name in ("a", "b", "c")],
        [value(f"{name}.out", TensorProto.FLOAT, ["n", 3]) for name in ("a", "b", "c")],
        [numpy_helper.from_array(matrix, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "model.onnx")
    weights = OnnxWeights(tmp_path / "model.onnx")
    nodes = [
        QuantizableNode(
            name=f"linear.{name}", path=name, operator="MatMul", input=name, output=f"{name}.out", weight="w",
            shape=(4, 3), channels=1,
        )
        for name in ("a", "b", "c")
    ]  # fmt: skip
    divisors = {"a": np.full(4, 2.0, np.float32), "b": np.full(4, 5.0, np.float32), "c": None}
    smoothed = SmoothedGraph(weights, nodes, {name: choice(divisor) for name, divisor in divisors.items()})
    read = {node.name: weight_of(input_of(node, 1)) for node in smoothed.model.graph if node.op_type == "MatMul"}
    assert np.array_equal(weight_of(smoothed.model.graph.initializers["w"]), matrix)
    for name, factor in (("a", 2.0), ("b", 5.0), ("c", 1.0)):
        assert np.array_equal(read[f"linear.{name}"], factor * matrix)


def test_recipes_belong_to_backends() -> None:
    """What was quantized for one machine is refused for another."""
    from latentrt.engines.errors import RequestError
    from latentrt.engines.graphs.quantization.recipe import check_recipe

    check_recipe(Recipe.S8S8, Backend.TENSORRT_RTX)
    check_recipe(Recipe.U8S8_REDUCED, Backend.ORT_CPU)
    check_recipe(Recipe.U8S8_REDUCED, Backend.OPENVINO)
    with pytest.raises(RequestError, match="expected ort-cpu"):
        check_recipe(Recipe.U8S8, Backend.TENSORRT)
    with pytest.raises(RequestError, match="expected tensorrt or tensorrt-rtx"):
        check_recipe(Recipe.S8S8, Backend.ORT_CPU)
    with pytest.raises(RequestError, match="expected openvino"):
        check_recipe(Recipe.U8S8_INPUTS, Backend.ORT_CPU)
    with pytest.raises(RequestError, match="expected tensorrt or tensorrt-rtx; choose among these"):
        check_recipe(Recipe.S8S8, Backend.ORT_CUDA)
