"""The image prompts of a call."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ImagePromptRecord
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.addons.addon import Addon, OpenAddons
from latentrt.runtime.addons.attention_scales import attention_scales
from latentrt.runtime.addons.image_prompt import ImagePrompt
from latentrt.runtime.addons.image_prompt_use import ImagePrompts, ImagePromptUse
from latentrt.runtime.addons.use import AddonUse
from latentrt.runtime.call.addons.fields import scale_from_argument, steps_from_shares
from latentrt.runtime.call.keywords.options import AddonKeywords
from latentrt.runtime.call.sampling import Sampling
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.metadata.added import ImagePromptMetadata
from latentrt.runtime.pictures.arrays import pictures_from_argument
from latentrt.runtime.pictures.clip_pixels import clip_pixels
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.pictures.mask import masks_from_argument, white_places

_NAME = "image_prompt"


def image_prompts_from_keywords(
    manifest: BundleManifest, opened: OpenAddons, keywords: AddonKeywords, sampling: Sampling
) -> Sequence[AddonUse]:
    """What a call's image prompts add to the U-Net, every argument checked.

    Args:
        manifest: the model's.
        opened: the pipeline's add-ons.
        keywords: those of the group that were set.
        sampling: whose steps their beginnings and ends are shares of.

    Returns:
        All that count anywhere as one; none where none does, and the model draws as without.

    Raises:
        RequestError: an argument that cannot be served, or an adapter for other models.
        BundleError: no bundle of an add-on, or one that is damaged.
    """
    check_reads_text(manifest, f"an {_NAME}")
    given: Any = keywords.get("image_prompt", ())
    several = [given] if isinstance(given, ImagePrompt) else given
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, ImagePrompt) for one in several):
        raise RequestError(
            f"got {_NAME} {str(given)[:200]}, expected latentrt.ImagePrompt(ADAPTER, PICTURES) or a list of them; give "
            "one"
        )
    used = [use for one in several if (use := _use(manifest, opened, one, sampling)) is not None]
    if not used:
        return ()
    return (ImagePrompts(prompts=tuple(used), structure=opened.unet.structure, latents=manifest.latents),)


def _use(
    manifest: BundleManifest, opened: OpenAddons, prompt: ImagePrompt, sampling: Sampling
) -> ImagePromptUse | None:
    """One of them, checked; None where it counts nowhere."""
    scale = scale_from_argument(prompt.scale, _NAME)
    steps = steps_from_shares(prompt.start, prompt.end, sampling, _NAME)
    pictures = pictures_from_argument(prompt.images, -1, latents=False, name=f"images of {_NAME}")
    addon = _adapter(opened, prompt.adapter)
    record = _record(addon)
    _check_fits(manifest, opened, addon, record)
    xl = manifest.conditioning.time_ids is not TimeIds.NONE
    scales = attention_scales(prompt.blocks, scale, opened.unet.structure, xl=xl)
    mask = _mask(prompt.mask)
    if not any(scales) or not any(steps.active):
        return None
    size, mean, std = record.image_size[0], record.image_mean, record.image_std
    return ImagePromptUse(
        opened=opened,
        addon=addon,
        record=record,
        pixels=np.stack([clip_pixels(picture, size, mean, std) for picture in pictures]),
        scales=scales,
        mask=mask,
        steps=steps,
        metadata=ImagePromptMetadata(
            adapter=addon.name,
            images=len(pictures),
            scale=scale,
            blocks=prompt.blocks,
            masked=mask is not None,
            start=float(prompt.start),
            end=float(prompt.end),
        ),
    )


def _adapter(opened: OpenAddons, adapter: Any) -> Addon:
    if not isinstance(adapter, (str, os.PathLike, Addon)):
        raise RequestError(
            f"got adapter {shown(adapter)} of an {_NAME}, expected the path of its bundle, or what latentrt.open_addon "
            "gave; give one"
        )
    addon = opened.addon(adapter if isinstance(adapter, Addon) else Path(adapter))
    if addon.kind is not AddonKind.IMAGE_PROMPT:
        raise RequestError(
            f"got {addon.name!r}, {addon.kind.label}, as an image prompt's adapter, expected an IP-Adapter's bundle; "
            "give it as control=[latentrt.Control(net, image)], or with --control"
        )
    return addon


def _record(addon: Addon) -> ImagePromptRecord:
    record = addon.manifest.image_prompt
    assert record is not None  # as the manifest's own check holds
    return record


def _check_fits(manifest: BundleManifest, opened: OpenAddons, addon: Addon, record: ImagePromptRecord) -> None:
    """Refuses an adapter whose matrices are not those of the model's cross-attentions."""
    context = manifest.components[UNET].inputs["encoder_hidden_states"].shape[2]
    widths = tuple(layer.width for layer in opened.unet.structure.cross_attentions)
    if (record.context, record.widths) != (context, widths):
        raise RequestError(
            f"got the IP-Adapter {addon.name!r}, built for a model of {addon.manifest.family} with "
            f"{len(record.widths)} cross-attentions to prompts {record.context} wide, and the model of "
            f"{manifest.family} has {len(widths)} to prompts {context} wide; build an adapter for it with --for"
        )


def _mask(given: Any) -> Picture | None:
    """The mask of an image prompt, read once to see that it can be."""
    if given is None:
        return None
    masks = masks_from_argument(given, f"mask of {_NAME}")
    if len(masks) != 1:
        raise RequestError(f"got {len(masks)} masks of an {_NAME}, expected one; give an image prompt for each of them")
    white_places(masks[0], 8, 8)
    return masks[0]
