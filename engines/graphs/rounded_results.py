"""Graphs in bf16 for ONNX Runtime's CPU provider, which computes no bf16: in fp32, with every result rounded to bf16.

That is what a machine with bf16 does, in another order: products of bf16 numbers are exact in fp32, sums are kept in
fp32, and what a node hands on is rounded. So the distance to fp32 can be measured on any machine.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.graphs.editor import GraphEditor, Insertion

if TYPE_CHECKING:
    import onnx_ir as ir

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


def round_results(model: "ir.Model") -> int:
    """Rewrites a graph in place; its weights stay in bf16 on the disk, and are widened as the graph is opened.

    Args:
        model: the graph; its values have types.

    Returns:
        How many results are rounded; 0 for a graph without bf16.
    """
    import onnx_ir as ir

    editor, count = GraphEditor(model.graph), 0
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    for weight in [value for value in model.graph.initializers.values() if value.dtype is narrow]:
        widened = _cast(editor.after(weight), weight, wide, "widened")
        editor.rewire(weight, widened, but=[node for node in (widened.producer(),) if node is not None])
    for node in list(model.graph):
        # What was rewritten before has casts whose results tell no type
        casts = "to" in node.attributes and node.attributes["to"].value == narrow
        results = [value for value in node.outputs if casts or value.dtype is narrow]
        if not results:
            continue
        _widen(node, ir)
        for value in results:
            value.dtype = wide
            if node.op_type not in _MOVES:
                _round(editor, value)
                count += 1
    return count


def _widen(node: "ir.Node", ir: Any) -> None:
    """Attributes that name the type or hold a value."""
    attributes = node.attributes
    if "to" in attributes and attributes["to"].value == ir.DataType.BFLOAT16:
        attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    if "value" in attributes:
        wide = np.asarray(attributes["value"].value.numpy(), np.float32)
        attributes["value"] = ir.AttrTensor("value", ir.tensor(wide))


def _round(editor: GraphEditor, value: "ir.Value") -> None:
    """Hands all that takes a value the nearest number that bf16 has."""
    import onnx_ir as ir

    place = editor.after(value)
    narrow = _cast(place, value, ir.DataType.BFLOAT16, "narrow")
    wide = _cast(place, narrow, ir.DataType.FLOAT, "rounded")
    editor.rewire(value, wide, but=[node for node in (narrow.producer(),) if node is not None])


def _cast(place: Insertion, value: "ir.Value", kind: "ir.DataType", end: str) -> "ir.Value":
    cast = place.add("Cast", value, to=kind, name=f"{value.name}.{end}")
    cast.dtype = kind
    return cast
