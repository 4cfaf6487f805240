"""The numbers that eight bits can be: whole ones, or floats of four bits of exponent and three of mantissa."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype

# Parts of the distance between two numbers. 127 of 255 stay short of half of it, so what is put together again rounds
# as before; and 126 of 253 do, of which 63 stay short of a quarter, too
_PARTS, _PARTS_OF_FLOATS = np.float32(255.0), np.float32(253.0)
_SIGN = np.uint8(0x80)


@dataclass(frozen=True, kw_only=True)
class NumberFormat(ABC):
    """One of them. What is rounded is divided by a step first, whose size lets the largest of it fit.

    Attributes:
        precision: of a component that computes in it.
        dtype: what ``engines/tensors/dtypes.py`` calls it.
        onnx: what ``onnx_ir`` calls it.
        largest: what the largest number of all becomes.
        narrowest: the least size of a step.
        instead: the size of steps that would be narrower.
    """

    precision: Precision
    dtype: str
    onnx: str
    largest: int
    narrowest: float
    instead: float

    @property
    def bits(self) -> np.dtype[np.generic]:
        """What NumPy has its bits as."""
        return np.dtype(stored_dtype(self.dtype).bits)

    def steps(self, peaks: Array, largest: int | None = None) -> Array:
        """The sizes of steps, float32, for numbers up to ``peaks``, which become ``largest``, or the format's."""
        steps = np.asarray(peaks, np.float64) / (largest or self.largest)
        return np.where(steps < self.narrowest, self.instead, steps).astype(np.float32)

    @abstractmethod
    def nearest(self, multiples: Array) -> Array:
        """The numbers nearest to multiples of a step, ties to even, float32; beyond the last one it is that one."""

    @abstractmethod
    def stored(self, multiples: Array) -> Array:
        """The bits of the same numbers."""

    @abstractmethod
    def lost(self, multiples: Array, stored: Array) -> Array:
        """What rounding to the numbers with these bits took away, in parts of the distance to the next: int8."""

    @abstractmethod
    def restored(self, stored: Array, lost: Array) -> Array:
        """The multiples again, float32, within 1/506 of that distance; rounded, they are the same numbers."""


class _WholeNumbers(NumberFormat):
    """From −128 to 127, stored as they are."""

    def nearest(self, multiples: Array) -> Array:
        return np.asarray(np.clip(np.rint(multiples), -128.0, 127.0), np.float32)

    def stored(self, multiples: Array) -> Array:
        return self.nearest(multiples).astype(np.int8)

    def lost(self, multiples: Array, stored: Array) -> Array:
        return np.clip(np.rint((multiples - stored) * _PARTS), -127.0, 127.0).astype(np.int8)

    def restored(self, stored: Array, lost: Array) -> Array:
        return np.asarray(lost * (np.float32(1.0) / _PARTS) + stored, np.float32)


class _FloatingPoint(NumberFormat):
    """Signed, without infinities; the distance to the next number, away from zero, grows with the number."""

    def nearest(self, multiples: Array) -> Array:
        return np.take(self._numbers, self.stored(multiples))

    def stored(self, multiples: Array) -> Array:
        bits = stored_dtype(self.dtype).bits_of(multiples)
        bits[bits == _SIGN] = 0  # what is lost of 0 has a sign of its own
        return bits

    def lost(self, multiples: Array, stored: Array) -> Array:
        parts = np.rint(
            (multiples - np.take(self._numbers, stored)) * (_PARTS_OF_FLOATS / np.take(self._distances, stored))
        )
        away = np.clip(np.where(stored & _SIGN, -parts, parts), np.take(self._least, stored), 126.0)
        return np.asarray(np.where(stored & _SIGN, -away, away), np.int8)

    def restored(self, stored: Array, lost: Array) -> Array:
        return np.asarray(
            lost * np.take(self._distances, stored) / _PARTS_OF_FLOATS + np.take(self._numbers, stored), np.float32
        )

    @cached_property
    def _numbers(self) -> Array:
        """Each bit pattern's number."""
        return stored_dtype(self.dtype).values(np.arange(256, dtype=np.uint8))

    @cached_property
    def _distances(self) -> Array:
        """How far it is from each number to the next one away from zero; behind the last as far as before it."""
        ascending = self._numbers[: self._count]
        distances = np.append(np.diff(ascending), ascending[-1] - ascending[-2])
        return self._of_either_sign(distances, 1.0)

    @cached_property
    def _least(self) -> Array:
        """The parts that may be missing to each number: towards zero the next one may be half as far as the other."""
        distances = self._distances[: self._count]
        halved = np.append(False, distances[1:] > distances[:-1])
        return self._of_either_sign(np.where(halved, -63.0, -126.0), 0.0)

    @property
    def _count(self) -> int:
        """How many numbers there are from 0 on."""
        return int(np.count_nonzero(np.isfinite(self._numbers[:128])))

    def _of_either_sign(self, table: Array, otherwise: float) -> Array:
        half = np.full(128, otherwise, np.float32)
        half[: self._count] = table
        return np.concatenate([half, half])


INT8: NumberFormat = _WholeNumbers(
    precision=Precision.INT8,
    dtype="int8",
    onnx="INT8",
    largest=127,
    # As ONNX Runtime's quantizer has it: a channel of zeros has steps of 1
    narrowest=float(np.finfo(np.float32).tiny),
    instead=1.0,
)
E4M3: NumberFormat = _FloatingPoint(
    precision=Precision.FP8,
    dtype="float8_e4m3fn",
    onnx="FLOAT8E4M3FN",
    largest=448,  # arXiv 2209.05433, table 1
    # float16's least normal number, as steps are float16 on GPUs. A wider step costs floating point next to nothing
    narrowest=2.0**-14,
    instead=2.0**-14,
)

_BY_PRECISION: Mapping[Precision, NumberFormat] = {one.precision: one for one in (INT8, E4M3)}


def format_of(precision: Precision) -> NumberFormat:
    """The numbers of a precision of eight bits."""
    return _BY_PRECISION[precision]
