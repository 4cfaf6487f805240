"""Weights by name: where a bundle holds each parameter of a checkpoint, and in which layout.

The record of a component lists every parameter by its dotted name in the checkpoint's part, such as
``down_blocks.0.resnets.0.conv1.weight``: the names that adapters speak. Neither torch nor onnx is needed to read a
weight through it or to lay out a changed one.
"""

import mmap
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.bundle.rounding import restored
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.spec import Array

# Why a weight has no place: nothing comes of changing it
NOT_COMPUTED = "the model takes nothing that this layer computes"
UNUSED = "the graph computes nothing with it"


class Layout(StrEnum):
    """The order in which a weight's numbers are stored."""

    TORCH = "torch"
    TRANSPOSED = "transposed"  # a matrix (out, in) as (in, out)


class Smoothing(Record):
    """What SmoothQuant made of a weight: its channels along ``axis``, as stored, are multiplied by numbers, or divided.

    The numbers (float32) begin ``offset`` bytes into the component's remainders.
    """

    axis: int = Field(ge=0)
    offset: int = Field(ge=0)
    divides: bool = False


class StoredWeight(Record):
    """One place that holds a weight: an initializer of the component's graph, or a table that no graph has (None).

    Its numbers begin ``offset`` bytes into ``file``, a path in the bundle. ``shape`` is as stored.
    """

    initializer: str | None
    file: str
    offset: int = Field(ge=0)
    shape: tuple[int, ...]
    dtype: Literal["float32", "float16"]
    layout: Layout
    smoothing: Smoothing | None = None

    @model_validator(mode="after")
    def _axes(self) -> "StoredWeight":
        if self.smoothing is not None and self.smoothing.axis >= len(self.shape):
            raise ValueError("an axis that the weight does not have")
        return self

    def stored(self, weight: Array) -> Array:
        """A weight in torch's layout as it is stored here, unless smoothed: contiguous, in the place's shape, dtype."""
        return np.ascontiguousarray(_ordered(weight, self.layout, self.shape), dtype=self.dtype)


class RoundedBias(Record):
    """A bias in 32 bits: multiples of the input's step times the steps of the matrix that it is added to.

    Attributes:
        bias: the name of the weight.
        initializer: the one that holds it.
        scale: the initializer of what it is a multiple of.
        input_step: the size of a step of the node's input.
        offset: where the bias itself (float32) begins in the component's remainders.
    """

    bias: str
    initializer: str
    scale: str
    input_step: float
    offset: int = Field(ge=0)


class RoundedMatrix(Record):
    """A weight in eight bits, and what is stored in multiples of its steps (``engines/bundle/rounding.py``).

    Attributes:
        weight: its name.
        scale: the initializer of the steps, one per output channel, of ``scale_dtype``.
        file: a path in the bundle; the eight-bit numbers begin ``offset`` bytes into it.
        shape: as stored.
        layout: of what is stored.
        axis: counts the output channels, as stored.
        largest: what a channel's largest number becomes.
        steps: where the steps (float32) begin in the component's remainders.
        remainders: where the parts of a step that rounding lost (int8) begin there.
        smoothing: what was done to it before.
        biases: of the nodes that take it.
    """

    weight: str
    scale: str
    scale_dtype: Literal["float32", "float16"]
    file: str
    offset: int = Field(ge=0)
    shape: tuple[int, ...]
    layout: Layout
    axis: int = Field(ge=0)
    largest: int = Field(gt=0)
    steps: int = Field(ge=0)
    remainders: int = Field(ge=0)
    smoothing: Smoothing | None = None
    biases: tuple[RoundedBias, ...] = ()

    @model_validator(mode="after")
    def _axes(self) -> "RoundedMatrix":
        if max(self.axis, self.smoothing.axis if self.smoothing else 0) >= len(self.shape):
            raise ValueError("an axis that the matrix does not have")
        return self


class WeightRecord(Record):
    """One parameter: its shape in torch and every place that holds it, so that a change reaches all of them.

    ``rounded`` names the eight-bit initializers that hold it, or whose nodes add it. One that cannot be read or changed
    here has no place at all, and ``reason`` says why.
    """

    shape: tuple[int, ...]
    places: tuple[StoredWeight, ...] = ()
    rounded: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def takes_part(self) -> bool:
        """Whether the model computes anything with it."""
        return self.reason not in (NOT_COMPUTED, UNUSED)

    @model_validator(mode="after")
    def _places_or_reason(self) -> "WeightRecord":
        if bool(self.places or self.rounded) == bool(self.reason):
            raise ValueError("a weight needs places, or a reason why it has none")
        if any(prod(place.shape) != prod(self.shape) for place in self.places):
            raise ValueError("a place of another size than its weight")
        return self


class NamedWeights(Record):
    """All parameters of a component, by their names in the checkpoint's part; ``rounded`` by initializer."""

    weights: dict[str, WeightRecord]
    rounded: dict[str, RoundedMatrix] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _knows_the_rounded(self) -> "NamedWeights":
        named = {initializer for row in self.weights.values() for initializer in row.rounded}
        weights = {name for row in self.rounded.values() for name in (row.weight, *(one.bias for one in row.biases))}
        if named - self.rounded.keys() or weights - self.weights.keys():
            raise ValueError("a weight in eight bits that is not described")
        return self

    @property
    def initializers(self) -> tuple[str, ...]:
        """All initializers of the graph that change with some weight, each once."""
        places = [place.initializer for row in self.weights.values() for place in row.places if place.initializer]
        for initializer, matrix in self.rounded.items():
            places += [initializer, matrix.scale]
            places += [name for bias in matrix.biases for name in (bias.initializer, bias.scale)]
        return tuple(dict.fromkeys(places))


def read_named_weights(path: Path) -> NamedWeights:
    """Reads a component's record.

    Raises:
        BundleError: it is missing, cut short or not ours.
    """
    try:
        return NamedWeights.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise BundleError(
            f"cannot read the names of weights in {str(path)!r} ({reason}); build the bundle again"
        ) from error


def write_named_weights(path: Path, named: NamedWeights) -> None:
    """Writes a component's record, a line for each parameter."""

    def lines(rows: Mapping[str, Record]) -> str:
        return ",\n".join(f' "{name}": {row.model_dump_json(exclude_defaults=True)}' for name, row in rows.items())

    rounded = f',\n"rounded": {{\n{lines(named.rounded)}\n}}' if named.rounded else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"weights": {{\n{lines(named.weights)}\n}}{rounded}}}\n', "utf-8")


@dataclass(frozen=True)
class ComponentWeights:
    """A component's weights by name. ``files`` tells where the bundle's files are; they are mapped, not read.

    Attributes:
        component: its name, for messages.
        named: the record.
        files: paths by their names in the bundle.
        remainders: which of them holds what an int8 graph lost by rounding and smoothing.
    """

    component: str
    named: NamedWeights
    files: Mapping[str, Path]
    remainders: str | None = None

    @property
    def initializers(self) -> dict[str, StoredWeight]:
        """Every place that is an initializer of the graph, by the initializer's name."""
        places = (place for row in self.named.weights.values() for place in row.places)
        return {place.initializer: place for place in places if place.initializer is not None}

    @cached_property
    def _mapped(self) -> dict[str, mmap.mmap]:
        return {name: _mapped(path) for name, path in self.files.items() if path.stat().st_size}

    def release(self, name: str) -> None:
        """Gives back the memory of a weight's pages in the files; who reads them again gets them again."""
        if sys.platform == "win32":  # which has no such call
            return
        for place in self._record(name).places:
            if place.file in self._mapped:
                start = place.offset - place.offset % mmap.PAGESIZE
                end = place.offset + prod(place.shape) * np.dtype(place.dtype).itemsize
                self._mapped[place.file].madvise(mmap.MADV_DONTNEED, start, end - start)

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape in torch.

        Raises:
            RequestError: the component has no weight of this name.
        """
        return self._record(name).shape

    def array(self, name: str) -> Array:
        """A weight in torch's layout, float32 or float16: a view of the file wherever it is stored like that.

        Of several places the most exact is read. What is stored in eight bits is within 1/510 of a step.

        Raises:
            RequestError: the component has no such weight, or cannot reach it.
        """
        record = self._changeable(name)
        place = max(record.places, key=lambda place: np.dtype(place.dtype).itemsize, default=None)
        if place is None or (record.rounded and place.dtype != "float32"):
            return self._restored(name, record)
        return _unordered(self._unsmoothed(self.stored(place), place.smoothing), place.layout, record.shape)

    def placed(self, name: str, weight: Array) -> list[tuple[StoredWeight, Array]]:
        """What to put in the place of a weight: every place in floating point, with the numbers that belong there.

        ``changed_initializers`` has those in eight bits, too.

        Args:
            name: the weight.
            weight: its new values in torch's shape, in float32.

        Raises:
            RequestError: the component has no such weight or cannot reach it, it has another shape, or numbers that are
                not finite or that fp16 cannot hold.
        """
        record = self._changeable(name)
        if weight.shape != record.shape:
            raise RequestError(
                f"got {weight.shape} for {self.component}'s weight {name!r}, expected {record.shape}; "
                "choose a file that was made for this model"
            )
        largest = float(np.maximum(weight.max(initial=0.0), -weight.min(initial=0.0)))
        dtypes = {place.dtype for place in record.places} | {row.scale_dtype for row in self.rounded(name).values()}
        limit = min(float(np.finfo(dtype).max) for dtype in dtypes)
        if not largest <= limit:
            raise RequestError(
                f"got numbers up to {largest:.3g} for {self.component}'s weight {name!r}, expected at most "
                f"{limit:.5g}; lower its strength, or use a bundle in fp32"
            )
        return [(place, self._placed(place, weight)) for place in record.places]

    def rounded(self, name: str) -> dict[str, RoundedMatrix]:
        """The eight-bit initializers that hold a weight, or whose nodes add it.

        Raises:
            RequestError: the component has no weight of this name.
        """
        return {initializer: self.named.rounded[initializer] for initializer in self._record(name).rounded}

    def smoothed(self, matrix: RoundedMatrix, weight: Array) -> Array:
        """A weight in torch's layout as it is rounded: in the matrix's shape, multiplied as SmoothQuant wants."""
        ordered = np.ascontiguousarray(_ordered(weight, matrix.layout, matrix.shape), np.float32)
        return self._smoothed(ordered, matrix.smoothing)

    def steps(self, matrix: RoundedMatrix) -> Array:
        """The size of a step in each output channel, float32."""
        return self._lost(matrix.steps, (matrix.shape[matrix.axis],))

    def bias(self, row: RoundedBias) -> Array:
        """A bias that is stored in 32 bits, in float32."""
        return self._lost(row.offset, self.shape(row.bias))

    def _restored(self, name: str, record: WeightRecord) -> Array:
        """A weight of its eight bits and what rounding lost, or a bias as it was; read-only."""
        matrix = self.named.rounded[record.rounded[0]]
        if matrix.weight != name:
            return self.bias(next(row for row in matrix.biases if row.bias == name))
        weight = self._unsmoothed(self.unrounded(record.rounded[0]), matrix.smoothing)
        weight.flags.writeable = False
        return _unordered(weight, matrix.layout, record.shape)

    def unrounded(self, initializer: str) -> Array:
        """A matrix as it was before it was rounded, float32: in its own shape, smoothed."""
        row = self.named.rounded[initializer]
        quantized = self._numbers(row.file, row.offset, row.shape, "int8")
        return restored(quantized, self._lost(row.remainders, row.shape, "int8"), self.steps(row), row.axis)

    def _placed(self, place: StoredWeight, weight: Array) -> Array:
        if place.smoothing is None:
            return place.stored(weight)
        ordered = np.asarray(_ordered(weight, place.layout, place.shape), np.float32)
        return np.ascontiguousarray(self._smoothed(ordered, place.smoothing), dtype=place.dtype)

    def _smoothed(self, stored: Array, smoothing: Smoothing | None) -> Array:
        if smoothing is None:
            return stored
        factors = self._factors(smoothing, stored.shape)
        return np.asarray(stored / factors if smoothing.divides else stored * factors)

    def _unsmoothed(self, stored: Array, smoothing: Smoothing | None) -> Array:
        if smoothing is None:
            return stored
        factors = self._factors(smoothing, stored.shape)
        return np.asarray(stored * factors if smoothing.divides else stored / factors)

    def _factors(self, smoothing: Smoothing, shape: tuple[int, ...]) -> Array:
        """The numbers, to be broadcast."""
        factors = self._lost(smoothing.offset, (shape[smoothing.axis],))
        return np.expand_dims(factors, tuple(axis for axis in range(len(shape)) if axis != smoothing.axis))

    def _record(self, name: str) -> WeightRecord:
        if name not in self.named.weights:
            raise RequestError(
                f"{self.component} has no weight {name!r}, expected one of its {len(self.named.weights)} names such as "
                f"{next(iter(self.named.weights), '')!r}; choose a file that was made for this model"
            )
        return self.named.weights[name]

    def _changeable(self, name: str) -> WeightRecord:
        record = self._record(name)
        if record.reason:
            raise RequestError(
                f"{self.component}'s weight {name!r} cannot be reached in this bundle: {record.reason}; "
                "leave it out, or use a bundle in fp32 or fp16"
            )
        return record

    def stored(self, place: StoredWeight) -> Array:
        """What a place holds, as stored: a view of the file wherever it can be one.

        Raises:
            BundleError: the file ends before it.
        """
        return self._numbers(place.file, place.offset, place.shape, place.dtype)

    def _lost(self, offset: int, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """Numbers that lie among the remainders."""
        return self._numbers(self.remainders or "remainders", offset, shape, dtype)

    def _numbers(self, file: str, offset: int, shape: tuple[int, ...], dtype: str) -> Array:
        """What a file of the bundle holds at a place."""
        end = offset + prod(shape) * np.dtype(dtype).itemsize
        numbers = self._mapped.get(file)
        if numbers is None or end > len(numbers):
            raise BundleError(
                f"{self.component}'s weights were recorded up to byte {end} of {file!r}, which is not there; "
                "build the bundle again"
            )
        stored = np.frombuffer(numbers, dtype, prod(shape), offset).reshape(shape)
        return stored if stored.flags.aligned else stored.copy()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _ordered(weight: Array, layout: Layout, shape: tuple[int, ...]) -> Array:
    """A weight in torch's layout as another layout and shape have it: a view."""
    return (weight.T if layout is Layout.TRANSPOSED else weight).reshape(shape)


def _unordered(stored: Array, layout: Layout, shape: tuple[int, ...]) -> Array:
    """A stored weight in torch's layout and ``shape``: a view."""
    return (stored.T if layout is Layout.TRANSPOSED else stored).reshape(shape)
