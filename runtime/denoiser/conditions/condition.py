"""What a condition is: something that gives the U-Net inputs beside the noisy sample and the timestep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.guider import Pass
from latentrt.runtime.sampling.schedule import Level

SAMPLE = "sample"


class Condition(Protocol):
    """Gives inputs by name, as rows of all passes one below the other: (passes · N, …).

    Under the name ``sample`` it gives channels that follow the latents' own.
    """

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """What stays the same over the run."""
        ...

    def at(self, passes: Sequence[Pass], x: Array, level: Level) -> Mapping[str, Array]:
        """What changes with every model call.

        Args:
            passes: of this call.
            x: (N, C, h, w), scaled to unit variance.
            level: where the model is asked.
        """
        ...


@dataclass(frozen=True, eq=False)
class FixedCondition:
    """Inputs that stay the same over the run: (N, …) by name, for each pass."""

    rows: Mapping[Pass, Mapping[str, Array]]

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """The rows of each pass."""
        names = self.rows[passes[0]]
        return {name: np.concatenate([self.rows[which][name] for which in passes]) for name in names}

    def at(self, passes: Sequence[Pass], x: Array, level: Level) -> Mapping[str, Array]:
        """Nothing."""
        return {}
