"""Attention as ONNX Runtime's own operator: faster than its kernel for the standard one, and for the CPU alone."""

from typing import TYPE_CHECKING

from latentrt.engines.graphs.editor import GraphEditor, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

_HEADS_FIRST = (0, 2, 1, 3)  # (batch, length, heads, width) to (batch, heads, length, width), and back
_DOMAIN = "com.microsoft"


def fuse_attention(model: "ir.Model") -> int:
    """Puts ``com.microsoft::MultiHeadAttention`` in the place of standard attention, in place.

    It takes queries, keys and values as (batch, length, heads · width), so that the reshapes and transpositions around
    the standard operator go away with it. Attention with a mask stays as it is.

    Args:
        model: the graph; its weights may be on disk.

    Returns:
        How many were replaced.
    """
    editor, count = GraphEditor(model.graph), 0
    for node in list(model.graph):
        if node.op_type != "Attention" or sum(value is not None for value in node.inputs) != 3 or _unusual(node):
            continue
        sources = [_flat_source(value) for value in node.inputs]
        heads = {source[1] for source in sources if source is not None}
        result = _flat_result(node.outputs[0]) if len(node.outputs) == 1 else None
        if None in sources or result is None or len(heads) != 1:
            continue
        scale = {name: attribute for name, attribute in node.attributes.items() if name == "scale"}
        fused = editor.before(result).add(
            "MultiHeadAttention",
            *(source[0] for source in sources if source is not None),
            name=f"{node.name}.fused",
            domain=_DOMAIN,
            num_heads=heads.pop(),
            **scale,
        )
        editor.replace(result, fused)
        count += 1
    editor.prune()
    return count


def _flat_source(value: "ir.Value | None") -> "tuple[ir.Value, int] | None":
    """The (batch, length, heads · width) tensor behind an input, and its heads."""
    transpose = None if value is None else value.producer()
    if transpose is None or not _moves_heads(transpose):
        return None
    reshape = _maker(transpose, 0, "Reshape")
    shape = None if reshape is None else _maker(reshape, 1, "Concat")
    if reshape is None or shape is None or len(shape.inputs) != 4:
        return None
    flat, heads = reshape.inputs[0], shape.inputs[2]
    if flat is None or heads is None or heads.const_value is None:
        return None
    return flat, int(weight_of(heads)[0])


def _flat_result(value: "ir.Value") -> "ir.Node | None":
    """The reshape that makes a result (batch, length, heads · width) again, if nothing else takes it before."""
    transpose = _only_taker(value)
    if transpose is None or not _moves_heads(transpose):
        return None
    reshape = _only_taker(transpose.outputs[0])
    return reshape if reshape is not None and reshape.op_type == "Reshape" else None


def _maker(node: "ir.Node", index: int, operator: str) -> "ir.Node | None":
    """The node behind an input, if it is of a type."""
    value = node.inputs[index]
    maker = None if value is None else value.producer()
    return maker if maker is not None and maker.op_type == operator else None


def _only_taker(value: "ir.Value") -> "ir.Node | None":
    """The node that takes a value, if nothing else does."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _moves_heads(node: "ir.Node") -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes["perm"].value) == _HEADS_FIRST


def _unusual(node: "ir.Node") -> bool:
    """Whether an attention does what the other operator does not."""
    attributes = node.attributes
    return any(
        name in attributes and attributes[name].value for name in ("is_causal", "softcap", "qk_matmul_output_mode")
    )
