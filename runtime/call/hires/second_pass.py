"""The second pass of a hires fix, checked: everything that it wants is known before the first one draws."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError, shown
from latentrt.engines.shapes import profile_for_size
from latentrt.runtime.call.hires.hires import Hires, LatentUpscaler, PictureUpscaler
from latentrt.runtime.call.hires.steps import second_sampling
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.prompts.prompt_set import PromptSet, prompt_set_from_keywords
from latentrt.runtime.call.request import Request, request_of_parts
from latentrt.runtime.call.sizes.canvas import Canvas
from latentrt.runtime.call.sizes.picture_size import time_ids_from_keywords
from latentrt.runtime.checks import number, texts_for, warn_caller
from latentrt.runtime.denoiser.guider import CfgPlusPlusScales
from latentrt.runtime.metadata.a1111_names import sampler_name
from latentrt.runtime.metadata.further_passes import HiresMetadata

if TYPE_CHECKING:
    from latentrt.runtime.additions import Additions
    from latentrt.runtime.upscaling.upscaler import Upscaler

_BLURS_BELOW = 0.5  # strength: latents that were enlarged are no picture's until they are redrawn so far
_LARGEST_SCALE = 64.0
_ROUNDING = 1e-3  # pixels: scales are written with few digits
_OF_PROMPT = ("prompt_2", "prompt_embeds", "pooled_prompt_embeds")
_OF_NEGATIVE = ("negative_prompt_2", "negative_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """What is drawn on at the larger size.

    Attributes:
        hires: what the caller asked for.
        request: the pass, as a call of its own; its run begins with what ``upscaler`` made of the first one's.
        upscaler: what enlarges.
    """

    hires: Hires
    request: Request
    upscaler: "LatentUpscaler | PictureUpscaler | Upscaler"

    def metadata(self, index: int, prompts: PromptSet) -> HiresMetadata:
        """What a picture's metadata say of it.

        Args:
            index: of the picture.
            prompts: the first pass's.
        """
        hires, own = self.hires, self.request.prompts.metadata(index)
        before, profile = prompts.metadata(index), self.request.canvas.profile
        named, sampler = self.upscaler, sampler_name(self.request.sampling.sampler)
        label = f"{sampler} CFG++" if isinstance(self.request.guidance.steps, CfgPlusPlusScales) else sampler
        return HiresMetadata(
            scale=float(hires.scale),
            width=profile.width,
            height=profile.height,
            strength=float(hires.strength),
            steps=None if hires.steps is None else self.request.sampling.steps,
            upscaler=named.value if isinstance(named, (LatentUpscaler, PictureUpscaler)) else named.name,
            sampler=None if hires.sampler is None else self.request.sampling.sampler.name,
            sampler_label=None if hires.sampler is None else label,
            schedule_type=None if hires.sampler is None else self.request.sampling.schedule_type,
            prompt=None if own["prompt"] == before["prompt"] else own["prompt"],
            negative_prompt=None if own["negative_prompt"] == before["negative_prompt"] else own["negative_prompt"],
            guidance_scale=None if hires.guidance_scale is None else float(hires.guidance_scale),
        )


def with_second_pass(
    request: Request,
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    keywords: Options,
    additions: "Additions | None",
) -> Request:
    """A call's request with its second pass.

    Args:
        request: the call without it.
        manifest: the bundle's.
        prompt: the call's.
        keywords: those that were set.
        additions: what is added to the pipeline's model; None: nothing.

    Raises:
        RequestError: something in ``hires`` that cannot be served, or a keyword that does not go with it.
        BundleError: an upscaler that cannot be opened.
        EngineError: no engine of an upscaler fits this machine.
    """
    hires = keywords["hires"]
    if not isinstance(hires, Hires):
        raise RequestError(f"got hires {shown(hires)}, expected latentrt.Hires(scale=2.0); give that")
    if "denoising_end" in keywords:
        raise RequestError(
            "got denoising_end with hires, whose second pass begins with what is finished; leave one of them out"
        )
    own = _keywords_of_pass(request, hires, keywords)
    canvas = _canvas(request.canvas, manifest, hires, keywords)
    sampling = second_sampling(manifest, hires, request.sampling, own)
    upscaler = _upscaler(hires.upscaler, additions)
    prompts = request.prompts
    if hires.prompt is not None or hires.negative_prompt is not None:
        written = prompt if hires.prompt is None else cast(Any, own)["prompt"]
        prompts = prompt_set_from_keywords(manifest, written, own)
    second = request_of_parts(
        manifest, own, prompts, canvas, sampling, request.delivery, additions=additions, before=request.sampling.steps
    )
    if isinstance(upscaler, LatentUpscaler) and sampling.strength is not None and sampling.strength < _BLURS_BELOW:
        warn_caller(
            f"strength {sampling.strength:g} of hires with upscaler {upscaler.value!r} leaves pictures blurred; raise "
            "it to 0.5 or more, or take upscaler 'lanczos'"
        )
    return replace(request, second=SecondPass(hires=hires, request=second, upscaler=upscaler))


def _keywords_of_pass(request: Request, hires: Hires, keywords: Options) -> Options:
    """The call's keywords as the second pass has them."""
    own: dict[str, Any] = {**keywords, "seed": request.sampling.seeds}
    count = request.count // int(keywords.get("num_images_per_prompt", 1))
    for name, value, others in (
        ("prompt", hires.prompt, _OF_PROMPT),
        ("negative_prompt", hires.negative_prompt, _OF_NEGATIVE),
    ):
        if value is not None:
            own = {key: kept for key, kept in own.items() if key not in others}
            own[name] = texts_for(value, count, f"{name} of hires")
    weights = "guidance scales" if "cfg_plus_plus" not in keywords else "weights of cfg_plus_plus"
    scales = keywords.get("cfg_plus_plus", keywords.get("guidance_scale"))
    if hires.guidance_scale is not None and "cfg_plus_plus" in keywords:
        raise RequestError("got guidance_scale of hires with cfg_plus_plus, which guides both passes; leave one out")
    if hires.guidance_scale is not None:
        own["guidance_scale"] = number(hires.guidance_scale, "guidance_scale of hires")
    elif isinstance(scales, (Sequence, np.ndarray)):
        raise RequestError(
            f"got {len(scales)} {weights} with hires, whose second pass has other steps; give "
            + ("one" if "cfg_plus_plus" in keywords else "hires=latentrt.Hires(guidance_scale=7.5), too")
        )
    return cast(Options, own)


def _canvas(first: Canvas, manifest: BundleManifest, hires: Hires, keywords: Options) -> Canvas:
    """The larger size, whose sides are whole numbers below side · scale, as in A1111."""
    scale = number(hires.scale, "scale of hires")
    if not 1.0 <= scale <= _LARGEST_SCALE:
        raise RequestError(f"got scale {scale:g} of hires, expected 1 to {_LARGEST_SCALE:g}; 2 is common")
    small, multiple = first.profile, manifest.pixel_multiple
    width, height = (math.floor(side * scale + _ROUNDING) for side in (small.width, small.height))
    if width % multiple or height % multiple:
        common = math.gcd(small.width, small.height) // multiple
        near = max(round(scale * common), common) / common
        raise RequestError(
            f"got scale {scale:g} of hires, which makes {small.width}x{small.height} {width}x{height}, expected sides "
            f"that are multiples of {multiple} pixels; take scale {near:.8g}"
        )
    profile = profile_for_size(
        manifest.profiles,
        width,
        height,
        multiple=manifest.pixel_multiple,
        remedy=f"choose a scale of hires that makes {small.width}x{small.height} one of these",
    )
    time_ids = time_ids_from_keywords(manifest.conditioning.time_ids, keywords, profile, from_picture=False)
    return replace(first, profile=profile, time_ids=time_ids)


def _upscaler(given: Any, additions: "Additions | None") -> "LatentUpscaler | PictureUpscaler | Upscaler":
    """What enlarges, opened where it is a bundle."""
    names: dict[str, LatentUpscaler | PictureUpscaler] = {
        one.value: one for kind in (LatentUpscaler, PictureUpscaler) for one in kind
    }
    if isinstance(given, str) and given in names:
        return names[given]
    if callable(getattr(given, "upscaled", None)):
        return cast("Upscaler", given)
    if additions is None or not isinstance(given, (str, os.PathLike)) or not Path(given).exists():
        raise RequestError(
            f"got upscaler {str(given)[:200]!r} of hires, expected one of {', '.join(names)}, or the path of an "
            "upscaler's bundle; choose one"
        )
    return additions.upscalers.opened(Path(given))
