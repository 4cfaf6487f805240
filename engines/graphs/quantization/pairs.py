"""QuantizeLinear and DequantizeLinear in a graph: pairs of them before what computes in eight bits."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.rounding import channel_steps, rounded
from latentrt.engines.graphs.editor import GraphEditor, computed_weight, input_of, weight_of
from latentrt.engines.graphs.quantization.attention import RoundedAttention, heads_of
from latentrt.engines.graphs.quantization.nodes import QuantizableNode
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir


class Pairs:
    """Adds them to a graph. A weight or a tensor that several nodes take is rounded once for all of them."""

    def __init__(self, model: "ir.Model", recipe: Recipe) -> None:
        """Takes a graph, which is changed in place."""
        self._editor, self._recipe = GraphEditor(model.graph), recipe
        self._nodes = {node.name: node for node in model.graph}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self._tensors: dict[ir.Value, ir.Value] = {}

    def round_weight(self, node: QuantizableNode) -> None:
        """Has a node take its matrix in eight bits, dequantized, each output channel with steps of its own."""
        taker = self._nodes[node.name]
        value, key = input_of(taker, 1), (input_of(taker, 1), node.channels)
        if key not in self._weights:
            self._weights[key] = self._dequantized(value, taker, node.channels)
        taker.replace_input_with(1, self._weights[key])

    def round_input(self, node: QuantizableNode, span: Range) -> None:
        """Has a node take its tensor rounded; for symmetric recipes.

        Args:
            node: the node.
            span: the numbers that the eight bits of the tensor span.
        """
        taker = self._nodes[node.name]
        taker.replace_input_with(0, self._rounded(input_of(taker, 0), span))

    def round_attention(self, rounded: RoundedAttention) -> None:
        """Has an attention take queries, keys and values rounded, the queries scaled before: scores would overflow."""
        import onnx_ir as ir

        attention = self._nodes[rounded.attention.name]
        for index, (split, span) in enumerate(zip(heads_of(attention), rounded.ranges, strict=True)):
            value = input_of(split, 0)
            if index == 0:
                scale = self._editor.constant(np.float32(rounded.attention.scale))
                value = self._editor.after(value).add("Mul", value, scale, name=f"{attention.name}.scaled")
                value.dtype = ir.DataType.FLOAT
            split.replace_input_with(0, self._rounded(value, span))
        attention.attributes["scale"] = ir.AttrFloat32("scale", 1.0)

    def done(self) -> None:
        """Removes the weights that no node takes any more."""
        self._editor.prune()

    def _rounded(self, value: "ir.Value", span: Range) -> "ir.Value":
        """A tensor behind a pair, for all that take it rounded."""
        if value not in self._tensors:
            scale, zero = span.scale_and_zero(self._recipe)
            parameters = self._editor.constant(scale), self._editor.constant(as_onnx(zero, self._recipe))
            behind = self._editor.after(value)
            quantized = behind.add("QuantizeLinear", value, *parameters, name=f"{value.name}.quantized")
            self._tensors[value] = behind.add(
                "DequantizeLinear", quantized, *parameters, name=f"{value.name}.dequantized"
            )
        return self._tensors[value]

    def _dequantized(self, value: "ir.Value", taker: "ir.Node", axis: int) -> "ir.Value":
        import onnx_ir as ir

        numbers = self._recipe.numbers
        steps = channel_steps(np.asarray(weight_of(value)), axis, numbers, self._recipe.largest_weight)
        taken = f"{value.name}.rounded" in self._editor.graph.initializers  # by nodes that take it the other way round
        name = f"{value.name}.{axis}" if taken else str(value.name)
        weight = computed_weight(
            f"{name}.rounded",
            value.const_value,
            partial(_rounded, value, steps, axis, self._recipe),
            ir.DataType[numbers.onnx],
        )
        return self._editor.before(taker).add(
            "DequantizeLinear",
            self._editor.weight(f"{name}.rounded", weight),
            self._editor.weight(f"{name}.steps", steps),
            name=f"{name}.dequantized",
            axis=axis,
        )


def as_onnx(bits: Array, recipe: Recipe) -> Array:
    """Bits of a recipe's numbers, typed as onnx_ir wants them."""
    import onnx_ir as ir

    return bits.view(ir.DataType[recipe.numbers.onnx].numpy())


def _rounded(value: "ir.Value", steps: Array, axis: int, recipe: Recipe) -> Array:
    return as_onnx(rounded(np.asarray(weight_of(value)), steps, axis, recipe.numbers), recipe)
