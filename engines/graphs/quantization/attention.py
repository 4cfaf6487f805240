"""Attention in eight bits of floating point: queries, keys, values and the weights of the values are rounded.

The bundle's graph keeps the operator, and what it takes is rounded before its heads are moved: so everything that is
added to a U-Net finds the operator where it was. Engines are compiled of its two products, since TensorRT makes one
kernel of these that multiplies in fp8, and one that multiplies in fp16 of the operator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.number_format import E4M3
from latentrt.engines.graphs.editor import GraphEditor, input_of, scope_of, weight_of
from latentrt.engines.graphs.islands import Island
from latentrt.engines.graphs.quantization.recipe import Range

if TYPE_CHECKING:
    import onnx_ir as ir

    from latentrt.engines.graphs.quantization.nodes import OnnxWeights
    from latentrt.engines.graphs.quantization.observe import Observations

_MOVES = frozenset({"Reshape", "Transpose"})
_HEADS_FIRST = (0, 2, 1, 3)
_TAKES = 3  # queries, keys and values; a mask would be the fourth


@dataclass(frozen=True, kw_only=True)
class QuantizableAttention:
    """One without a mask. ``inputs`` are what becomes its queries, keys and values: (batch, length, channels).

    ``path`` is the dotted path of its torch module; ``scale`` is what scores are multiplied by.
    """

    path: str
    name: str
    inputs: tuple[str, ...]
    scale: float


@dataclass(frozen=True, kw_only=True)
class RoundedAttention:
    """How one is rounded: the ranges of its queries, which are scaled before, of its keys and of its values."""

    attention: QuantizableAttention
    ranges: tuple[Range, ...]


def quantizable_attentions(weights: "OnnxWeights", islands: Sequence[Island] = ()) -> tuple[QuantizableAttention, ...]:
    """Those of a graph that are laid out as the exporter does it, in the order of the graph; none of the islands'."""
    found = []
    for node in weights.model.graph:
        if node.op_type != "Attention" or len(_given(node)) != _TAKES:
            continue
        if any(island.holds(scope_of(node), node.op_type) for island in islands):
            continue
        makers, scale = heads_of(node), _scale(node)
        if scale is not None and len(makers) == _TAKES:
            inputs = tuple(str(input_of(maker, 0).name) for maker in makers)
            found.append(QuantizableAttention(path=scope_of(node), name=str(node.name), inputs=inputs, scale=scale))
    return tuple(found)


def rounded_attention(attention: QuantizableAttention, observations: "Observations") -> RoundedAttention:
    """How one is rounded: over the widest ranges ever seen, as floating point has small steps for small numbers."""
    ranges = []
    for tensor, scale in zip(attention.inputs, (attention.scale, 1.0, 1.0), strict=True):
        low, high = observations.tensors[tensor].bounds
        ranges.append(Range(lowest=scale * float(low.min()), highest=scale * float(high.max())))
    return RoundedAttention(attention=attention, ranges=tuple(ranges))


def heads_of(attention: "ir.Node") -> "list[ir.Node]":
    """The nodes that split queries, keys and values into heads."""
    return [maker for maker in map(_splits_heads, _given(attention)) if maker is not None]


def multiply_rounded(model: "ir.Model") -> int:
    """Puts two products in the place of every attention whose inputs are rounded, in place; returns how many.

    Between the two stands the softmax, at most 1, rounded in steps that make its 1 the largest number.
    """
    editor, count = GraphEditor(model.graph), 0
    for node in list(model.graph):
        if node.op_type != "Attention" or len(_given(node)) != _TAKES:
            continue
        pairs = [pair for pair in map(_dequantize, _given(node)) if pair is not None]
        if len(pairs) != _TAKES:
            continue
        queries, keys, values = _given(node)
        scale, zero = input_of(pairs[0], 1), input_of(pairs[0], 2)
        place = editor.before(node, f"{node.name}.rounded")
        step = place.constant(np.array(1.0 / E4M3.largest, weight_of(scale).dtype))
        scores = place.add("MatMul", queries, place.add("Transpose", keys, perm=(0, 1, 3, 2)))
        rounded = place.add("QuantizeLinear", place.add("Softmax", scores, axis=-1), step, zero)
        result = place.add("MatMul", place.add("DequantizeLinear", rounded, step, zero), values)
        editor.replace(node, result)
        count += 1
    return count


def _given(node: "ir.Node") -> "list[ir.Value]":
    return [value for value in node.inputs if value is not None]


def _splits_heads(value: "ir.Value") -> "ir.Node | None":
    """The node that makes (batch, length, heads, width) of a tensor, whose heads then come first."""
    moved = value.producer()
    if moved is None or moved.op_type != "Transpose" or tuple(moved.attributes["perm"].value) != _HEADS_FIRST:
        return None
    split = input_of(moved, 0).producer()
    return split if split is not None and split.op_type == "Reshape" else None


def _scale(attention: "ir.Node") -> float | None:
    """What scores are multiplied by: as it is told, or the width of a head to the power of −½; None if unknown."""
    told = attention.attributes.get("scale")
    if told is not None:
        return float(told.value)
    split = _splits_heads(input_of(attention, 0))
    shape = None if split is None else input_of(split, 1)
    maker = None if shape is None else shape.producer()
    last = shape if maker is None or maker.op_type != "Concat" else maker.inputs[-1]
    width = 0 if last is None or last.const_value is None else int(weight_of(last)[-1])
    return width**-0.5 if width > 0 else None


def _dequantize(value: "ir.Value") -> "ir.Node | None":
    """The node that an attention's input comes from as it is, if that dequantizes floating point of eight bits."""
    maker = value.producer()
    while maker is not None and maker.op_type in _MOVES:
        maker = input_of(maker, 0).producer()
    if maker is None or maker.op_type != "DequantizeLinear" or len(maker.inputs) < _TAKES:
        return None
    zero = input_of(maker, 2)
    return maker if zero.dtype is not None and zero.dtype.name == E4M3.onnx else None
