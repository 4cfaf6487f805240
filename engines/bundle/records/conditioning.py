"""What a model's U-Net is told beside the noisy sample and the timestep."""

from enum import StrEnum
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.spec import Array


class TimeIds(StrEnum):
    """What the U-Net is told about the picture beside the prompt, as numbers.

    ``size``: original size, crop's top left, target size (arXiv 2307.01952, section 2.2); ``aesthetic``: original size,
    crop's top left, aesthetic score, as the XL refiner takes it; ``motion``: frames per second less 1, motion bucket,
    noise augmentation, as Stable Video Diffusion takes them.
    """

    NONE = "none"
    SIZE = "size"
    AESTHETIC = "aesthetic"
    MOTION = "motion"


class TextEncoderRecord(Record):
    """One text encoder: its component, its tokenizer, and whether the U-Net takes its pooled vector, too.

    Which state the U-Net attends to is in the graph: its output ``hidden_states`` ends with that one.
    """

    component: str
    tokenizer: str
    pooled: bool


class Resizing(StrEnum):
    """How a picture is brought to the square that an image encoder takes.

    ``center-crop``: the shorter side bicubically, with the middle cut out, as CLIP's own processor does it;
    ``squeezed``: both sides bicubically, corners aligned, without antialiasing, as Zero123 does it; ``blurred``: the
    same behind a Gaussian blur that takes the place of antialiasing, as Stable Video Diffusion does it.
    """

    CENTER_CROP = "center-crop"
    SQUEEZED = "squeezed"
    BLURRED = "blurred"


class ImageEncoderRecord(Record):
    """A model's own image encoder: its component gives ``image_embeds`` (batch, width) of pixels (batch, 3, s, s).

    What the U-Net attends to is one token: the embedding itself, or what the projection with the pose makes of it.
    Zeros take its place in the unconditional half. ``mean`` is taken from each channel of [0, 1], ``std`` divides it.
    """

    component: str
    size: Annotated[int, Field(gt=0)]
    resizing: Resizing
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class ConcatenatedRecord(Record):
    """A picture's latents behind the noised ones, as further channels of the U-Net's sample: the posterior's mean.

    Attributes:
        scaled: whether they have the scale that the U-Net's own latents have; otherwise the autoencoder's.
        zeroed: whether the unconditional half sees zeros instead.
        noised: whether the pixels get noise before they are encoded, as much as a call says.
    """

    scaled: bool = False
    zeroed: bool = True
    noised: bool = False


class PoseKind(StrEnum):
    """What the fourth number of a pose is, which no tensor tells.

    ``distance``: the change of the camera's distance (Zero123). ``image-elevation``: the polar angle of the view that
    the picture shows (Stable Zero123).
    """

    DISTANCE = "distance"
    IMAGE_ELEVATION = "image-elevation"


class PoseRecord(Record):
    """The camera's pose, which a component makes one token of, together with the picture's embedding.

    The component takes ``image_embeds`` (batch, width) and ``pose`` (batch, 4) and gives ``encoder_hidden_states``
    (batch, 1, width).
    """

    component: str
    kind: PoseKind


class Task(StrEnum):
    """What a model was made to draw."""

    PICTURES = "text-to-image"
    EDITS = "edits of a picture"
    VARIATIONS = "variations of a picture"
    VIEWS = "views of an object"
    VIDEOS = "videos"


class ConditioningRecord(Record):
    """All that conditions the U-Net. The states of several text encoders lie side by side, in their order.

    ``zero_empty_negative``: without a negative prompt the unconditional half sees zeros instead of the empty prompt.
    """

    text_encoders: tuple[TextEncoderRecord, ...] = ()
    image_encoder: ImageEncoderRecord | None = None
    pose: PoseRecord | None = None
    concatenated: ConcatenatedRecord | None = None
    time_ids: TimeIds = TimeIds.NONE
    zero_empty_negative: bool = False

    @model_validator(mode="after")
    def _has_an_encoder(self) -> "ConditioningRecord":
        if (self.image_encoder is None) is not bool(self.text_encoders):
            raise ValueError("expected text encoders or an image encoder")
        if self.pose is not None and self.image_encoder is None:
            raise ValueError("a pose belongs to an image encoder")
        if self.time_ids is TimeIds.MOTION and (self.image_encoder is None or self.concatenated is None):
            raise ValueError("a model that draws videos has an image encoder, and a picture's latents")
        return self

    @property
    def task(self) -> Task:
        """What the model draws: its conditions tell."""
        if self.image_encoder is None:
            return Task.PICTURES if self.concatenated is None else Task.EDITS
        if self.time_ids is TimeIds.MOTION:
            return Task.VIDEOS
        return Task.VARIATIONS if self.pose is None else Task.VIEWS

    @property
    def components(self) -> tuple[str, ...]:
        """The components that make what the U-Net is told."""
        found = [encoder.component for encoder in self.text_encoders]
        found += [one.component for one in (self.image_encoder, self.pose) if one is not None]
        return tuple(found)


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
