"""FreeU: stronger features of the first two up blocks, and weaker low frequencies of what is joined to them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import FREEU_BACKBONE, FREEU_MODES, FREEU_SKIPS, freeu_modes
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.guider import Pass


class FreeuCondition:
    """The factors of FreeU, the same for every row and step."""

    def __init__(self, backbone: Sequence[float], skips: Sequence[float], sizes: Sequence[tuple[int, int]]) -> None:
        """Takes them block by block.

        Args:
            backbone: b of each up block.
            skips: s of each.
            sizes: height and width of each one's planes.
        """
        self._factors = {FREEU_BACKBONE: backbone, FREEU_SKIPS: skips}
        self._sizes = sizes
        self._made: dict[int, Mapping[str, Array]] = {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing: what is given for a whole batch stays on a device."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The factors and the modes, for a whole batch."""
        batch = call.inputs[SAMPLE].shape[0]
        if batch not in self._made:
            rows: dict[str, Array] = {name: np.array(one, np.float32) for name, one in self._factors.items()}
            rows |= {freeu_modes(index): low_frequencies(*size) for index, size in enumerate(self._sizes)}
            made = {name: np.repeat(array[None], batch, 0) for name, array in rows.items()}
            for array in made.values():
                array.flags.writeable = False  # so engines on a device copy it there once
            self._made[batch] = made
        return self._made[batch]


@lru_cache(maxsize=16)  # sizes of planes
def low_frequencies(height: int, width: int) -> Array:
    """The lowest frequencies of planes as rows Φ (7, h · w) float32, read-only: low = (x · Φᵀ) · Φ.

    FreeU multiplies the middle of the shifted spectrum, from one before its centre to the centre: the frequencies −1
    and 0 along each side, whether it is odd or even. Of a real plane, the real part of what mode (k, l) gives back is
    Σ x′ · cos(2π(k(h − h′)/H + l(w − w′)/W)) / HW, and cos(a − a′) = cos a · cos a′ + sin a · sin a′. A side of one
    place has no frequency −1 beside 0.
    """
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    down, across = 2.0 * np.pi * rows / height, 2.0 * np.pi * columns / width
    phases = [down * (height > 1), across * (width > 1), down + across]
    there = [height > 1, width > 1, height > 1 and width > 1]
    modes = np.zeros((FREEU_MODES, height * width))
    modes[0] = 1.0
    for index, (phase, exists) in enumerate(zip(phases, there, strict=True)):
        if exists:
            modes[1 + 2 * index], modes[2 + 2 * index] = np.cos(phase), np.sin(phase)
    found = np.asarray(modes / np.sqrt(height * width), np.float32)
    found.flags.writeable = False
    return found
