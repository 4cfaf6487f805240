"""Weights by name: where a bundle holds each parameter of a checkpoint, and in which layout.

The record of a component lists every parameter by its dotted name in the checkpoint's part, such as
``down_blocks.0.resnets.0.conv1.weight``: the names that adapters speak. Neither torch nor onnx is needed to read a
weight through it or to lay out a changed one.
"""

import mmap
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.number_format import format_of
from latentrt.engines.bundle.records.named_weights import (
    Layout,
    NamedWeights,
    RoundedBias,
    RoundedMatrix,
    Smoothing,
    StoredWeight,
    WeightRecord,
    ordered,
)
from latentrt.engines.bundle.rounding import restored
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype


@dataclass(frozen=True)
class ComponentWeights:
    """A component's weights by name. ``files`` tells where the bundle's files are; they are mapped, not read.

    Attributes:
        component: its name, for messages.
        named: the record.
        files: paths by their names in the bundle.
        remainders: which of them holds what a graph in eight bits lost by rounding and smoothing.
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
                end = place.offset + prod(place.shape) * stored_dtype(place.dtype).size
                self._mapped[place.file].madvise(mmap.MADV_DONTNEED, start, end - start)

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape in torch.

        Raises:
            RequestError: the component has no weight of this name.
        """
        return self._record(name).shape

    def array(self, name: str) -> Array:
        """A weight in torch's layout, float32 or float16: a view of the file wherever it is stored like that.

        What is stored in bfloat16 comes in float32, with the same numbers.

        Of several places the most exact is read. What is stored in eight bits is within 1/510 of a step.

        Raises:
            RequestError: the component has no such weight, or cannot reach it.
        """
        record = self._changeable(name)
        place = max(record.places, key=lambda place: stored_dtype(place.dtype).size, default=None)
        if place is None or (record.rounded and place.dtype != "float32"):
            return self._restored(name, record)
        stored = stored_dtype(place.dtype).values(self.stored(place))
        return _unordered(self._unsmoothed(stored, place.smoothing), place.layout, record.shape)

    def placed(self, name: str, weight: Array) -> list[tuple[StoredWeight, Array]]:
        """What to put in the place of a weight: every place in floating point, with the numbers that belong there.

        ``changed_initializers`` has those in eight bits, too.

        Args:
            name: the weight.
            weight: its new values in torch's shape, in float32.

        Raises:
            RequestError: the component has no such weight or cannot reach it, it has another shape, or numbers that are
                not finite or that the bundle's precision cannot hold.
        """
        record = self._changeable(name)
        if weight.shape != record.shape:
            raise RequestError(
                f"got {weight.shape} for {self.component}'s weight {name!r}, expected {record.shape}; "
                "choose a file that was made for this model"
            )
        largest = float(np.maximum(weight.max(initial=0.0), -weight.min(initial=0.0)))
        dtypes = {place.dtype for place in record.places} | {row.scale_dtype for row in self.rounded(name).values()}
        limit = min(stored_dtype(dtype).largest for dtype in dtypes)
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
        as_stored = np.ascontiguousarray(ordered(weight, matrix.layout, matrix.shape), np.float32)
        return self._smoothed(as_stored, matrix.smoothing)

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
        numbers = format_of(row.precision)
        quantized = self._numbers(row.file, row.offset, row.shape, numbers.bits)
        lost = self._lost(row.remainders, row.shape, "int8")
        return restored(quantized, lost, self.steps(row), row.axis, numbers)

    def _placed(self, place: StoredWeight, weight: Array) -> Array:
        if place.smoothing is None:
            return place.stored(weight)
        as_stored = np.asarray(ordered(weight, place.layout, place.shape), np.float32)
        return np.ascontiguousarray(self._smoothed(as_stored, place.smoothing), dtype=place.dtype)

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
        """What a place holds, as stored: a view of the file wherever it can be one; of bfloat16 the bits (uint16).

        Raises:
            BundleError: the file ends before it.
        """
        return self._numbers(place.file, place.offset, place.shape, stored_dtype(place.dtype).bits)

    def _lost(self, offset: int, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """Numbers that lie among the remainders."""
        return self._numbers(self.remainders or "remainders", offset, shape, dtype)

    def _numbers(self, file: str, offset: int, shape: tuple[int, ...], dtype: str | np.dtype[Any]) -> Array:
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


def _unordered(stored: Array, layout: Layout, shape: tuple[int, ...]) -> Array:
    """A stored weight in torch's layout and ``shape``: a view."""
    return (stored.T if layout is Layout.TRANSPOSED else stored).reshape(shape)
