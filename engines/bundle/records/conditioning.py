"""What a model's U-Net is told beside the noisy sample and the timestep."""

from enum import StrEnum
from typing import Annotated

import numpy as np
from pydantic import Field

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.spec import Array


class TimeIds(StrEnum):
    """What the U-Net is told about the picture beside the prompt, as numbers.

    ``size``: original size, crop's top left, target size (arXiv 2307.01952, section 2.2); ``aesthetic``: original size,
    crop's top left, aesthetic score, as the XL refiner takes it.
    """

    NONE = "none"
    SIZE = "size"
    AESTHETIC = "aesthetic"


class TextEncoderRecord(Record):
    """One text encoder: its component, its tokenizer, and whether the U-Net takes its pooled vector, too.

    Which state the U-Net attends to is in the graph: its output ``hidden_states`` ends with that one.
    """

    component: str
    tokenizer: str
    pooled: bool


class ConditioningRecord(Record):
    """All that conditions the U-Net. The states of several text encoders lie side by side, in their order.

    ``zero_empty_negative``: without a negative prompt the unconditional half sees zeros instead of the empty prompt.
    """

    text_encoders: Annotated[tuple[TextEncoderRecord, ...], Field(min_length=1)]
    time_ids: TimeIds = TimeIds.NONE
    zero_empty_negative: bool = False


def guidance_scale_embedding(scale: float, size: int) -> Array:
    """What a model distilled from guidance is told of its weight: sines, then cosines of w · 1000 · 10000^(−k/(n−1)).

    w is the weight less 1, as arXiv 2310.04378 counts it; n is half the size, and k runs from 0 to n − 1. The
    frequencies are those of VDM's timestep embedding (arXiv 2107.00630). In float32 step by step, as in the reference:
    the sine of thousands tells every rounding.

    Args:
        scale: the weight, 1 for no guidance.
        size: of the embedding.

    Returns:
        (size,) float32.
    """
    half = size // 2
    exponent = np.log(np.float32(10000.0)) / np.float32(half - 1)
    angles = np.float32(scale - 1.0) * np.float32(1000.0) * np.exp(np.arange(half, dtype=np.float32) * -exponent)
    return np.concatenate([np.sin(angles), np.cos(angles), np.zeros(size % 2, np.float32)]).astype(np.float32)
