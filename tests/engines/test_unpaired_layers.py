"""Layers of a graph in eight bits that are turned back to floating point."""

from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import input_of, load_graph, weight_of
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range, rounded_weight
from latentrt.engines.graphs.quantization.unpaired import write_unpaired


@pytest.mark.parametrize("recipe", [Recipe.U8S8, Recipe.S8S8, Recipe.E4M3])
def test_some_layers_take_what_they_would_without_eight_bits(tiny_bundle: Path, tmp_path: Path, recipe: Recipe) -> None:
    """Their tensors, and their weights as rounding left them, under the same name; others stay as they are."""
    component = Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")
    weights = OnnxWeights(component.onnx)
    nodes = weights.quantizable()
    span = Range(lowest=-3.0, highest=3.0)
    inputs = {node.input: InputChoice(range=span, divisor=None, alpha=None, error=0.1) for node in nodes}
    outputs = {node.output: span for node in nodes if node.operator in recipe.quantizes_outputs}
    write_quantized(weights, nodes, inputs, outputs, recipe, tmp_path / "eight")
    source, graph = tmp_path / "eight" / "model.onnx", tmp_path / "some" / "model.onnx"
    turned = write_unpaired(source, lambda path, operator: operator == "Conv", graph)
    assert set(turned) == {node.path for node in nodes if node.operator == "Conv"}
    model, before = load_graph(graph), {node.name: node for node in load_graph(source).graph}
    for node in model.graph:
        if node.name not in {one.name for one in nodes}:
            continue
        takes = [value.producer() for value in (input_of(node, 0), input_of(node, 1))]
        rounds = [maker is not None and maker.op_type == "DequantizeLinear" for maker in takes]
        if node.op_type != "Conv":
            assert all(rounds)
            continue
        assert not rounds[1]
        assert not (rounds[0] and recipe.symmetric)  # on CPUs it may be another layer's rounded result
        weight = input_of(node, 1)
        (quantizable,) = (one for one in nodes if one.name == node.name)
        expected = rounded_weight(np.asarray(weights.array(quantizable.weight)), 0, recipe)
        np.testing.assert_allclose(weight_of(weight), expected, rtol=1e-5, atol=1e-8)
        stored = input_of(before[node.name], 1).producer()
        assert stored is not None
        assert weight.name == input_of(stored, 0).name
