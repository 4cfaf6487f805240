"""Graphs of sixteen bits for ONNX Runtime's CPU provider, which computes in fp32: there with every result rounded.

That is what a machine with bf16 or fp16 does, in another order: products of such numbers are exact in fp32, sums are
kept in fp32, and what a node hands on is rounded; beyond fp16's range that is infinity. So the distance to fp32 can be
measured on any machine.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.graphs.editor import GraphEditor, Insertion
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.precision import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

ROUNDED = ".rounded"
"""How the name of a rounded result ends; before that it has the name of the result."""

# What hands on numbers as they are
_MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)


def round_results(model: "ir.Model", precision: Precision = Precision.BF16) -> int:
    """Rewrites a graph in place; its weights stay as they are on the disk, and are widened as the graph is opened.

    Args:
        model: the graph; its values have types.
        precision: bf16 or fp16.

    Returns:
        How many results are rounded; 0 for a graph that has none in the precision.
    """
    import onnx_ir as ir

    editor, count = GraphEditor(model.graph), 0
    narrow, wide = ir.DataType[HALF_TYPES[precision].dtype], ir.DataType.FLOAT
    for weight in [value for value in model.graph.initializers.values() if value.dtype is narrow]:
        widened = _cast(editor.after(weight), weight, wide, f"{weight.name}.widened")
        editor.rewire(weight, widened, but=[node for node in (widened.producer(),) if node is not None])
    for node in list(model.graph):
        # What was rewritten before has casts whose results tell no type
        casts = "to" in node.attributes and node.attributes["to"].value == narrow
        results = [value for value in node.outputs if casts or value.dtype is narrow]
        if not results:
            continue
        _widen(node, narrow)
        for value in results:
            value.dtype = wide
            if node.op_type not in _MOVES:
                _round(editor, value, narrow)
                count += 1
    return count


def _widen(node: "ir.Node", narrow: Any) -> None:
    """Attributes that name the type or hold a value."""
    import onnx_ir as ir

    attributes = node.attributes
    if "to" in attributes and attributes["to"].value == narrow:
        attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    if "value" in attributes:
        wide = np.asarray(attributes["value"].value.numpy(), np.float32)
        attributes["value"] = ir.AttrTensor("value", ir.tensor(wide))


def _round(editor: GraphEditor, value: "ir.Value", kind: "ir.DataType") -> None:
    """Hands all that takes a value the nearest number that the type has."""
    import onnx_ir as ir

    place = editor.after(value)
    narrow = _cast(place, value, kind, f"{value.name}.narrow")
    wide = _cast(place, narrow, ir.DataType.FLOAT, f"{value.name}{ROUNDED}")
    editor.rewire(value, wide, but=[node for node in (narrow.producer(),) if node is not None])


def _cast(place: Insertion, value: "ir.Value", kind: "ir.DataType", name: str) -> "ir.Value":
    cast = place.add("Cast", value, to=kind, name=name)
    cast.dtype = kind
    return cast
