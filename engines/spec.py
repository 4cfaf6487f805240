"""What goes into an engine and what comes out, checked before native code sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.errors import RequestError

Array = NDArray[Any]
BATCH = "batch"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor. The first dimension may be ``"batch"``; all others are numbers."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype}"

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with its batch dimension filled in."""
        return tuple(batch if dimension == BATCH else int(dimension) for dimension in self.shape)


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The inputs and outputs of one engine, and the batch sizes that it runs.

    All dimensions are fixed but the batch, which is one of ``batches`` (ascending): every number up to the
    profile's for ONNX Runtime on the CPU, the few that were compiled for TensorRT.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batches: tuple[int, ...]

    def fit(self, count: int) -> int:
        """The smallest batch that holds ``count`` samples, or the largest there is."""
        return next((batch for batch in self.batches if batch >= count), self.batches[-1])

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Compares arrays with the inputs: names, dtypes, shapes and one common batch.

        Raises:
            RequestError: naming every difference, with got and expected.
        """
        batch = None
        for name, spec in self.inputs.items():
            array = arrays.get(name)
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
            if len(arrays) == len(self.inputs) and (batch is None or batch in self.batches):
                return
        raise RequestError(self._difference(arrays))

    def _difference(self, arrays: Mapping[str, Array]) -> str:
        got = ", ".join(f"{name} ({', '.join(map(str, array.shape))}) {array.dtype}" for name, array in arrays.items())
        expected = ", ".join(f"{name} {spec}" for name, spec in self.inputs.items())
        batches = ", ".join(map(str, self.batches))
        return f"got {got or 'no inputs'}, expected {expected} with batch one of {batches}; give exactly these"
