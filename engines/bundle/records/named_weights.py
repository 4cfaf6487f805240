"""Where a bundle holds each parameter of a component, as its file of named weights says it."""

from collections.abc import Mapping
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import BundleError
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype

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
    dtype: Literal["float32", "float16", "bfloat16"]
    layout: Layout
    smoothing: Smoothing | None = None

    @model_validator(mode="after")
    def _axes(self) -> "StoredWeight":
        if self.smoothing is not None and self.smoothing.axis >= len(self.shape):
            raise ValueError("an axis that the weight does not have")
        return self

    def stored(self, weight: Array) -> Array:
        """A weight in torch's layout as it is stored here, unless smoothed: contiguous, in the place's shape, dtype.

        Of bfloat16, which NumPy lacks, these are the bits (uint16).
        """
        return stored_dtype(self.dtype).bits_of(ordered(weight, self.layout, self.shape))


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
        precision: which eight bits these are.
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
    precision: Literal[Precision.INT8, Precision.FP8] = Precision.INT8
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


def ordered(weight: Array, layout: Layout, shape: tuple[int, ...]) -> Array:
    """A weight in torch's layout as another layout and shape have it: a view."""
    return (weight.T if layout is Layout.TRANSPOSED else weight).reshape(shape)
