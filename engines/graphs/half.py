"""fp32 graphs to fp16 or bf16: every floating-point node and weight but those of the declared islands."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.errors import CheckpointError
from latentrt.engines.graphs.editor import (
    GraphEditor,
    computed_weight,
    load_graph,
    save_with_weights,
    scope_of,
    weight_of,
)
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = float(np.finfo(np.float16).max)  # 65504


@dataclass(frozen=True, kw_only=True)
class HalfType:
    """A floating-point type of sixteen bits: onnx_ir's name of it, its largest number, and how twins' names end."""

    dtype: str
    largest: float
    suffix: str


HALF_TYPES = {
    Precision.FP16: HalfType(dtype="FLOAT16", largest=LARGEST, suffix=".fp16"),
    # float32's exponent with eight bits of mantissa; float32's own largest number would round to infinity
    Precision.BF16: HalfType(dtype="BFLOAT16", largest=float.fromhex("0x1.fep+127"), suffix=".bf16"),
}


def largest_number(precision: Precision | None) -> float:
    """The largest number of a precision of sixteen bits; infinity for others, whose range nothing leaves."""
    return HALF_TYPES[precision].largest if precision in HALF_TYPES else math.inf


# Nodes that move values without computing: what comes in as fp32 from outside stays so until something computes
_MOVES = frozenset({"Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# Inputs that ONNX wants in fp32 whatever the data's type: scales of Resize, and of its predecessor
_ALWAYS_FP32 = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}


def halve(model: "ir.Model", islands: Sequence[Island], precision: Precision = Precision.FP16) -> dict[str, int]:
    """Rewrites a graph in place; its inputs and outputs stay fp32, with casts behind and before them.

    Weights are converted when the model is saved, one at a time.

    Args:
        model: the graph; its values have types, and its nodes torch's scopes.
        islands: what stays in fp32.
        precision: fp16 or bf16.

    Returns:
        How many floating-point nodes each island holds, by its reason.

    Raises:
        CheckpointError: weights beyond the type's range.
    """
    return _Halving(model, islands, precision).run()


def halve_file(path: Path, islands: Sequence[Island]) -> dict[str, int]:
    """The same for a graph in a file with its weights beside it, which may have Q/DQ; it is replaced.

    Returns:
        How many floating-point nodes each island holds, by its reason.
    """
    import onnx_ir as ir

    model = load_graph(path)
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            node.outputs[0].dtype = ir.DataType.FLOAT
    kept = halve(model, islands)
    save_with_weights(model, path)
    return kept


class _Halving:
    """One rewrite. ``_now`` holds the type that a value has in the new graph."""

    def __init__(self, model: "ir.Model", islands: Sequence[Island], precision: Precision) -> None:
        import onnx_ir as ir

        self._ir, self._precision, self._type = ir, precision, HALF_TYPES[precision]
        self._graph, self._editor = model.graph, GraphEditor(model.graph)
        self._islands = islands
        self._single, self._half = ir.DataType.FLOAT, ir.DataType[self._type.dtype]
        self._now: dict[Any, Any] = {}
        self._casts: dict[tuple[Any, Any], Any] = {}
        self._outside = set(model.graph.inputs)  # fp32 from outside, at most moved
        # An input's default is no weight: a caller gives other numbers
        self._initializers = set(model.graph.initializers.values()) - self._outside
        self._kept: Counter[str] = Counter()

    def run(self) -> dict[str, int]:
        """Rewrites all nodes, then the outputs and the weights."""
        for node in list(self._graph):
            self._rewrite(node)
        for output in list(self._graph.outputs):
            if self._now.get(output) is self._half:
                self._widen_output(output)
        self._editor.prune()
        return dict(self._kept)

    def _rewrite(self, node: Any) -> None:
        floats = [value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype is self._single]
        if not floats:
            return
        island = next((island for island in self._islands if island.holds(scope_of(node), node.op_type)), None)
        wanted = self._half if island is None else self._single
        if island is not None:
            self._kept[island.reason] += 1
        elif node.op_type in _MOVES and node.inputs[0] in self._outside:
            wanted = self._single
            self._outside.update(node.outputs)
        fixed = _ALWAYS_FP32.get(node.op_type, frozenset())
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is self._single and value not in self._now:
                self._now[value] = self._single  # a graph input or an initializer seen for the first time
            if value in self._now:
                kind = self._single if index in fixed else wanted
                node.replace_input_with(index, self._as(value, kind))
        self._retarget(node, wanted)
        for value in node.outputs:
            if value.dtype is self._single:
                self._now[value] = wanted
                value.dtype = wanted

    def _retarget(self, node: Any, wanted: Any) -> None:
        """Attributes that name a type or hold a value."""
        attributes = node.attributes
        if node.op_type == "Cast" and attributes["to"].value == self._single:
            attributes["to"] = self._ir.AttrInt64("to", int(wanted))
        elif node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes and wanted is self._half:
            tensor = self._ir.tensor(self._clamped(attributes["value"].value.numpy()))
            attributes["value"] = self._ir.AttrTensor("value", tensor)

    def _as(self, value: Any, kind: Any) -> Any:
        """The value in a type: itself, its half twin if it is a weight, or a cast of it made once."""
        if self._now[value] is kind:
            return value
        if (value, kind) not in self._casts:
            twin = self._half_weight(value) if value in self._initializers else self._cast(value, kind)
            self._now[twin] = kind
            self._casts[value, kind] = twin
        return self._casts[value, kind]

    def _half_weight(self, value: Any) -> Any:
        self._check_range(value.name, weight_of(value))
        name = f"{value.name}{self._type.suffix}"
        half = computed_weight(name, value.const_value, lambda: self._clamped(weight_of(value)), self._half)
        return self._editor.weight(name, half)

    def _cast(self, value: Any, kind: Any) -> Any:
        name = f"{value.name}{self._type.suffix if kind is self._half else '.fp32'}"
        cast = self._editor.after(value).add("Cast", value, to=kind, name=name)
        cast.dtype = kind
        return cast

    def _widen_output(self, output: Any) -> None:
        """Casts a graph's output back; the name stays with the graph's output, and nodes go on taking the other."""
        self._editor.give(self._cast(output, self._single), output)

    def _clamped(self, array: Array) -> Array:
        """Sixteen bits, with what lies beyond their range at its ends: the lowest fp32 number that masks attention."""
        largest = self._type.largest
        return np.asarray(np.clip(array, -largest, largest).astype(self._half.numpy()))

    def _check_range(self, name: str, array: Array) -> None:
        """Refuses weights beyond the range; a single number is a constant of the graph, such as a mask's."""
        largest = float(np.abs(array).max(initial=0.0))
        if array.size > 1 and largest > self._type.largest:
            raise CheckpointError(
                f"{name} has weights of up to {largest:.3g}, expected at most {self._type.largest:.0f} for "
                f"{self._precision}; build it in fp32"
            )
