"""Perturbed attentions: which self-attentions of the U-Net the perturbed passes do without."""

from collections.abc import Mapping, Sequence

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import PERTURBED_ATTENTIONS
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.guider import Pass


class PerturbedAttentionCondition:
    """Tells the U-Net which self-attentions to perturb; nothing where a call holds no perturbed pass."""

    def __init__(self, layers: Sequence[bool]) -> None:
        """Takes whether each self-attention is chosen, in the order of ``UnetStructure.self_attentions``."""
        self._layers = np.array(layers, np.float32)
        self._made: dict[tuple[tuple[Pass, ...], int], Array] = {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing: there may be steps without a perturbed pass."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The chosen self-attentions, 1 in the rows of perturbed passes and 0 in all others."""
        passes = call.pass_of_each
        if not any(which.perturbed for which in passes):
            return {}
        key = (passes, call.inputs[SAMPLE].shape[0])
        if key not in self._made:
            rows = np.zeros((key[1], len(self._layers)), np.float32)
            rows[[index for index, which in enumerate(passes) if which.perturbed]] = self._layers
            rows.flags.writeable = False  # so engines on a device copy it there once
            self._made[key] = rows
        return {PERTURBED_ATTENTIONS: self._made[key]}
