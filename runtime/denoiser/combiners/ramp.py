"""Guidance of a video: weak for its first frame, which is the picture itself, and stronger from frame to frame."""

from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.guider import Combiner, Predictions


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The weights of guidance of F frames, from that of the first to the step's own, which is the last one's.

    That is the linearly increasing guidance of arXiv 2311.15127: even between both ends, the same at every step.
    """

    first: float
    frames: int

    def weights(self, last: float) -> Array:
        """One weight a frame, (F, 1, 1, 1) float32."""
        return np.linspace(self.first, last, self.frames, dtype=np.float32)[:, None, None, None]


def ramped(ramp: Ramp) -> Combiner:
    """Classifier-free guidance, u + s · (c − u), with an s for each frame of predictions (N, F, C, h, w)."""

    def combined(predictions: Predictions) -> Array:
        unconditional, weights = predictions.unconditional, ramp.weights(predictions.scale)
        return np.asarray(unconditional + weights * (predictions.conditional - unconditional))

    return combined
