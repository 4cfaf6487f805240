"""What each node's rounding alone does to a component's result: one graph with a switch per node."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range, Recipe
from latentrt.engines.spec import Array

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
) -> Any:
    """The graph with an If in place of every node: rounded, or as it was.

    Weights are rounded inside of the branch as it runs, so that the graph costs the memory of one rounded weight.
    """
    from onnx import TensorProto, helper, numpy_helper

    model = weights.copy_for_cpu()
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info(_SWITCHES, TensorProto.BOOL, [len(nodes)]))
    made: dict[str, list[Any]] = {}
    by_name = {node.name: (index, node) for index, node in enumerate(nodes)}

    def constant(name: str, array: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    for original in list(graph.node):
        if original.name not in by_name:
            continue
        index, node = by_name[original.name]
        base = f"{node.name}.rounded"
        branch = [*_rounding(constant, base, node, original, inputs[node.input], outputs, recipe)]
        result = helper.make_tensor_value_info(branch[-1].output[0], TensorProto.FLOAT, None)
        plain = helper.make_node(original.op_type, list(original.input), [f"{base}.plain"], name=f"{base}.plain")
        plain.attribute.extend(original.attribute)
        unchanged = helper.make_tensor_value_info(f"{base}.plain", TensorProto.FLOAT, None)
        switch = helper.make_node(
            "Gather", [_SWITCHES, constant(f"{base}.index", np.array(index))], [f"{base}.on"], name=f"{base}.on"
        )
        chosen = helper.make_node(
            "If",
            [f"{base}.on"],
            [node.output],
            name=node.name,
            then_branch=helper.make_graph(branch, f"{base}.then", [], [result]),
            else_branch=helper.make_graph([plain], f"{base}.else", [], [unchanged]),
        )
        made[node.name] = [switch, chosen]
    rewritten = [new for node in graph.node for new in made.get(node.name, [node])]
    del graph.node[:]
    graph.node.extend(rewritten)
    return model


def _rounding(
    constant: Callable[[str, Array], str],
    base: str,
    node: QuantizableNode,
    original: Any,
    choice: InputChoice,
    outputs: Mapping[str, Range],
    recipe: Recipe,
) -> Iterator[Any]:
    """The nodes of a branch that computes in eight bits, but in floating point."""
    from onnx import helper

    def step(operator: str, taken: list[str], name: str, **attributes: Any) -> Any:
        return helper.make_node(operator, taken, [f"{base}.{name}"], name=f"{base}.{name}", **attributes)

    def rounded(tensor: str, span: Range, name: str) -> Iterator[Any]:
        scale, zero = span.scale_and_zero(recipe)
        parameters = [constant(f"{base}.{name}_scale", scale), constant(f"{base}.{name}_zero", zero)]
        yield step("QuantizeLinear", [tensor, *parameters], f"{name}_q")
        yield step("DequantizeLinear", [f"{base}.{name}_q", *parameters], name)

    tensor, weight = node.input, node.weight
    if choice.divisor is not None:
        yield step("Div", [tensor, constant(f"{base}.divisor", choice.divisor)], "smoothed")
        tensor = f"{base}.smoothed"
        column = choice.divisor[:, None] if node.channels == 1 else choice.divisor[None, :]
        yield step("Mul", [weight, constant(f"{base}.multiplier", column)], "weight")
        weight = f"{base}.weight"
    yield from rounded(tensor, choice.range, "input")
    # The largest magnitude of each channel is the recipe's largest number
    others = [axis for axis in range(len(node.shape)) if axis != node.channels]
    yield step("Abs", [weight], "weight_abs")
    yield step("ReduceMax", [f"{base}.weight_abs", constant(f"{base}.axes", np.array(others))], "peak", keepdims=1)
    yield step(
        "Div", [f"{base}.peak", constant(f"{base}.largest", np.array(recipe.largest_weight, np.float32))], "step"
    )
    # As ONNX Runtime's quantizer does it, a channel of zeros has steps of 1
    yield step("Less", [f"{base}.step", constant(f"{base}.tiny", np.array(np.finfo(np.float32).tiny))], "is_zero")
    yield step(
        "Where", [f"{base}.is_zero", constant(f"{base}.one", np.array(1, np.float32)), f"{base}.step"], "step_size"
    )
    yield step("Div", [weight, f"{base}.step_size"], "in_steps")
    yield step("Round", [f"{base}.in_steps"], "whole_steps")
    yield step("Mul", [f"{base}.whole_steps", f"{base}.step_size"], "weight_rounded")
    bias = list(original.input[2:])
    if bias and not recipe.symmetric:  # whole numbers of the product's steps, of a channel of zeros the input's
        yield step("Reshape", [f"{base}.step_size", constant(f"{base}.flat", np.array([-1]))], "channel_steps")
        yield step("Mul", [f"{base}.channel_steps", f"{base}.input_scale"], "bias_steps")
        yield step("Div", [bias[0], f"{base}.bias_steps"], "bias_in_steps")
        yield step("Round", [f"{base}.bias_in_steps"], "bias_whole")
        yield step("Mul", [f"{base}.bias_whole", f"{base}.bias_steps"], "bias_rounded")
        bias = [f"{base}.bias_rounded"]
    last = step(original.op_type, [f"{base}.input", f"{base}.weight_rounded", *bias], "result")
    last.attribute.extend(original.attribute)
    yield last
    if node.output in outputs:
        yield from rounded(f"{base}.result", outputs[node.output], "output")
