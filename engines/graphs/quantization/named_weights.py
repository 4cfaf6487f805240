"""Weights by name in a graph that was quantized: where each is now, and what is needed to round a changed one again.

Every row is checked by value: what the rules of ``engines/bundle/rounding.py`` make of the source's weight must be what
the graph holds, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.named_weights import (
    NamedWeights,
    RoundedBias,
    RoundedMatrix,
    Smoothing,
    StoredWeight,
    WeightRecord,
)
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.rounding import (
    bias_steps,
    channel_steps,
    remainders,
    rounded,
    rounded_bias,
    steps_for_bias,
)
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.graphs.editor import input_of, load_graph, save_graph, weight_of
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.spec import Array

_UNKNOWN = "the graph in eight bits holds it in a way that latentrt does not know"
_ALIGNMENT = 64  # bytes


def weights_after_quantization(
    source: ComponentWeights,
    source_graph: Path,
    graph: Path,
    root: Path,
    inputs: Mapping[str, InputChoice],
    recipe: Recipe,
    remainders_file: Path,
) -> NamedWeights:
    """The record of a graph in eight bits. What is in floating point is the source's weight, number by number.

    Small weights move out of the graph to the end of its weights file, so that all are mapped alike.

    Args:
        source: the weights that were quantized.
        source_graph: the graph that held them.
        graph: the one that was made of it, its weights beside it; it is written again.
        root: the bundle that ``graph`` is in.
        inputs: how tensors of the source's graph were smoothed, by name.
        recipe: how weights were rounded.
        remainders_file: where to write what the graph does not hold: the parts of steps that rounding lost, steps,
            divisors and biases in float32.
    """
    model = load_graph(graph)
    remainders_file.parent.mkdir(parents=True, exist_ok=True)
    with remainders_file.open("wb") as file:
        rows = _Rows(
            source=source,
            folder=str(graph.parent.relative_to(root)),
            path=graph.with_name(f"{graph.name}.data"),
            before=OnnxWeights(source_graph),
            now={str(node.name): node for node in model.graph},
            inputs=inputs,
            recipe=recipe,
            remainders=_Remainders(file),
        )
        named = rows.named()
    save_graph(model, graph)
    return named


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A node of the source's graph that takes a weight, and what its twin takes now.

    Attributes:
        node: the source's.
        index: which of its inputs it is.
        twin: the same node in the graph in eight bits.
        value: the initializer that the twin's input comes from.
        dequantize: the node that turns it into a number in floating point, if there is one.
    """

    node: Any
    index: int
    twin: Any
    value: Any
    dequantize: Any


class _Remainders:
    """The file of what the graph lost. Equal numbers that several weights need are written once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def add(self, numbers: Array) -> int:
        """Writes an array; returns where it begins."""
        content = np.ascontiguousarray(numbers)
        if content.dtype == np.int8:
            return self._write(content)
        key = content.tobytes()
        if key not in self._places:
            self._places[key] = self._write(content)
        return self._places[key]

    def _write(self, content: Array) -> int:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = int(self._file.tell())
        self._file.write(content.data)
        return offset


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Both graphs, the weights file of the new one, and the remainders."""

    source: ComponentWeights
    folder: str
    path: Path
    before: OnnxWeights
    now: Mapping[str, Any]
    inputs: Mapping[str, InputChoice]
    recipe: Recipe
    remainders: _Remainders
    rounded: dict[str, RoundedMatrix] = field(default_factory=dict)

    def named(self) -> NamedWeights:
        """The record of all weights; matrices come before the biases that are rounded with them."""
        uses = {name: self._uses(row) for name, row in self.source.named.weights.items()}
        biases = self._biases(uses)
        for name, those in uses.items():
            for use in those or ():
                initializer = str(use.value.name)
                if _dtype(use.value) == self.recipe.numbers.dtype and initializer not in self.rounded:
                    matrix = self._matrix(name, use, biases.get(initializer, {}))
                    if matrix is not None:
                        self.rounded[initializer] = matrix
        rows = {name: self._row(name, row, uses[name]) for name, row in self.source.named.weights.items()}
        known = {name for row in rows.values() for name in row.rounded}
        return NamedWeights(weights=rows, rounded={name: row for name, row in self.rounded.items() if name in known})

    def _uses(self, row: WeightRecord) -> list[_Use] | None:
        """Every node that takes a weight, before and now; None if one is not there any more."""
        uses = []
        for place in row.places:
            if place.initializer is None:
                continue
            for node, index in self.before.model.graph.initializers[place.initializer].uses():
                twin = self.now.get(str(node.name))
                if twin is None or index >= len(twin.inputs) or twin.inputs[index] is None:
                    return None
                value, dequantize = _origin(twin.inputs[index])
                if value.const_value is None:
                    return None
                uses.append(_Use(node=node, index=index, twin=twin, value=value, dequantize=dequantize))
        return uses

    def _biases(self, uses: Mapping[str, list[_Use] | None]) -> dict[str, dict[str, _Use]]:
        """The biases in 32 bits, by the eight-bit initializer whose node adds them and by name."""
        biases: dict[str, dict[str, _Use]] = {}
        for name, those in uses.items():
            for use in those or ():
                if _dtype(use.value) == "int32":
                    matrix, _ = _origin(input_of(use.twin, 1))
                    biases.setdefault(str(matrix.name), {})[name] = use
        return biases

    def _matrix(self, name: str, use: _Use, biases: Mapping[str, _Use]) -> RoundedMatrix | None:
        """What an eight-bit initializer is; None if it is not what the rules make of the weight."""
        (place, *_) = (
            place
            for place in self.source.named.weights[name].places
            if place.initializer == str(use.node.inputs[use.index].name)
        )
        axis = use.dequantize.attributes["axis"].value % len(place.shape)
        smoothing, factors = self._smoothing(use)
        weight = place.stored(self.source.array(name))
        if factors is not None:
            weight = np.asarray(weight * factors)
        numbers = self.recipe.numbers
        steps = channel_steps(weight, axis, numbers, self.recipe.largest_weight)
        exact = {bias: np.asarray(self.source.array(bias), np.float32) for bias in biases}
        input_steps = {bias: _scale(input_of(one.twin, 0)) for bias, one in biases.items()}
        for bias, step in input_steps.items():
            steps = steps_for_bias(steps, exact[bias], step)
        quantized, scale = rounded(weight, steps, axis, numbers), input_of(use.dequantize, 1)
        if not (_holds(use.value, quantized) and _holds(scale, steps.astype(_dtype(scale)))):
            return None
        rows = [
            self._bias(bias, one, bias_steps(steps, input_steps[bias]), exact[bias], input_steps[bias])
            for bias, one in biases.items()
        ]
        if any(row is None for row in rows):
            return None
        file, offset = self._outside(use.value)
        return RoundedMatrix(
            weight=name,
            scale=str(scale.name),
            scale_dtype="float16" if _dtype(scale) == "float16" else "float32",
            precision=numbers.precision,
            file=file,
            offset=offset,
            shape=place.shape,
            layout=place.layout,
            axis=axis,
            largest=self.recipe.largest_weight,
            steps=self.remainders.add(steps),
            remainders=self.remainders.add(remainders(weight, quantized, steps, axis, numbers)),
            smoothing=smoothing,
            biases=tuple(row for row in rows if row is not None),
        )

    def _bias(self, name: str, use: _Use, multiples: Array, exact: Array, input_step: float) -> RoundedBias | None:
        """What a bias in 32 bits is; None if it is not what the rules make of it."""
        scale = input_of(use.dequantize, 1)
        if not (_holds(scale, multiples) and _holds(use.value, rounded_bias(exact, multiples))):
            return None
        return RoundedBias(
            bias=name,
            initializer=str(use.value.name),
            scale=str(scale.name),
            input_step=input_step,
            offset=self.remainders.add(exact),
        )

    def _row(self, name: str, row: WeightRecord, uses: list[_Use] | None) -> WeightRecord:
        """What became of one weight."""
        if uses == []:  # not of the graph
            return row
        unknown = WeightRecord(shape=row.shape, reason=_UNKNOWN)
        if uses is None:
            return unknown
        places: dict[str, StoredWeight] = {}
        matrices: dict[str, None] = {}
        for use in uses:
            initializer = str(use.value.name)
            if _dtype(use.value) in (self.recipe.numbers.dtype, "int32"):
                is_bias = _dtype(use.value) == "int32"
                matrix = str(_origin(input_of(use.twin, 1))[0].name) if is_bias else initializer
                if matrix not in self.rounded:
                    return unknown
                matrices[matrix] = None
            elif initializer not in places:
                place = self._place(name, row, use)
                if place is None:
                    return unknown
                places[initializer] = place
        return WeightRecord(shape=row.shape, places=tuple(places.values()), rounded=tuple(matrices))

    def _place(self, name: str, row: WeightRecord, use: _Use) -> StoredWeight | None:
        """Where a weight in floating point is now; None if it is not the source's."""
        (place, *_) = (place for place in row.places if place.initializer == str(use.node.inputs[use.index].name))
        weight, dtype = place.stored(self.source.array(name)), _dtype(use.value)
        smoothing, factors = self._smoothing(use)
        if factors is not None and smoothing is not None:
            smoothed = weight / factors if smoothing.divides else weight * factors
            if not _holds(use.value, np.asarray(smoothed).astype(dtype)):
                smoothing = None
        if smoothing is None and not _holds(use.value, weight.astype(dtype)):
            return None
        file, offset = self._outside(use.value)
        changed = {"initializer": str(use.value.name), "dtype": dtype, "smoothing": smoothing}
        return place.model_copy(update={"file": file, "offset": offset, **changed})

    def _smoothing(self, use: _Use) -> tuple[Smoothing | None, Array | None]:
        """What SmoothQuant may have done to a weight, and the numbers in a shape to be broadcast."""
        node = self._quantizable.get(str(use.node.name))
        if node is not None and use.index == 1:
            smoothed, axis = self.inputs.get(node.input), 1 - node.channels
            divisor = None if smoothed is None else smoothed.divisor  # where weights alone are rounded, nothing was
            if divisor is None:
                return None, None
            factors = divisor[:, None] if axis == 0 else divisor[None, :]
            return Smoothing(axis=axis, offset=self.remainders.add(divisor)), factors
        choice = self.inputs.get(str(use.node.outputs[0].name))
        if choice is None or choice.divisor is None or use.node.op_type != "LayerNormalization":
            return None, None
        return Smoothing(axis=0, offset=self.remainders.add(choice.divisor), divides=True), choice.divisor

    @cached_property
    def _quantizable(self) -> dict[str, Any]:
        return {node.name: node for node in self.before.quantizable()}

    def _outside(self, value: Any) -> tuple[str, int]:
        """Where a weight is in the file beside the graph, to which it is moved if it is not there."""
        import onnx_ir as ir

        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            content, offset = tensor.tobytes(), self.path.stat().st_size if self.path.exists() else 0
            with self.path.open("ab") as file:
                file.write(content)
            tensor = ir.ExternalTensor(
                self.path.name,
                offset,
                len(content),
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=self.path.parent,
            )
            value.const_value = tensor
        return f"{self.folder}/{tensor.location}", int(tensor.offset or 0)


def _origin(value: Any) -> tuple[Any, Any]:
    """The value that casts and dequantizing begin with, and the node that dequantizes it, if one does."""
    dequantize = None
    while (producer := value.producer()) is not None and producer.op_type in ("Cast", "DequantizeLinear"):
        dequantize = producer if producer.op_type == "DequantizeLinear" else dequantize
        value = input_of(producer, 0)
    return value, dequantize


def _scale(value: Any) -> float:
    """The size of a step of a rounded tensor."""
    return float(weight_of(input_of(value.producer(), 1)))


def _dtype(value: Any) -> str:
    return str(value.const_value.dtype.numpy())


def _holds(value: Any, numbers: Array) -> bool:
    """Whether an initializer holds just these numbers, or bits of a type that NumPy itself lacks."""
    held = weight_of(value)
    return np.array_equal(held if held.dtype.isbuiltin == 1 else held.view(numbers.dtype), numbers)
