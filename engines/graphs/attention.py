"""Attention as ONNX Runtime's own operator: faster than its kernel for the standard one, and for the CPU alone."""

from typing import Any

_HEADS_FIRST = [0, 2, 1, 3]  # (batch, length, heads, width) to (batch, heads, length, width), and back
_DOMAIN = "com.microsoft"


def fuse_attention(model: Any) -> int:
    """Puts ``com.microsoft::MultiHeadAttention`` in the place of standard attention, in place.

    It takes queries, keys and values as (batch, length, heads · width), so that the reshapes and transpositions around
    the standard operator go away with it. Attention with a mask stays as it is.

    Args:
        model: an ``onnx.ModelProto``; its weights may be on disk.

    Returns:
        How many were replaced.
    """
    from onnx import helper

    graph = model.graph
    small = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    made = {output: node for node in graph.node for output in node.output}
    takers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    kept = {value.name for value in graph.output}
    replaced = {}
    for node in graph.node:
        if node.op_type != "Attention" or len([name for name in node.input if name]) != 3 or len(node.output) != 1:
            continue
        sources = [_flat_source(made, small, name) for name in node.input]
        result = _flat_result(takers, kept, node.output[0])
        heads = {source[1] for source in sources if source is not None}
        if None in sources or result is None or len(heads) != 1 or _unusual(node):
            continue
        fused = helper.make_node(
            "MultiHeadAttention",
            [source[0] for source in sources if source is not None],
            [result.output[0]],
            name=f"{node.name}.fused",
            domain=_DOMAIN,
            num_heads=heads.pop(),
        )
        fused.attribute.extend(attribute for attribute in node.attribute if attribute.name == "scale")
        replaced[result.output[0]] = fused
    rewritten = [replaced.get(node.output[0], node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(_needed(rewritten, kept))
    if replaced and all(opset.domain != _DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return len(replaced)


def _flat_source(made: dict[str, Any], small: dict[str, Any], name: str) -> tuple[str, int] | None:
    """The (batch, length, heads · width) tensor behind an input, and its heads."""
    from onnx import numpy_helper

    transpose = made.get(name)
    if transpose is None or transpose.op_type != "Transpose" or list(transpose.attribute[0].ints) != _HEADS_FIRST:
        return None
    reshape = made.get(transpose.input[0])
    if reshape is None or reshape.op_type != "Reshape":
        return None
    shape = made.get(reshape.input[1])
    if shape is None or shape.op_type != "Concat" or len(shape.input) != 4:
        return None
    heads = small.get(shape.input[2])
    return None if heads is None else (reshape.input[0], int(numpy_helper.to_array(heads)[0]))


def _flat_result(takers: dict[str, list[Any]], kept: set[str], name: str) -> Any | None:
    """The reshape that makes a result (batch, length, heads · width) again, if nothing else takes it before."""
    for operator in ("Transpose", "Reshape"):
        nodes = takers.get(name, [])
        if len(nodes) != 1 or nodes[0].op_type != operator or name in kept:
            return None
        if operator == "Transpose" and list(nodes[0].attribute[0].ints) != _HEADS_FIRST:
            return None
        name = nodes[0].output[0]
    return nodes[0]


def _unusual(node: Any) -> bool:
    """Whether an attention does what the other operator does not."""
    told = {attribute.name: attribute for attribute in node.attribute}
    return any(
        name in told and (told[name].i or told[name].f) for name in ("is_causal", "softcap", "qk_matmul_output_mode")
    )


def _needed(nodes: list[Any], kept: set[str]) -> list[Any]:
    """The nodes that results still depend on, in their order, which need not be that of computing."""
    made = {output: node for node in nodes for output in node.output}
    wanted, seen = list(kept), set()
    while wanted:
        node = made.get(wanted.pop())
        if node is not None and node.output[0] not in seen:
            seen.add(node.output[0])
            wanted.extend(node.input)
    return [node for node in nodes if node.output[0] in seen]
