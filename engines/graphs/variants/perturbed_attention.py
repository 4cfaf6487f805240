"""The input of perturbed-attention guidance: which self-attentions let every place see itself alone."""

from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import PERTURBED_ATTENTIONS
from latentrt.engines.bundle.unet.structure import AttentionLayer, UnetStructure
from latentrt.engines.graphs.editor import GraphEditor, Insertion, dtype_of
from latentrt.engines.graphs.variants.attention_layers import attention_nodes, flat_input, flat_result
from latentrt.engines.spec import BATCH

if TYPE_CHECKING:
    import onnx_ir as ir


def add_perturbed_attention_inputs(model: "ir.Model", structure: UnetStructure, optional: bool) -> None:
    """Adds ``perturbed_attentions`` to a U-Net's graph, in place.

    Where it is 1, a self-attention's result is its values (Ahn et al. 2024, arXiv 2403.17377: the attention map is the
    identity); the last projection follows as ever. What is chosen is whole, so a sample that is not perturbed keeps its
    result to the last bit.

    Where the input may be left out, an If gives what turns results into values, and −0 for all else: x + −0 is x for
    every x. The sum is not in the branches: there ONNX Runtime keeps fp16 that it computes in float32 elsewhere, and
    rounds once more.

    Raises:
        EngineError: the graph has other self-attentions than the U-Net.
    """
    import onnx_ir as ir

    layers = structure.self_attentions
    nodes = attention_nodes(model.graph, layers)
    editor = GraphEditor(model.graph)
    if optional:  # no dimension is told, since the default has one sample
        default = np.zeros((1, len(layers)), np.float32)
        given = editor.input(PERTURBED_ATTENTIONS, ir.DataType.FLOAT, [None, None], default)
    else:
        given = editor.input(PERTURBED_ATTENTIONS, ir.DataType.FLOAT, [BATCH, len(layers)])
    place, ones = editor.before(editor.graph[0], "perturbed"), [1] * len(layers)
    chosen = place.add("Greater", given, place.constant(np.float32(0.5)))
    each = place.split(place.add("Unsqueeze", chosen, place.constant([2])), ones, 1)  # (batch, 1, 1)
    anywhere: list[ir.Value | None] = [None] * len(layers)
    if optional:
        most = place.add("ReduceMax", given, place.constant([0]), keepdims=0)
        anywhere = [*place.split(place.add("Greater", most, place.constant(np.float32(0.5))), ones, 0)]
    for index, (layer, node) in enumerate(zip(layers, nodes, strict=True)):
        _perturb(editor, layer, node, f"perturbed.{index}", each[index], anywhere[index])


def _perturb(
    editor: GraphEditor,
    layer: AttentionLayer,
    node: "ir.Node",
    stem: str,
    chosen: "ir.Value",
    anywhere: "ir.Value | None",
) -> None:
    """Puts a self-attention's values in the place of its result where they are chosen.

    Args:
        editor: of the graph.
        layer: the self-attention.
        node: its operator.
        stem: of new nodes' names.
        chosen: for which samples (batch, 1, 1).
        anywhere: whether for any; None where it is not worth asking.
    """
    import onnx_ir as ir

    result, (values, _) = flat_result(node, layer), flat_input(node, 2, layer)
    dtype, takers, place = dtype_of(result), list(result.uses()), editor.after(result, stem)

    def typed(place: Insertion, value: "ir.Value", wanted: "ir.DataType") -> "ir.Value":
        return value if dtype_of(value) == wanted else place.add("Cast", value, to=wanted)

    if anywhere is None:
        total = place.add("Where", chosen, typed(place, values, dtype), result, name=f"{stem}.chosen")
    else:
        then, otherwise = editor.branch(f"{stem}.given"), editor.branch(f"{stem}.none")
        nothing = editor.constant(np.full((1, 1, 1), -0.0, dtype.numpy()))
        # In float32 by casts of its own: those that ONNX Runtime inserts would have the names of those outside
        after, before = (typed(then, value, ir.DataType.FLOAT) for value in (values, result))
        kept = editor.constant(np.float32(-0.0))
        difference = then.add("Where", chosen, then.add("Sub", after, before), kept)
        difference.dtype = ir.DataType.FLOAT
        addend = place.add(
            "If",
            anywhere,
            then_branch=then.subgraph(typed(then, difference, dtype), dtype),
            else_branch=otherwise.subgraph(otherwise.add("Identity", nothing), dtype),
        )
        total = place.add("Add", result, addend, name=f"{stem}.sum")
    total.dtype, total.shape = dtype, result.shape
    for taker, at in takers:
        taker.replace_input_with(at, total)
