"""Weights by name: where a bundle holds each parameter of a checkpoint, and in which layout.

The record of a component lists every parameter by its dotted name in the checkpoint's part, such as
``down_blocks.0.resnets.0.conv1.weight``: the names that adapters speak. Neither torch nor onnx is needed to read a
weight through it or to lay out a changed one.
"""

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
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.spec import Array

# Why a weight has no place: nothing comes of changing it
NOT_COMPUTED = "the model takes nothing that this layer computes"
UNUSED = "the graph computes nothing with it"


class Layout(StrEnum):
    """The order in which a weight's numbers are stored."""

    TORCH = "torch"
    TRANSPOSED = "transposed"  # a matrix (out, in) as (in, out)


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

    def stored(self, weight: Array) -> Array:
        """A weight in torch's layout as it is stored here: contiguous, in the place's shape and dtype."""
        ordered = weight.T if self.layout is Layout.TRANSPOSED else weight
        return np.ascontiguousarray(ordered.reshape(self.shape), dtype=self.dtype)

    def unstored(self, stored: Array, shape: tuple[int, ...]) -> Array:
        """What is stored here in torch's layout and ``shape``: a view."""
        return (stored.T if self.layout is Layout.TRANSPOSED else stored).reshape(shape)


class QuantizedWeight(Record):
    """The eight-bit initializer that a weight became, and the one of its scales."""

    initializer: str
    scale: str


class WeightRecord(Record):
    """One parameter: its shape in torch and every place that holds it, so that a change reaches all of them.

    One that cannot be read or changed here has no place, and ``reason`` says why; in an int8 graph ``quantized`` may
    name what it became.
    """

    shape: tuple[int, ...]
    places: tuple[StoredWeight, ...] = ()
    reason: str | None = None
    quantized: QuantizedWeight | None = None

    @property
    def initializers(self) -> tuple[str, ...]:
        """All initializers of the graph that change with the weight."""
        quantized = () if self.quantized is None else (self.quantized.initializer, self.quantized.scale)
        return (*(place.initializer for place in self.places if place.initializer is not None), *quantized)

    @property
    def takes_part(self) -> bool:
        """Whether the model computes anything with it."""
        return self.reason not in (NOT_COMPUTED, UNUSED)

    @model_validator(mode="after")
    def _places_or_reason(self) -> "WeightRecord":
        if bool(self.places) == bool(self.reason):
            raise ValueError("a weight needs places, or a reason why it has none")
        if any(prod(place.shape) != prod(self.shape) for place in self.places):
            raise ValueError("a place of another size than its weight")
        return self


class NamedWeights(Record):
    """All parameters of a component, by their names in the checkpoint's part."""

    weights: dict[str, WeightRecord]


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
    lines = (f' "{name}": {row.model_dump_json(exclude_defaults=True)}' for name, row in named.weights.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"weights": {\n' + ",\n".join(lines) + "\n}}\n", "utf-8")


@dataclass(frozen=True)
class ComponentWeights:
    """A component's weights by name. ``files`` tells where the bundle's files are; they are mapped, not read.

    Attributes:
        component: its name, for messages.
        named: the record.
        files: paths by their names in the bundle.
    """

    component: str
    named: NamedWeights
    files: Mapping[str, Path]

    @property
    def initializers(self) -> dict[str, StoredWeight]:
        """Every place that is an initializer of the graph, by the initializer's name."""
        places = (place for row in self.named.weights.values() for place in row.places)
        return {place.initializer: place for place in places if place.initializer is not None}

    @cached_property
    def _mapped(self) -> dict[str, Array]:
        return {name: np.memmap(path, np.uint8, "r") for name, path in self.files.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape in torch.

        Raises:
            RequestError: the component has no weight of this name.
        """
        return self._record(name).shape

    def array(self, name: str) -> Array:
        """A weight in torch's layout, float32 or float16 as stored: a view of the file wherever it can be one.

        Of several places the most exact is read.

        Raises:
            RequestError: the component has no such weight, or holds it in eight bits.
        """
        record = self._changeable(name)
        place = max(record.places, key=lambda place: np.dtype(place.dtype).itemsize)
        return place.unstored(self.stored(place), record.shape)

    def placed(self, name: str, weight: Array) -> list[tuple[StoredWeight, Array]]:
        """What to put in the place of a weight: every place that holds it, with the numbers that belong there.

        Args:
            name: the weight.
            weight: its new values in torch's shape, in float32.

        Raises:
            RequestError: the component has no such weight, it has another shape or is held in eight bits, or numbers
                that are not finite or that fp16 cannot hold.
        """
        record = self._changeable(name)
        if weight.shape != record.shape:
            raise RequestError(
                f"got {weight.shape} for {self.component}'s weight {name!r}, expected {record.shape}; "
                "choose a file that was made for this model"
            )
        largest = float(np.abs(weight).max(initial=0.0))
        limit = min(float(np.finfo(place.dtype).max) for place in record.places)
        if not largest <= limit:
            raise RequestError(
                f"got numbers up to {largest:.3g} for {self.component}'s weight {name!r}, expected at most "
                f"{limit:.5g}; lower its strength, or use a bundle in fp32"
            )
        return [(place, place.stored(weight)) for place in record.places]

    def _record(self, name: str) -> WeightRecord:
        if name not in self.named.weights:
            raise RequestError(
                f"{self.component} has no weight {name!r}, expected one of its {len(self.named.weights)} names such as "
                f"{next(iter(self.named.weights), '')!r}; choose a file that was made for this model"
            )
        return self.named.weights[name]

    def _changeable(self, name: str) -> WeightRecord:
        record = self._record(name)
        if not record.places:
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
        end = place.offset + prod(place.shape) * np.dtype(place.dtype).itemsize
        numbers = self._mapped.get(place.file)
        if numbers is None or end > len(numbers):
            raise BundleError(
                f"{self.component}'s weights were recorded up to byte {end} of {place.file!r}, which is not there; "
                "build the bundle again"
            )
        stored = numbers[place.offset : end].view(place.dtype).reshape(place.shape)
        return stored if stored.flags.aligned else stored.copy()
