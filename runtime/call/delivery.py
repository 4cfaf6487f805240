"""What a call gives back, and what it tells on the way."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.options import CallbackOnStepEnd, DeliveryKeywords, OnProgress
from latentrt.runtime.call.result import OutputType
from latentrt.runtime.checks import texts
from latentrt.runtime.denoiser.conditions.text import EMBEDS, POOLED
from latentrt.runtime.denoiser.guider import NEGATIVE, Pass

OnModelCall = Callable[[int, int, Array], None]
"""Told of a model call: how many are done, of how many, and the clean sample predicted, as callbacks get it."""

LATENTS, DENOISED, GUIDANCE_SCALE = "latents", "denoised", "guidance_scale"
_ELSEWHERE = {
    "add_text_embeds": "they are called pooled_prompt_embeds",
    "add_time_ids": "sizes are told at the start of a run: give original_size and the like to the call",
    "mask": "a mask holds for the whole run",
    "masked_image_latents": "a mask holds for the whole run",
    "w_embedding": "change guidance_scale",
}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The form of the pictures, and who is told of every model call.

    ``tensors`` is what the callback is given, ``changeable`` what it may change. ``watcher`` is told before it, and may
    end the run; a caller cannot name it.
    """

    output_type: OutputType
    callback: CallbackOnStepEnd | None
    tensors: tuple[str, ...]
    changeable: tuple[str, ...]
    progress: OnProgress | None
    watcher: OnModelCall | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody is told of model calls."""
        return any(told is not None for told in (self.callback, self.progress, self.watcher))


def delivery_from_keywords(manifest: BundleManifest, keywords: DeliveryKeywords) -> Delivery:
    """Checks what shall come back.

    Raises:
        RequestError: an unknown form, something that is no function, or tensors that a callback cannot be given.
    """
    callback, progress = keywords.get("callback_on_step_end"), keywords.get("progress")
    for name, function in (("callback_on_step_end", callback), ("progress", progress)):
        if function is not None and not callable(function):
            raise RequestError(f"got {name} {function!r}, expected a function; give one")
    without: set[Pass | str] = set() if POOLED in manifest.components[UNET].inputs else {POOLED}
    if manifest.guidance_embedding:
        without.add(NEGATIVE)
    embeds = EMBEDS if manifest.conditioning.text_encoders else {}  # of texts
    changeable = (LATENTS, GUIDANCE_SCALE, *(name for name, about in embeds.items() if without.isdisjoint(about)))
    tensors: tuple[str, ...] = (LATENTS, DENOISED)
    if "callback_on_step_end_tensor_inputs" in keywords:
        if callback is None:
            raise RequestError(
                "got callback_on_step_end_tensor_inputs alone, expected callback_on_step_end; give it, too"
            )
        tensors = tuple(texts(keywords["callback_on_step_end_tensor_inputs"], "callback_on_step_end_tensor_inputs"))
        refuse_unknown(tensors, (*changeable, DENOISED), "got callback_on_step_end_tensor_inputs")
    return Delivery(
        output_type=choice(OutputType, keywords.get("output_type", OutputType.PIL), "output_type"),
        callback=callback,
        tensors=tensors,
        changeable=changeable,
        progress=progress,
    )


def refuse_unknown(names: Iterable[Any], known: Sequence[str], got: str) -> None:
    """Refuses names that a callback's tensors do not have.

    Raises:
        RequestError: naming the unknown, and what to use instead.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        from difflib import get_close_matches  # loaded by mistakes

        close = get_close_matches(str(unknown[0]), known, 1)
        hint = _ELSEWHERE.get(unknown[0], f"did you mean {close[0]}?" if close else "correct the name")
        raise RequestError(f"{got} {', '.join(map(repr, unknown))}, expected some of {', '.join(known)}; {hint}")
