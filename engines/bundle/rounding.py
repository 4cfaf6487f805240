"""Weights in eight bits: rounded as ONNX Runtime's quantizer does it, bit for bit, and what the rounding loses.

w ≈ s·(q + d·r/n): q is the weight in the graph, s the size of a step, one for each output channel, d the distance from
q to the next number, 1 in int8, and r what lies between the two, in eight bits of its own. Without r a change smaller
than half of that would vanish. n is 255 in int8 and 253 in fp8 (``engines/bundle/number_format.py``).
"""

from collections.abc import Iterator

import numpy as np

from latentrt.engines.bundle.number_format import NumberFormat
from latentrt.engines.spec import Array

_BLOCK = 1 << 18  # numbers at a time, so that they stay in the cache
_INT32 = np.iinfo(np.int32)
_ROOM = np.float32(1.0001)  # as ONNX Runtime's quantizer has it


def channel_steps(weight: Array, axis: int, numbers: NumberFormat, largest: int) -> Array:
    """The size of a step in each channel (C,), float32: the channel's largest number becomes ``largest``."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    return numbers.steps(np.maximum(weight.max(axis=others), -weight.min(axis=others)), largest)


def steps_for_bias(steps: Array, bias: Array, input_step: float) -> Array:
    """Steps wide enough for a bias (C,), which is stored in 32 bits as a multiple of weight's step times input's step.

    The equation is that of ONNX Runtime's quantizer (``_adjust_weight_scale_for_int32_bias``).
    """
    products = np.float64(np.float32(input_step)) * steps.astype(np.float64)
    least = _ROOM * (np.float32(2.0) * np.abs(bias)) / np.float64(_INT32.max - (_INT32.min + 1))
    narrow = (products < least) & (products > 0.0)
    ratio = np.divide(least, products, out=np.ones_like(products), where=narrow)
    return np.where(narrow, steps.astype(np.float64) * ratio, steps).astype(np.float32)


def rounded(weight: Array, steps: Array, axis: int, numbers: NumberFormat) -> Array:
    """A weight in multiples of its channels' steps: the bits of the nearest numbers."""
    result = np.empty(weight.shape, numbers.bits)
    for rows, by in _blocks(weight.shape, steps, axis):
        result[rows] = numbers.stored(weight[rows] / by)
    return result


def remainders(weight: Array, quantized: Array, steps: Array, axis: int, numbers: NumberFormat) -> Array:
    """What ``rounded`` lost: int8."""
    result = np.empty(weight.shape, np.int8)
    for rows, by in _blocks(weight.shape, steps, axis):
        result[rows] = numbers.lost(weight[rows] / by, quantized[rows])
    return result


def restored(quantized: Array, lost: Array, steps: Array, axis: int, numbers: NumberFormat) -> Array:
    """A weight of its eight bits and of what they lost: float32, within 1/506 of the distance between two numbers."""
    result = np.empty(quantized.shape, np.float32)
    for rows, by in _blocks(quantized.shape, steps, axis):
        np.multiply(numbers.restored(quantized[rows], lost[rows]), by, out=result[rows])
    return result


def bias_steps(steps: Array, input_step: float) -> Array:
    """What a bias is stored in multiples of (C,), float32."""
    return np.float32(input_step) * steps


def rounded_bias(bias: Array, steps: Array) -> Array:
    """A bias in those multiples: int32."""
    multiples = np.rint(bias.astype(np.float64) / steps.astype(np.float64))
    return np.clip(multiples, _INT32.min, _INT32.max).astype(np.int32)


def _blocks(shape: tuple[int, ...], steps: Array, axis: int) -> Iterator[tuple[slice, Array]]:
    """Rows of a weight, a block at a time, and the steps that belong to them, to be broadcast."""
    others = tuple(other for other in range(len(shape)) if other != axis)
    by = np.expand_dims(steps, others)
    rows = max(1, _BLOCK * shape[0] // max(1, int(np.prod(shape))))
    for start in range(0, shape[0], rows):
        span = slice(start, start + rows)
        yield span, by[span] if axis == 0 else by
