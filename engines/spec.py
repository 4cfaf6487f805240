"""What goes into an engine and what comes out, checked before native code sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import RequestError

Array = NDArray[Any]
BATCH = "batch"


class DeviceArray(Protocol):
    """A result that stays where its engine computes, for another engine of the same backend. It frees itself."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its numbers."""
        ...

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        ...

    def numpy(self) -> Array:
        """A copy in the host's memory."""
        ...

    def rows(self, start: int, stop: int) -> "DeviceArray":
        """Some of its rows, where they are."""
        ...


@dataclass(frozen=True, eq=False)
class StackedArray:
    """Arrays, one below the other, some of them on a device, for engines whose spec says so; a ``DeviceArray``."""

    parts: "tuple[Tensor, ...]"

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its numbers."""
        return self.parts[0].dtype

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return self.parts[0].ndim

    def numpy(self) -> Array:
        """A copy in the host's memory."""
        return np.concatenate([part if isinstance(part, np.ndarray) else part.numpy() for part in self.parts])

    def rows(self, start: int, stop: int) -> "DeviceArray":
        """Refused: what is stacked is for one run."""
        raise ValueError("got a stack of arrays to take rows of, expected an array; take them of its parts")


Tensor = Array | DeviceArray
"""What an engine takes: arrays, and what stayed on its device."""


def host_arrays(tensors: "Mapping[str, Tensor]") -> dict[str, Array]:
    """The same in the host's memory: arrays as they are, what is on a device copied."""
    return {name: tensor if isinstance(tensor, np.ndarray) else tensor.numpy() for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor. The first dimension may be ``"batch"``; all others are numbers.

    ``neutral`` is the number that an input is full of where a call leaves it out; None: it may not be left out.
    """

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]
    neutral: float | None = None

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype}"

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with its batch dimension filled in."""
        return tuple(batch if dimension == BATCH else int(dimension) for dimension in self.shape)


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The inputs and outputs of one engine, and the batch sizes that it runs.

    Where it ``stacks``, device arrays of several calls may be given as one ``StackedArray``.

    All dimensions are fixed but the batch, which is one of ``batches`` (ascending): every number up to the
    profile's for ONNX Runtime on the CPU, the few that were compiled for TensorRT. An engine that fills up what it is
    given takes every number, and runs one of ``filled``; where that is empty, it runs what it is given.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batches: tuple[int, ...]
    filled: tuple[int, ...] = ()
    stacks: bool = False

    def fit(self, count: int) -> int:
        """The smallest batch that holds ``count`` samples, or the largest there is."""
        return next((batch for batch in self.filled or self.batches if batch >= count), self.batches[-1])

    def computed(self, count: int) -> int:
        """How many samples are computed for ``count``: in as few runs as hold them, each filled up."""
        full, rest = divmod(count, self.batches[-1])
        return full * self.batches[-1] + (self.fit(rest) if rest else 0)

    def check(self, arrays: "Mapping[str, Tensor]") -> None:
        """Compares arrays with the inputs: names, dtypes, shapes and one common batch; some may be left out.

        Raises:
            RequestError: naming every difference, with got and expected.
        """
        batch, left_out = None, 0
        for name, spec in self.inputs.items():
            array = arrays.get(name)
            if array is None and spec.neutral is not None:
                left_out += 1
                continue
            if array is None or array.dtype != spec.dtype or array.ndim != len(spec.shape):
                break
            for size, expected in zip(array.shape, spec.shape, strict=True):
                if expected == BATCH:
                    batch = size if batch is None else batch
                    expected = batch
                if size != expected:
                    break
            else:
                continue
            break
        else:
            if len(arrays) + left_out == len(self.inputs) and (batch is None or batch in self.batches):
                return
        raise RequestError(self._difference(arrays))

    def _difference(self, arrays: "Mapping[str, Tensor]") -> str:
        got = ", ".join(f"{name} ({', '.join(map(str, array.shape))}) {array.dtype}" for name, array in arrays.items())
        expected = ", ".join(f"{name} {spec}" for name, spec in self.inputs.items())
        batches = ", ".join(map(str, self.batches))
        return f"got {got or 'no inputs'}, expected {expected} with batch one of {batches}; give exactly these"
