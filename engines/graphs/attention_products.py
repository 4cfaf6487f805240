"""Attention as the products that it is made of, so that its scores are results like others."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.graphs.editor import SCOPES, GraphEditor, Insertion, dtype_of, input_of

if TYPE_CHECKING:
    import onnx_ir as ir

_UNUSUAL = ("is_causal", "softcap", "qk_matmul_output_mode", "q_num_heads")


def expand_attention(model: "ir.Model") -> int:
    """Puts MatMul, Softmax and MatMul in the place of every standard Attention over (batch, heads, length, width).

    In place. It is softmax(√s·q · (√s·k)ᵀ + mask)·v with the scale s, as the operator is defined.

    Args:
        model: the graph; its values have types.

    Returns:
        How many were replaced. One with a cache, a causal order or capped scores stays.
    """
    editor, count = GraphEditor(model.graph), 0
    for node in list(model.graph):
        if node.op_type != "Attention" or len(node.outputs) != 1 or any(node.inputs[4:]):
            continue
        if any(name in node.attributes and node.attributes[name].value for name in _UNUSUAL):
            continue
        editor.replace(node, _products(editor.before(node), node))
        count += 1
    return count


def _products(place: Insertion, node: "ir.Node") -> "ir.Value":
    import onnx_ir as ir

    query, key, values = (input_of(node, index) for index in range(3))
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    dtype, single, name = dtype_of(node.outputs[0]), ir.DataType.FLOAT, node.name or str(node.outputs[0].name)

    def add(
        operator: str, *inputs: "ir.Value", part: str, result: "ir.DataType | None" = None, **attributes: Any
    ) -> "ir.Value":
        value = place.add(operator, *inputs, name=f"{name}.{part}", **attributes)
        value.dtype = dtype if result is None else result
        maker = value.producer()
        if maker is not None and SCOPES in node.metadata_props:
            maker.metadata_props[SCOPES] = node.metadata_props[SCOPES]
        return value

    if "scale" in node.attributes:
        root = place.constant(np.float32(node.attributes["scale"].value ** 0.5))
    else:  # 1/√width
        width = add("Shape", query, part="width", result=ir.DataType.INT64, start=3, end=4)
        size = add("Cast", width, part="size", result=single, to=single)
        root = add("Pow", size, place.constant(np.float32(-0.25)), part="root", result=single)
    factor = root if dtype is single else add("Cast", root, part="factor", to=dtype)
    keys = add("Transpose", add("Mul", key, factor, part="keys"), part="turned", perm=[0, 1, 3, 2])
    scores = add("MatMul", add("Mul", query, factor, part="queries"), keys, part="scores")
    if mask is not None:
        scores = add("Add", scores, mask, part="masked")
    return add("MatMul", add("Softmax", scores, part="weights", axis=-1), values, part="attended")
