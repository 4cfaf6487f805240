"""What eight bits are for a machine: the types of activations and weights, and how much of their range is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import RequestError
from latentrt.engines.machine import cpu_features
from latentrt.engines.precision import Backend, Precision, check_computes
from latentrt.engines.spec import Array

# NumPy's names of extensions whose dot products of eight-bit numbers sum up in 32 bits: VNNI, AMX, ARM's
_WIDE_SUMS = frozenset({"AVX512_CLX", "AVX512_ICL", "AVX512_SPR", "ASIMDDP"})
_ON_CPUS, _ON_GPUS = (Backend.ORT_CPU, Backend.OPENVINO), (Backend.TENSORRT, Backend.TENSORRT_RTX)
_INT8 = (*_ON_CPUS, *_ON_GPUS)
# OpenVINO takes what was quantized for ONNX Runtime; the other way round convolutions would not be in eight bits
_TAKEN_BY: Mapping[Recipe, tuple[Backend, ...]] = {
    Recipe.U8S8: _ON_CPUS,
    Recipe.U8S8_REDUCED: _ON_CPUS,
    Recipe.U8S8_INPUTS: (Backend.OPENVINO,),
    Recipe.S8S8: _ON_GPUS,
    Recipe.E4M3: _ON_GPUS,
    Recipe.W8: _ON_CPUS,
}


def recipe_for(backend: Backend, precision: Precision = Precision.INT8) -> Recipe:
    """The recipe of a backend on this machine, for int8 or fp8.

    Raises:
        RequestError: a backend that has no such kernels.
    """
    if precision is Precision.FP8:
        check_computes(backend, precision)
        return Recipe.E4M3
    if backend not in _INT8:
        raise RequestError(
            f"got precision int8 for backend {backend}, for which none is made; choose {', '.join(_INT8[:-1])} or "
            f"{_INT8[-1]}"
        )
    if backend in _ON_GPUS:
        return Recipe.S8S8
    if not cpu_sums_widely():
        return Recipe.U8S8_REDUCED
    return Recipe.U8S8_INPUTS if backend is Backend.OPENVINO else Recipe.U8S8


def check_recipe(recipe: Recipe, backend: Backend) -> None:
    """Refuses to compile a graph for a backend that it was not quantized for.

    Raises:
        RequestError: naming what to do.
    """
    precision = recipe.numbers.precision
    if precision is Precision.FP8:
        check_computes(backend, precision)
    expected = _TAKEN_BY[recipe]
    if backend not in expected:
        anew = f"; build --precision {precision} --backend {backend} from the model or from its bundle in fp32"
        raise RequestError(
            f"got backend {backend} for a bundle in {precision} by recipe {recipe}, expected "
            f"{' or '.join(expected)}{anew if backend in _INT8 else '; choose among these'}"
        )
    if recipe in (Recipe.U8S8, Recipe.U8S8_INPUTS) and not cpu_sums_widely():
        raise RequestError(
            f"got a bundle in int8 by recipe {recipe}, which needs a CPU with VNNI, and this one has none; build "
            f"--precision int8 from the model or from its bundle in fp32 on a CPU like this"
        )


def cpu_sums_widely() -> bool:
    """Whether this CPU adds products of eight-bit numbers without saturating."""
    if _WIDE_SUMS & set(cpu_features().split()):
        return True
    try:  # NumPy tells of whole generations alone, and not of VNNI without AVX-512
        return not {"avx_vnni", "avx512_vnni"}.isdisjoint(Path("/proc/cpuinfo").read_text("ascii").split())
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an activation's eight bits span; what lies outside is clipped."""

    lowest: float
    highest: float

    def scale_and_zero(self, recipe: Recipe) -> tuple[Array, Array]:
        """The size of a step (float32) and the bits of the number that stands for zero, both scalars."""
        low, high = min(self.lowest, 0.0), max(self.highest, 0.0)
        if recipe.symmetric:
            return recipe.numbers.steps(np.array(max(-low, high))), np.zeros((), recipe.numbers.bits)
        scale = ((high - low) or 255.0) / 255.0
        return np.array(scale, np.float32), np.array(np.rint(-low / scale), np.uint8)

    def rounded(self, array: Array, recipe: Recipe) -> Array:
        """What quantizing and dequantizing leaves of an array, in float32."""
        scale, zero = self.scale_and_zero(recipe)
        if recipe.symmetric:
            return np.asarray(recipe.numbers.nearest(array / scale) * scale, np.float32)
        limits = np.iinfo(zero.dtype)
        offset = np.float32(zero)
        steps = np.clip(np.rint(array / scale) + offset, limits.min, limits.max)
        return np.asarray((steps - offset) * scale, np.float32)


def rounded_weight(weight: Array, axis: int, recipe: Recipe) -> Array:
    """What quantizing each channel of a weight leaves of it, in float32; ``axis`` counts the channels."""
    others = tuple(other for other in range(weight.ndim) if other != axis % weight.ndim)
    scale = recipe.numbers.steps(np.abs(weight).max(axis=others, keepdims=True), recipe.largest_weight)
    return np.asarray(recipe.numbers.nearest(weight / scale) * scale, np.float32)
