"""What each node's rounding alone does to a component's result: one graph with a switch per node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import GraphEditor, Insertion, input_of
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.pairs import as_onnx
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

_SWITCHES = "latentrt.rounded"


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """One call while calibrating, and what a change of its result does in the end.

    ``weight`` is by how much an error of 1 in the U-Net's prediction, made from here to the next recorded call, moves
    the final latents, to first order; of n calls of a decoder n^−½, which makes a mean of their squares.
    """

    inputs: Mapping[str, Array]
    weight: float


def sensitivities(
    weights: OnnxWeights,
    nodes: Sequence[QuantizableNode],
    inputs: Mapping[str, InputChoice],
    outputs: Mapping[str, Range],
    recipe: Recipe,
    calls: Sequence[RecordedCall],
    *,
    output: str,
) -> Iterator[tuple[QuantizableNode, float]]:
    """How far each node's rounding alone moves the final latents, whose deviation is near 1, or what a decoder returns.

    As root mean squares.

    Every recorded call is repeated once per node with that node rounded, input, weight and (where the recipe does so)
    result, and all others in fp32. Errors of different calls are taken to be independent.
    """
    session = weights.session(_switched(weights, nodes, inputs, outputs, recipe))
    off = np.zeros(len(nodes), bool)
    references = [session.run([output], {**call.inputs, _SWITCHES: off})[0] for call in calls]
    for index, node in enumerate(nodes):
        on = off.copy()
        on[index] = True
        moved = 0.0
        for call, reference in zip(calls, references, strict=True):
            error = session.run([output], {**call.inputs, _SWITCHES: on})[0] - reference
            moved += call.weight**2 * float(np.mean(np.square(error)))
        yield node, moved**0.5


def _switched(
    weights: OnnxWeights,
    nodes: Sequence[QuantizableNode],
    inputs: Mapping[str, InputChoice],
    outputs: Mapping[str, Range],
    recipe: Recipe,
) -> "ir.Model":
    """The graph with an If in place of every node: rounded, or as it was.

    Weights are rounded inside of the branch as it runs, so that the graph costs the memory of one rounded weight.
    """
    import onnx_ir as ir

    model = weights.copy_for_cpu()
    editor = GraphEditor(model.graph)
    switches = editor.input(_SWITCHES, ir.DataType.BOOL, [len(nodes)])
    originals = {node.name: node for node in model.graph}
    for index, node in enumerate(nodes):
        original, base = originals[node.name], f"{node.name}.rounded"
        rounded, plain, place = editor.branch(base), editor.branch(f"{base}.plain"), editor.before(original)
        eight_bits = _rounded(rounded, node, original, inputs[node.input], outputs.get(node.output), recipe)
        unchanged = plain.add_like(original, *original.inputs)
        chosen = place.add(
            "If",
            place.add("Gather", switches, editor.constant(index), name=f"{base}.on"),
            name=node.name,
            then_branch=rounded.subgraph(eight_bits, ir.DataType.FLOAT),
            else_branch=plain.subgraph(unchanged, ir.DataType.FLOAT),
        )
        editor.replace(original, chosen)
    return model


def _rounded(
    branch: Insertion,
    node: QuantizableNode,
    original: "ir.Node",
    choice: InputChoice,
    output: Range | None,
    recipe: Recipe,
) -> "ir.Value":
    """What a node computes in eight bits, but in floating point."""
    add, constant = branch.add, branch.constant

    def rounded(tensor: "ir.Value", span: Range) -> "ir.Value":
        scale, zero = span.scale_and_zero(recipe)
        parameters = constant(scale), constant(as_onnx(zero, recipe) if recipe.symmetric else zero)
        return add("DequantizeLinear", add("QuantizeLinear", tensor, *parameters), *parameters)

    tensor, weight, bias = input_of(original, 0), input_of(original, 1), original.inputs[2:]
    if choice.divisor is not None:
        tensor = add("Div", tensor, constant(choice.divisor))
        weight = add(
            "Mul", weight, constant(choice.divisor[:, None] if node.channels == 1 else choice.divisor[None, :])
        )
    tensor = rounded(tensor, choice.range)
    # The largest magnitude of each channel is the recipe's largest number
    others = [axis for axis in range(len(node.shape)) if axis != node.channels]
    peak = add("ReduceMax", add("Abs", weight), constant(others), keepdims=0)
    step = add("Div", peak, constant(np.float32(recipe.largest_weight)))
    narrow = add("Less", step, constant(np.float32(recipe.numbers.narrowest)))
    step = add("Where", narrow, constant(np.float32(recipe.numbers.instead)), step)
    zeros = constant(as_onnx(np.zeros(node.shape[node.channels], recipe.numbers.bits), recipe))
    weight = add("QuantizeLinear", weight, step, zeros, axis=node.channels)
    weight = add("DequantizeLinear", weight, step, zeros, axis=node.channels)
    if bias and not recipe.symmetric:  # whole numbers of the product's steps, of a channel of zeros the input's
        scale, _ = choice.range.scale_and_zero(recipe)
        steps = add("Mul", step, constant(scale))
        bias = [add("Mul", add("Round", add("Div", bias[0], steps)), steps)]
    result = branch.add_like(original, tensor, weight, *bias)
    return result if output is None else rounded(result, output)
