"""The keywords of models that were made to be told of a picture, beside those of every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.options import (
    AddonKeywords,
    CachingKeywords,
    CanvasKeywords,
    DeliveryKeywords,
    FreeuKeywords,
    GuidanceKeywords,
    LoraKeywords,
    Options,
    SamplingKeywords,
    set_options,
)

_OF_OTHER_CALLS = frozenset({"prompt", "strength", "mask_image", "denoising_start"})


class SeenOptions(
    LoraKeywords,
    AddonKeywords,
    CanvasKeywords,
    SamplingKeywords,
    GuidanceKeywords,
    FreeuKeywords,
    CachingKeywords,
    DeliveryKeywords,
    total=False,
):
    """What a call may say of a model that sees a picture and reads no prompt; see ``Options``.

    Attributes:
        num_images_per_prompt: pictures of each picture given, or of each of its views.
    """

    num_images_per_prompt: int


class PoseKeywords(TypedDict, total=False):
    """Where the camera goes: one number, or a list with one per view. All are seen from where the picture was taken.

    Attributes:
        elevation: degrees by which the camera rises; below 0 it sinks.
        azimuth: degrees by which it goes around the object to the right; 360 is where it began.
        distance: Zero123: by how much it goes away, in the model's own measure: about −0.5 to 0.5.
        image_elevation: Stable Zero123: at how many degrees above the object the picture was taken, −90 to 90;
            default: 0.
    """

    elevation: float | Sequence[float] | None
    azimuth: float | Sequence[float] | None
    distance: float | Sequence[float] | None
    image_elevation: float | Sequence[float] | None


class ViewOptions(SeenOptions, PoseKeywords, total=False):
    """What a call of ``Pipeline.view`` may say."""


def set_seen_options(options: Mapping[str, Any], group: type[Any] = SeenOptions) -> Options:
    """The options that were set, as ``set_options`` has them, of a model that reads no prompt and begins with noise.

    Raises:
        RequestError: an unknown one, or one that means nothing to such a model.
    """
    elsewhere = (Options.__annotations__.keys() - group.__annotations__.keys()) | _OF_OTHER_CALLS
    foreign = [name for name, value in options.items() if name in elsewhere and value is not None]
    if foreign:
        raise RequestError(
            f"got {' and '.join(foreign)} with a model that sees a picture, reads no prompt and begins with noise; "
            "leave it out"
        )
    return set_options(options, group)
