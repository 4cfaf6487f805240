"""An adapter's tensors in memory: in the type that their file has, and as float32 when they are computed with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import StoredDtype
from latentrt.engines.tensors.tensor_file import StoredTensor
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.leaves import LeafOptions, formulas_from_leaves

_COUNTS = frozenset(("alpha", "on_input", "bias_indices", "bias_size", "scalar"))  # which may be whole numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldTensor:
    """A tensor's numbers as its file has them, where they lie in the file."""

    dtype: StoredDtype
    bits: Array

    def copied(self) -> "HeldTensor":
        """The same, apart from the file, which may be written to while a pipeline is open."""
        return HeldTensor(dtype=self.dtype, bits=self.bits.copy())

    def array(self, *, copied: bool) -> Array:
        """The numbers in float32, infinite where they are larger.

        Args:
            copied: whether numbers that are float32 already are copied, too.
        """
        values = self.dtype.values(self.bits)
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=copied and values is self.bits)


def held_tensor(stored: StoredTensor, leaf: str) -> HeldTensor:
    """Maps a tensor.

    Args:
        stored: where it lies.
        leaf: its name in ``LEAVES``.

    Raises:
        RequestError: it is of a type that is not read.
    """
    floats = stored.dtype is not None and "float" in stored.dtype.name
    if stored.dtype is None or not (floats or leaf in _COUNTS):
        raise RequestError(
            f"{leaf} holds {stored.dtype_name} numbers, expected floats; save it in float16, bfloat16 or float32"
        )
    return HeldTensor(dtype=stored.dtype, bits=stored.bits())


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldFormula:
    """The formula for a module's ``weight`` or ``bias``, made anew from its tensors for each use.

    So tensors of 16 or 8 bits take no more memory than they have in their file.
    """

    tensors: Mapping[str, HeldTensor]
    options: LeafOptions
    parameter: str

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another shape.

        Raises:
            RequestError: what was got and expected.
        """
        self._formula.check(shape)

    def change(self, weight: Array) -> Array:
        """F(W) − W."""
        return self._formula.change(weight)

    @property
    def _formula(self) -> Formula:
        return module_formulas(self.tensors, self.options, copied=False)[self.parameter]


def module_formulas(tensors: Mapping[str, HeldTensor], options: LeafOptions, *, copied: bool) -> dict[str, Formula]:
    """What a module's tensors do to its ``weight`` and ``bias``.

    Raises:
        RequestError: as ``formulas_from_leaves``.
    """
    return formulas_from_leaves({leaf: tensor.array(copied=copied) for leaf, tensor in tensors.items()}, options)


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstInputs:
    """A change of a convolution's first input channels, the others staying as they are.

    A U-Net for inpainting takes a mask and a masked picture behind the latents that other U-Nets take alone.
    """

    formula: Formula
    channels: int

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses a weight of another shape.

        Raises:
            RequestError: what was got and expected.
        """
        self.formula.check((shape[0], self.channels, *shape[2:]))

    def change(self, weight: Array) -> Array:
        """F(W) − W, zero for the other channels."""
        change = np.zeros_like(weight)
        change[:, : self.channels] = self.formula.change(weight[:, : self.channels])
        return change
