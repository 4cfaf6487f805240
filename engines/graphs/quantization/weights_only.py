"""Weights in eight bits alone: what is multiplied with them stays in floating point."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.rounding import channel_steps, rounded
from latentrt.engines.graphs.editor import GraphEditor, computed_weight, input_of, save_with_weights
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.spec import Array


def write_with_rounded_weights(weights: OnnxWeights, nodes: Sequence[QuantizableNode], folder: Path) -> None:
    """Writes a graph whose matrices are rounded, each output channel with steps of its own.

    A ``DequantizeLinear`` stands before every node that takes one; it is ``model.onnx`` with its weights beside it.

    Args:
        weights: the graph in fp32.
        nodes: those whose matrices are rounded.
        folder: where to write; created.
    """
    import onnx_ir as ir

    model = weights.copy()
    editor = GraphEditor(model.graph)
    named = {node.name: node for node in model.graph}
    dequantized: dict[tuple[str, int], ir.Value] = {}
    for node in nodes:
        taker = named[node.name]
        value, key = input_of(taker, 1), (node.weight, node.channels)
        if key not in dequantized:
            steps = channel_steps(np.asarray(weights.array(node.weight)), node.channels, Recipe.W8.largest_weight)
            name = f"{node.weight}.steps"
            quantized = computed_weight(
                f"{node.weight}.rounded",
                value.const_value,
                partial(_rounded, weights, node, steps),
                ir.DataType.INT8,
            )
            dequantized[key] = editor.before(taker).add(
                "DequantizeLinear",
                editor.weight(f"{node.weight}.rounded", quantized),
                editor.weight(name, steps),
                name=f"{node.weight}.dequantized",
                axis=node.channels,
            )
        taker.replace_input_with(1, dequantized[key])
    editor.prune()
    weights.write_into(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_with_weights(model, folder / "model.onnx")


def _rounded(weights: OnnxWeights, node: QuantizableNode, steps: Array) -> Array:
    return rounded(weights.array(node.weight), steps, node.channels)
