"""A step of a run as a U-Net's engine computes it: its tensors by name, and where the numbers of a row lie.

Such an engine takes where the run is and gives where it goes on from, so latents need not leave the device between
steps. Everything is per sample of the batch: samples may be at different steps of different samplers.
``engines/graphs/variants/`` makes the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from latentrt.engines.spec import BATCH, Array, EngineSpec, TensorSpec

SAMPLE, OUT_SAMPLE = "sample", "out_sample"
"""What the U-Net itself takes and gives; both are inside of the step."""

STATE, ROW, NOISE, CHANNELS = "state", "row", "noise", "channels"
KEPT_MASK, KEPT_CLEAN, KEPT_NOISE = "kept_mask", "kept_clean", "kept_noise"
NEXT_STATE, DENOISED, NEXT_SAMPLE = "next_state", "denoised", "next_sample"

EARLIER = 4
"""Vectors that a run keeps beside x: PNDM wants three predictions and an earlier x, no other sampler more."""
VECTORS = 1 + EARLIER
OTHER_PASSES = 3
"""Passes that a pass is steered by beside the one that it is steered away from: edits with perturbed attentions."""
RESULTS, TERMS = VECTORS + 1, VECTORS + 3
"""The matrix of an update: the next vectors and the clean sample, of the vectors, the guided prediction, the one that
nothing guided (u of ``StepRows``), and noise."""

ROW_PARTS: Mapping[str, int] = {
    "input_scale": 1,
    "next_input_scale": 1,
    "kept": 2,
    "passes": 1 + OTHER_PASSES,
    "weights": OTHER_PASSES,
    "rescale": 1,
    "update": RESULTS * TERMS,
}
"""The numbers of a sample's row, in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepRows:
    """The rows of a batch, (B, …) float32 each.

    Attributes:
        input_scale: what x is multiplied by for the U-Net (B, 1).
        next_input_scale: and where the next call asks it (B, 1).
        kept: what the kept part is after the update: so much of the clean latents, so much of its noise (B, 2).
        passes: where the predictions are that are combined, relative to the sample: first u, which is steered away
            from, then c and others (B, 4).
        weights: of the others, in u + Σ w · (o − u) (B, 3).
        rescale: how far the guided prediction is brought back to the deviation of c (B, 1).
        update: the matrix M of (next vectors, clean sample) = M · (vectors, guided prediction, u, noise) (B, 6, 8).
    """

    input_scale: Array
    next_input_scale: Array
    kept: Array
    passes: Array
    weights: Array
    rescale: Array
    update: Array

    def packed(self) -> Array:
        """All of them, as the engine takes them (B, numbers)."""
        parts = [np.reshape(getattr(self, name), (-1, size)) for name, size in ROW_PARTS.items()]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def step_spec(spec: EngineSpec) -> EngineSpec:
    """The tensors of the step that a U-Net's engine makes; all but the U-Net's own are float32.

    - ``state`` (batch, vectors, C, h, w): x, and what else the run keeps; ``next_state`` is the same behind the update.
    - ``row`` (batch, numbers): ``StepRows``.
    - ``noise`` (batch, C, h, w): standard normal.
    - ``channels`` (batch, …, h, w): what the U-Net sees behind the latents, if it does.
    - ``kept_mask`` (batch, 1, h, w), ``kept_clean``, ``kept_noise`` (batch, C, h, w): what inpainting keeps, where the
      mask is 0.
    - ``denoised``, ``next_sample`` (batch, C, h, w): the clean sample, and what the U-Net will be given by the next
      call, for control nets.

    Args:
        spec: the U-Net's.
    """
    latents = spec.outputs[OUT_SAMPLE].shape[1:]
    seen = spec.inputs[SAMPLE].shape[1:]
    rows = _tensor(*latents)
    more = int(seen[0]) - int(latents[0])
    inputs = {
        STATE: _tensor(VECTORS, *latents),
        ROW: _tensor(sum(ROW_PARTS.values())),
        **{name: tensor for name, tensor in spec.inputs.items() if name != SAMPLE},
        **({CHANNELS: _tensor(more, *seen[1:])} if more else {}),
        NOISE: replace(rows, neutral=0.0),
        KEPT_MASK: replace(_tensor(1, *latents[1:]), neutral=1.0),
        KEPT_CLEAN: replace(rows, neutral=0.0),
        KEPT_NOISE: replace(rows, neutral=0.0),
    }
    outputs = {NEXT_STATE: inputs[STATE], DENOISED: rows, NEXT_SAMPLE: rows}
    return replace(spec, inputs=inputs, outputs=outputs)


def _tensor(*rest: int | str) -> TensorSpec:
    return TensorSpec(shape=(BATCH, *rest), dtype=np.dtype(np.float32))
