"""Types of stored numbers: what they are called, how wide they are, and their values in types that NumPy has."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class StoredDtype:
    """One of them: torch's name, safetensors' name, the type of torch's storage, and the bits as NumPy has them."""

    name: str
    safetensors: str
    storage: str
    bits: str

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.bits).itemsize

    def values(self, bits: Array) -> Array:
        """Numbers of the same shape: bfloat16 and the two kinds of float8 exactly as float32, others as they are."""
        if self.name == "bfloat16":  # the upper half of a float32
            return (bits.astype(np.uint32) << 16).view(np.float32)
        if self.name == "float8_e5m2":  # the upper half of a float16
            return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
        if self.name == "float8_e4m3fn":
            return _e4m3_values()[bits]
        return bits

    def bits_of(self, values: Array) -> Array:
        """Numbers of floating point as they are stored, contiguous: the nearest of this type, ties to even.

        bfloat16 is for numbers up to ``largest`` alone: beyond it, they would become infinite. float8_e4m3fn has no
        infinity, and takes what is beyond for its largest number.
        """
        if self.name == "float8_e4m3fn":
            return _e4m3_bits(values)
        if self.name != "bfloat16":
            return np.ascontiguousarray(values, self.bits)
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(self.bits)

    @property
    def largest(self) -> float:
        """The largest number of a type of floating point."""
        return _LARGEST.get(self.name) or float(np.finfo(self.bits).max)

    def is_finite(self, bits: Array) -> bool:
        """Whether all numbers are finite in float32; whole numbers always are.

        Without its sign, a float's bits grow with its size, so that the largest ones tell.
        """
        limit = _LIMITS.get(self.name)
        if limit is None:
            return True
        unsigned = bits.view(f"<u{self.size}").reshape(-1)
        mask = (1 << (8 * self.size - 1)) - 1
        blocks = (unsigned[begin : begin + _BLOCK] for begin in range(0, unsigned.size, _BLOCK))
        return all(int((block & unsigned.dtype.type(mask)).max()) < limit for block in blocks)


_LARGEST = {"bfloat16": float.fromhex("0x1.fep+127"), "float8_e4m3fn": 448.0}
_BLOCK = 2**18  # numbers that are looked at together: what is computed of them stays in the processor's cache
# The bits of each type's least number that is none, or that float32 does not hold
_LIMITS = {
    "float64": 0x47F0000000000000,
    "float32": 0x7F800000,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8_e5m2": 0x7C,
    "float8_e4m3fn": 0x7F,
}


def _dtype(name: str, safetensors: str, storage: str, bits: str) -> StoredDtype:
    return StoredDtype(name=name, safetensors=safetensors, storage=storage, bits=bits)


DTYPES = (
    _dtype("float64", "F64", "DoubleStorage", "<f8"),
    _dtype("float32", "F32", "FloatStorage", "<f4"),
    _dtype("float16", "F16", "HalfStorage", "<f2"),
    _dtype("bfloat16", "BF16", "BFloat16Storage", "<u2"),
    _dtype("float8_e4m3fn", "F8_E4M3", "", "|u1"),
    _dtype("float8_e5m2", "F8_E5M2", "", "|u1"),
    _dtype("int64", "I64", "LongStorage", "<i8"),
    _dtype("int32", "I32", "IntStorage", "<i4"),
    _dtype("int16", "I16", "ShortStorage", "<i2"),
    _dtype("int8", "I8", "CharStorage", "|i1"),
    _dtype("uint64", "U64", "", "<u8"),
    _dtype("uint32", "U32", "", "<u4"),
    _dtype("uint16", "U16", "", "<u2"),
    _dtype("uint8", "U8", "ByteStorage", "|u1"),
    _dtype("bool", "BOOL", "BoolStorage", "|b1"),
)

_BY_NAME = {row.name: row for row in DTYPES}


def stored_dtype(name: str) -> StoredDtype:
    """The type that torch calls so."""
    return _BY_NAME[name]


def _e4m3_bits(values: Array) -> Array:
    """The nearest of float8_e4m3fn's numbers: seven bits of a rounded float32, or multiples of 2⁻⁹ below 2⁻⁶."""
    numbers = np.ascontiguousarray(values, np.float32)
    magnitude = np.minimum(np.abs(numbers), np.float32(_LARGEST["float8_e4m3fn"]))
    bits = magnitude.view(np.uint32)
    normal = ((bits + (0x7FFFF + ((bits >> 20) & 1))) >> 20) - (120 << 3)  # exponents count from −127, here from −7
    code = np.where(magnitude < 2.0**-6, np.rint(magnitude * 2.0**9).astype(np.uint32), normal)
    return np.asarray(code | (np.signbit(numbers).astype(np.uint32) << 7), np.uint8)


@cache
def _e4m3_values() -> Array:
    """The 256 numbers of float8_e4m3fn: no infinities, and NaN where all bits but the sign are set (2209.05433)."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, (code & 7) / 8
    magnitude = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    values = np.where(code & 0x80, -magnitude, magnitude)
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)
