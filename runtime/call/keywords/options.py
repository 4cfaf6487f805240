"""The keywords that every way of drawing takes, by group.

A new keyword is its line here and its reading in its group's file; how the command line spells it is in ``flags.py``.
The types behind the annotations are not imported: the command line reads this file, and starts without NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, TypedDict, cast

from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from latentrt.engines.spec import Array
    from latentrt.runtime.addons.control import Control
    from latentrt.runtime.addons.image_prompt import ImagePrompt
    from latentrt.runtime.call.deep_cache import DeepCache
    from latentrt.runtime.call.guidance.freeu import FreeU
    from latentrt.runtime.call.hires.hires import Hires
    from latentrt.runtime.denoiser.combiners.apg import Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding
    from latentrt.runtime.pictures.tiling import VaeMode
    from latentrt.runtime.prompts.region import Region
    from latentrt.runtime.prompts.style import LongPrompt, PromptSyntax
    from latentrt.runtime.sampling.samplers import Sampler

CallbackOnStepEnd = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
OnProgress = Callable[[int, int], None]


class PromptKeywords(TypedDict, total=False):
    """Prompts.

    Attributes:
        prompt_2: models with two text encoders: what the second one reads instead of the prompt, one for all or one
            per prompt.
        negative_prompt: what to steer away from: one for all, or one per prompt. Where it is left out, SDXL's base
            model steers away from zeros; "" is the empty prompt for all models.
        negative_prompt_2: what the second text encoder reads instead of it.
        prompt_syntax: how weights are written in the prompts: "plain" (not at all), "compel" or "a1111".
        long_prompt: "truncate" leaves out what the text encoder cannot read at once and warns; "chunk" encodes it
            in chunks. None truncates plain prompts and chunks the others.
        clip_skip: how many of the text encoders' last layers to leave out for the prompt, beyond those that the model
            leaves out.
        num_images_per_prompt: pictures of each prompt, in the order of the prompts.
    """

    prompt_2: str | Sequence[str] | None
    negative_prompt: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    prompt_syntax: str | PromptSyntax
    long_prompt: str | LongPrompt | None
    clip_skip: int | None
    num_images_per_prompt: int


class WildcardKeywords(TypedDict, total=False):
    """Wildcards.

    Attributes:
        wildcards: the folder with the files that ``__name__`` stands for in prompts; the picture's seed chooses from
            them, and from ``{red|blue}``. "" for prompts with braces alone. None: both are plain text.
    """

    wildcards: str | Path | None


class RegionKeywords(TypedDict, total=False):
    """Regions.

    Attributes:
        regions: parts of the picture with prompts of their own: ``[latentrt.Region("a cat", box=(0, 0, 0.5, 1))]``; for
            all pictures, or a list of such lists, one per prompt. The prompt of the call holds where no region is.
    """

    regions: Region | Sequence[Region] | Sequence[Sequence[Region]] | None


class LoraKeywords(TypedDict, total=False):
    """LoRAs.

    Attributes:
        loras: which of the loaded LoRAs to draw with, and how strongly: {"style": 0.8}. Instead of a number a pair
            (U-Net, text encoders), or diffusers' weights of components and blocks:
            {"unet": {"down": 0.5, "mid": 1.0, "up": {"block_1": [0.5, 1.0, 0.5]}}, "text_encoder": 0.8}.
            What is not named is not used.
    """

    loras: Mapping[str, float | Sequence[float] | Mapping[str, Any]] | None


class AddonKeywords(TypedDict, total=False):
    """Control nets and image prompts.

    Attributes:
        control: control nets and T2I-Adapters with their pictures: ``[latentrt.Control("canny.bundle", edges)]``.
            Several are summed.
        image_prompt: IP-Adapters with their pictures: ``[latentrt.ImagePrompt("plus.bundle", photograph)]``.
    """

    control: Control | Sequence[Control] | None
    image_prompt: ImagePrompt | Sequence[ImagePrompt] | None


class EncodeKeywords(PromptKeywords, LoraKeywords, total=False):
    """What encoding takes: the keywords about prompts, and LoRAs."""


class Embeds(TypedDict, total=False):
    """Prompts that were encoded before, in place of their texts: NumPy's arrays or torch's tensors, N prompts each.

    Attributes:
        prompt_embeds: what the U-Net attends to, (N, 77 · k, width), as ``Pipeline.encode`` makes it.
        negative_prompt_embeds: what to steer away from, of the same length; one for all or one per prompt.
        pooled_prompt_embeds: SDXL: the pooled vectors (N, projection) that belong to ``prompt_embeds``.
        negative_pooled_prompt_embeds: SDXL: those that belong to ``negative_prompt_embeds``.
    """

    prompt_embeds: Any
    negative_prompt_embeds: Any
    pooled_prompt_embeds: Any
    negative_pooled_prompt_embeds: Any


class PictureSizeKeywords(TypedDict, total=False):
    """What SDXL is told of the picture.

    Attributes:
        original_size: SDXL: original size (height, width) to condition on; default: the output size.
        crops_coords_top_left: SDXL: crop offset (top, left) to condition on; (0, 0) is framed best.
        target_size: SDXL: target size (height, width) to condition on; default: the output size.
        negative_original_size: SDXL: original size to steer away from, as with the two that follow.
        negative_crops_coords_top_left: (top, left).
        negative_target_size: (height, width).
        aesthetic_score: SDXL's refiner: aesthetic score to condition on; default: 6.
        negative_aesthetic_score: aesthetic score to steer away from; default: 2.5.
    """

    original_size: tuple[int, int] | None
    crops_coords_top_left: tuple[int, int] | None
    target_size: tuple[int, int] | None
    negative_original_size: tuple[int, int] | None
    negative_crops_coords_top_left: tuple[int, int] | None
    negative_target_size: tuple[int, int] | None
    aesthetic_score: float | None
    negative_aesthetic_score: float | None


class CanvasKeywords(PictureSizeKeywords, total=False):
    """The picture.

    Attributes:
        width: in pixels; together with ``height`` a size that the bundle has a profile for. None takes the size of
            the picture given, or the bundle's first profile.
        height: in pixels.
        vae: how pictures go through the autoencoder: "whole", "sliced" (one by one), or "tiled", which needs far
            less memory for large pictures.
    """

    width: int | None
    height: int | None
    vae: str | VaeMode


class SamplingKeywords(TypedDict, total=False):
    """Sampling.

    Attributes:
        num_inference_steps: sampler steps of the whole schedule.
        sampler: a name from ``latentrt samplers``, or a ``Sampler`` with wishes about its schedule and options.
        timesteps: training timesteps to visit instead of the sampler's own, descending; "ays" for Align Your Steps.
        sigmas: noise levels to visit instead, descending, the last one being where the last step ends (0); or "ays".
        denoising_end: the part of the training timesteps, 0 to 1, after which to stop and hand the latents on. A
            sampler with two calls a step may stop between them, as in diffusers; what goes on repeats the first.
        denoising_start: image-to-image only: where such a hand-over goes on from the latents given as ``image``; no
            noise is added.
        seed: one seed for the whole batch, as ``torch.Generator().manual_seed`` in diffusers, or one per picture.
            None draws one at random per picture.
        latents: initial noise (N, C, H/f, W/f) float32 of unit variance instead of the seed's.
    """

    num_inference_steps: int | None
    sampler: str | Sampler | None
    timesteps: Sequence[int] | str | None
    sigmas: Sequence[float] | str | None
    denoising_end: float | None
    denoising_start: float | None
    seed: int | Sequence[int] | None
    latents: Array | None


class HiresKeywords(TypedDict, total=False):
    """The hires fix.

    Attributes:
        hires: text-to-image only: enlarges what was drawn and draws it on in a second pass:
            ``latentrt.Hires(scale=2.0, strength=0.55, upscaler="lanczos")``.
    """

    hires: Hires | None


class GuidanceKeywords(TypedDict, total=False):
    """Guidance.

    Attributes:
        guidance_scale: weight of classifier-free guidance, one for all steps or one per step of the whole schedule,
            also where strength leaves some out; at most 1 means none and half the work. Models that are told it (LCM)
            need one pass only, whatever it is.
        guidance_rescale: φ of arXiv 2305.08891, 0 to 1, against the overexposure of strong guidance.
        guidance_start: the part of the steps, 0 to 1, that passes before guidance begins.
        guidance_end: the part of the steps after which it ends.
        cfg_plus_plus: the weight λ of CFG++ (arXiv 2406.08070), 0 to 1, in place of ``guidance_scale``: one, or one per
            step. 0.6 is about what 7.5 is without it. For the samplers ddim, ddpm, euler, euler_a, dpmpp_2m.
        apg: adaptive projected guidance (arXiv 2410.02416) against the oversaturation of strong guidance:
            ``latentrt.Apg(eta=0.0, norm_threshold=15.0, momentum=-0.5)``, or its fields by name.
        dynamic_thresholding: the range of a weaker guidance, as A1111's extension keeps it:
            ``latentrt.DynamicThresholding(mimic_scale=7.0)``, or its fields by name.
        pag_scale: weight of perturbed-attention guidance (arXiv 2403.17377), with or without a guidance scale; 3 is
            common, 0 means none. A step has half as much work again.
        pag_adaptive_scale: what that weight falls by with each timestep below 1000, down to 0.
        pag_applied_layers: which self-attentions are perturbed: "mid" (the default), "up_blocks.0", or any regular
            expression that is found in a layer's name, such as "up_blocks.0.attentions.0"; or a list of them.
    """

    guidance_scale: float | Sequence[float] | None
    guidance_rescale: float
    guidance_start: float
    guidance_end: float
    cfg_plus_plus: float | Sequence[float] | None
    apg: Apg | Mapping[str, float] | None
    dynamic_thresholding: DynamicThresholding | Mapping[str, Any] | None
    pag_scale: float
    pag_adaptive_scale: float
    pag_applied_layers: str | Sequence[str] | None


class FreeuKeywords(TypedDict, total=False):
    """FreeU.

    Attributes:
        freeu: FreeU (arXiv 2309.11497) in the U-Net: ``latentrt.FreeU()`` with what its authors recommend for the
            model, ``latentrt.FreeU(b1=1.5, b2=1.6, s1=0.9, s2=0.2)``, or such factors by name.
    """

    freeu: FreeU | Mapping[str, float] | None


class CachingKeywords(TypedDict, total=False):
    """Model calls that compute less.

    Attributes:
        deep_cache: DeepCache (arXiv 2312.00858): every so many model calls the whole U-Net is computed; those between
            take most of it from the one before. 3 is common. Or ``latentrt.DeepCache(interval=3, branch=0)``, or its
            fields by name.
    """

    deep_cache: int | DeepCache | Mapping[str, int] | None


class DeliveryKeywords(TypedDict, total=False):
    """What comes back.

    Attributes:
        output_type: "pil", "np" or "latent".
        callback_on_step_end: called as f(pipeline, step, timestep, {"latents": x, "denoised": x₀}) after every
            model call. What it changes in the mapping, or returns in one, holds for the steps to come: ``latents``,
            ``guidance_scale``, and embeddings. ``pipeline.preview(x₀)`` shows x₀, and ``raise latentrt.Interrupt``
            ends the run with what there is.
        callback_on_step_end_tensor_inputs: what the callback is given instead, by name: "latents", "denoised",
            "guidance_scale", "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds". As in diffusers, ``prompt_embeds`` of a guided run begin with the
            negatives, and so do the pooled ones.
        progress: called as f(done, total) after every model call.
    """

    output_type: str
    callback_on_step_end: CallbackOnStepEnd | None
    callback_on_step_end_tensor_inputs: Sequence[str] | None
    progress: OnProgress | None


class Options(
    PromptKeywords,
    WildcardKeywords,
    RegionKeywords,
    LoraKeywords,
    AddonKeywords,
    Embeds,
    CanvasKeywords,
    SamplingKeywords,
    HiresKeywords,
    GuidanceKeywords,
    FreeuKeywords,
    CachingKeywords,
    DeliveryKeywords,
    total=False,
):
    """What a call may say beyond its prompt and pictures; the names are diffusers' own where it has them.

    What is left out, or None, is the bundle's default.
    """


_GROUPS = (
    PromptKeywords,
    WildcardKeywords,
    RegionKeywords,
    LoraKeywords,
    AddonKeywords,
    Embeds,
    CanvasKeywords,
    PictureSizeKeywords,
    SamplingKeywords,
    HiresKeywords,
    GuidanceKeywords,
    FreeuKeywords,
    CachingKeywords,
    DeliveryKeywords,
)
Options.__doc__ = "\n\n".join(cleandoc(group.__doc__ or "") for group in (Options, *_GROUPS))


def set_options(
    options: Mapping[str, Any], group: type[Any] = Options, advice: Mapping[str, str] | None = None
) -> Options:
    """The options that were set: those that are not None.

    Args:
        options: as a caller gave them.
        group: the keywords that may be among them.
        advice: what to do instead of some that may not be, by name; beside what holds for all calls.

    Raises:
        RequestError: an unknown one, with the name that it comes close to, or what does here what it does elsewhere.
    """
    known = list(group.__annotations__)
    for name in options:
        if name not in known:
            from difflib import get_close_matches  # not needed by a call that is right

            from latentrt.runtime.call.keywords.elsewhere import ELSEWHERE

            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            remedy = (advice or {}).get(name) or ELSEWHERE.get(name, hint)
            raise RequestError(f"got keyword {name!r}, expected one that drawing knows; {remedy}")
    return cast(Options, {name: value for name, value in options.items() if value is not None})
