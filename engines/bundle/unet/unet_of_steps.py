"""The U-Net inside of an engine of whole steps, so that it passes the gate that the U-Net does."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from latentrt.engines.bundle.unet.denoise_step import (
    CHANNELS,
    DENOISED,
    NOISE,
    OTHER_PASSES,
    OUT_SAMPLE,
    RESULTS,
    ROW,
    SAMPLE,
    STATE,
    TERMS,
    VECTORS,
    StepRows,
)
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.spec import BATCH, Array, Tensor


class UnetOfSteps(ClosesItself):
    """An ``Engine`` of the U-Net's own tensors: its prediction is the clean sample of a step that changes nothing."""

    def __init__(self, steps: Engine) -> None:
        """Takes the engine of steps; closing closes it."""
        self._steps = steps
        inputs, rows = dict(steps.spec.inputs), steps.spec.outputs[DENOISED]
        latents, *sides = rows.shape[1:]
        more = inputs[CHANNELS].shape[1] if CHANNELS in inputs else 0
        sample = replace(rows, shape=(BATCH, int(latents) + int(more), *sides))
        own = {name: tensor for name, tensor in inputs.items() if name not in (STATE, ROW, CHANNELS) and name != NOISE}
        own = {name: tensor for name, tensor in own.items() if not name.startswith("kept_")}
        self.spec = replace(steps.spec, inputs={SAMPLE: sample, **own}, outputs={OUT_SAMPLE: rows})
        self._latents = int(latents)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Predicts; a new array comes back."""
        self.spec.check(inputs)
        sample = np.asarray(inputs[SAMPLE])
        state = np.zeros((len(sample), VECTORS, self._latents, *sample.shape[2:]), np.float32)
        state[:, 0] = sample[:, : self._latents]
        given = {name: tensor for name, tensor in inputs.items() if name != SAMPLE}
        if sample.shape[1] > self._latents:
            given[CHANNELS] = np.ascontiguousarray(sample[:, self._latents :])
        given |= {STATE: state, ROW: _predicting(len(sample))}
        return {OUT_SAMPLE: self._steps.run(given)[DENOISED]}

    def close(self) -> None:
        """Closes the engine of steps."""
        self._steps.close()


def _predicting(batch: int) -> Array:
    """Rows whose clean sample is the prediction of their own sample."""
    update = np.zeros((batch, RESULTS, TERMS))
    update[:, VECTORS, VECTORS] = 1.0
    ones = np.ones((batch, 1))
    return StepRows(
        input_scale=ones,
        next_input_scale=ones,
        kept=np.zeros((batch, 2)),
        passes=np.zeros((batch, 1 + OTHER_PASSES)),
        weights=np.zeros((batch, OTHER_PASSES)),
        rescale=np.zeros((batch, 1)),
        update=update,
    ).packed()
