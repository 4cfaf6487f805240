"""The tensors that an adapter's file holds for one module."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class LeafOptions:
    """What a file says about a module outside its tensors; a file of kohya or LyCORIS says nothing.

    Attributes:
        alpha: of PEFT's config, with its patterns, and taken as it is; a tensor ``alpha`` comes first.
        rank: of PEFT's config, with its patterns; where factors tell the rank, they come first.
        rslora: the scale is alpha / √rank.
        fan_in_fan_out: the tensors are those of the transposed weight. PEFT's config says this of models whose own
            weights are (in, out), and keeps its factors as for (out, in) all the same; so set it only where the
            tensors that are not square fit no other way.
        kind: PEFT's ``peft_type`` (``LORA``, ``LOHA``, ``LOKR``, ``IA3``).
        feedforward: PEFT's (IA)³ scales the module's inputs.
    """

    alpha: float | None = None
    rank: int | None = None
    rslora: bool = False
    fan_in_fan_out: bool = False
    kind: str | None = None
    feedforward: bool = False


class ModuleTensors:
    """Tensors by their leaf names, float32 and finite, with what the file says about them.

    Raises:
        RequestError: when made of tensors that are empty or not finite.
    """

    def __init__(self, tensors: Mapping[str, Array], options: LeafOptions) -> None:
        for name, tensor in tensors.items():
            if tensor.size == 0:
                raise RequestError(
                    f"got {name!r} of {tensor.shape}, which is rank 0, expected at least 1; get the file again"
                )
            if not np.isfinite([tensor.min(), tensor.max()]).all():
                raise RequestError(f"got NaN or infinity in {name!r}, expected numbers; get the file again")
        self._tensors = tensors
        self.options = options

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Array:
        """A tensor by its name.

        Raises:
            RequestError: there is none.
        """
        if name not in self._tensors:
            raise RequestError(f"got {', '.join(sorted(self._tensors))}, expected also {name!r}; get the file again")
        return np.asarray(self._tensors[name], np.float32)

    def factor(self, name: str) -> Array:
        """A tensor of two axes or, with a kernel, of more.

        Raises:
            RequestError: there is none, or of fewer axes.
        """
        factor = self.tensor(name)
        if factor.ndim < 2:
            raise RequestError(f"got {name!r} of {factor.shape}, expected a matrix; get the file again")
        return factor

    def matrix(self, name: str) -> Array:
        """A factor without a kernel, or with one of 1x1.

        Raises:
            RequestError: there is none, or with a kernel.
        """
        factor = self.factor(name)
        if factor.size != factor.shape[0] * factor.shape[1]:
            raise RequestError(f"got {name!r} of {factor.shape}, expected a matrix; get the file again")
        return factor.reshape(factor.shape[:2])

    def number(self, name: str) -> float | None:
        """The only number of a tensor; None where there is no such tensor.

        Raises:
            RequestError: it has more.
        """
        if name not in self._tensors:
            return None
        tensor = self.tensor(name)
        if tensor.size != 1:
            raise RequestError(f"got {name!r} of {tensor.shape}, expected one number; get the file again")
        return float(tensor.reshape(()))

    def scale(self, rank: int) -> float:
        """s = alpha / rank, of rsLoRA alpha / √rank (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).

        Without alpha it is 1, and so it is where a tensor says 0: kohya's and LyCORIS' trainers mean the rank by it.
        LyCORIS' ``scalar`` multiplies it.
        """
        told, scalar = self.number("alpha"), self.number("scalar")
        alpha = self.options.alpha if told is None else told or None
        scale = 1.0 if alpha is None else alpha / (sqrt(rank) if self.options.rslora else rank)
        return scale if scalar is None else scale * scalar


def check_ranks(**factors: tuple[Array, int]) -> None:
    """Refuses factors that do not have the same rank.

    Args:
        factors: by name, each with its axis of the rank.

    Raises:
        RequestError: with all shapes.
    """
    if len({tensor.shape[axis] for tensor, axis in factors.values()}) > 1:
        shapes = " and ".join(f"{name} of {tensor.shape}" for name, (tensor, _) in factors.items())
        raise RequestError(f"got {shapes}, expected the same rank; get the file again")
