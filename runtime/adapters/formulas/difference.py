"""Differences that a file holds as they are."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formulas.fixed import Fixed
from latentrt.runtime.adapters.formulas.formula import Formula


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference(Fixed):
    """ΔW = s · D: a full difference (LyCORIS' ``diff``), or one of a norm's scale or of a bias.

    Attributes:
        content: D.
        scale: s; 1 of all but PEFT's bias of ``lora_B``.
    """

    content: Array
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The content's."""
        return self.content.shape

    def write(self, matrix: Array) -> None:
        write_content(matrix, self.content)
        if self.scale != 1:
            matrix *= np.float32(self.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseDifference(Fixed):
    """ΔW = s · S, of which most numbers are 0: what LyCORIS' extraction leaves of a difference beside its low rank.

    Attributes:
        rows: of S's numbers.
        columns: of S's numbers.
        values: S's numbers.
        scale: s.
        shape: (out, in · kernel).
    """

    rows: Array
    columns: Array
    values: Array
    scale: float
    shape: tuple[int, ...]

    def write(self, matrix: Array) -> None:
        matrix[...] = 0
        np.add.at(matrix, (self.rows, self.columns), self.values * np.float32(self.scale))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """F(W) − W = Σ (Fᵢ(W) − W) of formulas that one module has together."""

    parts: tuple[Formula, ...]

    def check(self, shape: tuple[int, ...]) -> None:
        for part in self.parts:
            part.check(shape)

    def change(self, weight: Array) -> Array:
        first, *others = self.parts
        difference = first.change(weight)
        for part in others:
            difference += part.change(weight)
        return difference


@dataclass(frozen=True, kw_only=True, eq=False)
class Replacement(Fixed):
    """F(W) = V: new values in place of the weight."""

    content: Array

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The content's."""
        return self.content.shape

    def write(self, matrix: Array) -> None:
        write_content(matrix, self.content)

    def change(self, weight: Array) -> Array:
        difference = super().change(weight)
        difference -= weight
        return difference


def write_content(matrix: Array, content: Array) -> None:
    """Copies a file's numbers, in bands: into Fortran order three times as fast as at once."""
    numbers = content.reshape(matrix.shape)
    for top in range(0, len(matrix), 64):
        matrix[top : top + 64] = numbers[top : top + 64]
