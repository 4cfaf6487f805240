"""A U-Net's attentions in its graph: the operators by their modules, and the tensors before and behind the heads."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentrt.engines.bundle.unet.structure import AttentionLayer
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.editor import input_of, scope_of, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

HEADS_FIRST = (0, 2, 1, 3)  # (batch, length, heads, width) to (batch, heads, length, width), and back
_PATH = re.compile(r"(?:.+\.)?((?:down_blocks|up_blocks|mid_block)\..+)")
_LAYS_OUT = frozenset({"Cast", "Reshape", "Transpose"})  # around an attention: they move numbers and compute nothing


def attention_nodes(graph: "ir.Graph", layers: Sequence[AttentionLayer]) -> list["ir.Node"]:
    """The attention operator of each layer.

    Raises:
        EngineError: the graph lacks one of them.
    """
    paths = ((node, _PATH.fullmatch(scope_of(node))) for node in graph if node.op_type == "Attention")
    nodes = {path[1]: node for node, path in paths if path is not None}
    lacking = [layer.scope for layer in layers if layer.scope not in nodes]
    if lacking:
        raise EngineError(
            f"got a U-Net's graph without the attention {lacking[0]}, expected {len(layers)} of its kind; build the "
            "bundle again"
        )
    return [nodes[layer.scope] for layer in layers]


def flat_input(attention: "ir.Node", index: int, layer: AttentionLayer) -> "tuple[ir.Value, int]":
    """An input of an operator as (batch, length, channels), before its heads are moved, and how many heads there are.

    Args:
        attention: the operator.
        index: 0 for queries, 1 for keys, 2 for values.
        layer: whose operator it is.

    Raises:
        EngineError: it is not laid out as the exporter does it.
    """
    value, heads = input_of(attention, index), None
    while (maker := value.producer()) is not None and maker.op_type in _LAYS_OUT and heads is None:
        if maker.op_type == "Reshape":
            shape = input_of(maker, 1).producer()
            if shape is not None and shape.op_type == "Concat" and len(shape.inputs) == 4:
                heads = int(weight_of(input_of(shape, 2))[0])
        value = input_of(maker, 0)
    if heads is None or layer.width % heads:
        raise _unknown(layer)
    return value, heads


def flat_result(attention: "ir.Node", layer: AttentionLayer) -> "ir.Value":
    """What an attention returns, as (batch, length, channels), before its last projection.

    Raises:
        EngineError: it is not laid out as the exporter does it.
    """
    value = attention.outputs[0]
    while True:
        takers = [taker for taker, _ in value.uses()]
        if len(takers) != 1 or takers[0].op_type not in _LAYS_OUT:
            raise _unknown(layer)
        value = takers[0].outputs[0]
        if takers[0].op_type == "Reshape":
            return value


def _unknown(layer: AttentionLayer) -> EngineError:
    return EngineError(
        f"got a graph whose attention {layer.scope} is laid out in an unknown way, expected its heads moved before it "
        "and behind it; build the bundle again"
    )
