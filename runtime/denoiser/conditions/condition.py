"""What a condition is: something that gives the U-Net inputs beside the noisy sample and the timestep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.guider import Pass, Side
from latentrt.runtime.sampling.schedule import Level

SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True, eq=False)
class UnetCall:
    """One call of the U-Net's engine: some rows of a step, which has those of all passes one below the other, N each.

    Attributes:
        passes: of the step.
        rows: which of its rows this call holds.
        pictures: N, of which the first is the run's ``first``.
        level: where the model is asked.
        inputs: what the engine will be given, as far as it is known: first what is fixed and the sample, then what the
            conditions before this one gave. A fixed batch may be larger than the rows; what follows them is of no
            meaning. Not to be written to.
    """

    passes: tuple[Pass, ...]
    rows: slice
    pictures: int
    level: Level
    inputs: Mapping[str, Tensor]
    first: int = 0

    @property
    def picture_of_each(self) -> Array:
        """The picture that each row belongs to."""
        return self.first + np.arange(self.rows.start, self.rows.stop) % self.pictures

    @property
    def pass_of_each(self) -> tuple[Pass, ...]:
        """The pass that each row belongs to."""
        return tuple(self.passes[row // self.pictures] for row in range(self.rows.start, self.rows.stop))


class Condition(Protocol):
    """Gives the U-Net's inputs by name. Under the name ``sample`` it gives channels that follow the latents' own."""

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """What stays the same over the run: rows of all passes one below the other, (passes · N, …)."""
        ...

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """What changes: (rows, …) of one call, or the engine's whole batch.

        An input that has a neutral value may be given in some calls and left out in others.
        """
        ...


@dataclass(frozen=True, eq=False)
class FixedCondition:
    """Inputs that stay the same over the run: (N, …) by name, the same for all passes of a side.

    A side without rows of its own has those of the side that it is told the same as.
    """

    rows: Mapping[Side, Mapping[str, Array]]

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """The rows of each pass."""
        rows = [self.rows.get(which.side) or self.rows[which.side.told] for which in passes]
        return {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """Nothing."""
        return {}
