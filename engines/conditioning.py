"""What a model's U-Net is told beside the noisy sample and the timestep."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TimeIds(StrEnum):
    """What the U-Net is told about the picture beside the prompt, as numbers.

    ``size``: original size, crop's top left, target size (arXiv 2307.01952, section 2.2); ``aesthetic``: original size,
    crop's top left, aesthetic score, as the XL refiner takes it.
    """

    NONE = "none"
    SIZE = "size"
    AESTHETIC = "aesthetic"


class TextEncoderRecord(BaseModel):
    """One text encoder: its component, its tokenizer, and whether the U-Net takes its pooled vector, too.

    Which state the U-Net attends to is in the graph: its output ``hidden_states`` ends with that one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    tokenizer: str
    pooled: bool


class ConditioningRecord(BaseModel):
    """All that conditions the U-Net. The states of several text encoders lie side by side, in their order.

    ``zero_empty_negative``: without a negative prompt the unconditional half sees zeros instead of the empty prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_encoders: Annotated[tuple[TextEncoderRecord, ...], Field(min_length=1)]
    time_ids: TimeIds = TimeIds.NONE
    zero_empty_negative: bool = False
