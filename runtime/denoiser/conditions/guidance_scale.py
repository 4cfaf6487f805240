"""The weight of guidance, told to a model that was distilled from it."""

from collections.abc import Mapping, Sequence

import numpy as np

from latentrt.engines.bundle.records.conditioning import guidance_scale_embedding
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import UnetCall
from latentrt.runtime.denoiser.guider import Pass, StepScales


class GuidanceScaleCondition:
    """The embedded weight of every step (arXiv 2310.04378); embedded when it is first used."""

    def __init__(self, steps: StepScales, size: int) -> None:
        """Takes the weights, and the size of the embedding."""
        self._steps, self._size = steps, size
        self._embeddings: dict[float, Array] = {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing: the weight may change from step to step."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The embedding of the level's weight, for every row."""
        scale = self._steps.at(call.level)
        if scale not in self._embeddings:
            self._embeddings[scale] = guidance_scale_embedding(scale, self._size)
        return {"timestep_cond": np.tile(self._embeddings[scale], (call.rows.stop - call.rows.start, 1))}
