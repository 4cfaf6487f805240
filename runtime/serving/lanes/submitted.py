"""What was submitted: the call that its arguments mean, and who watches it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.additions import Additions
from latentrt.runtime.call.checked_call import CheckedCall, text_call
from latentrt.runtime.call.delivery import OnModelCall
from latentrt.runtime.call.initial_latents import KeptPixels
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.pictures.masked_content import MaskedContent


def submitted_call(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    options: Options,
    additions: Additions,
    *,
    image: Any,
    mask_image: Any,
    strength: float | None,
    padding_mask_crop: int | None,
    kept_pixels: str | KeptPixels,
    masked_content: str | MaskedContent,
    image_guidance_scale: float | None,
    **sides: int,
) -> CheckedCall:
    """The call of the way of drawing that the pictures tell: the arguments are those of ``Pipeline.submit``.

    A picture alone is edited by a model that draws edits, and by others it is what is drawn from.

    Raises:
        RequestError: an argument that cannot be served, or that does not go with the others.
    """
    grows = any(sides.values())
    check_together(
        image=image,
        mask_image=mask_image,
        strength=strength,
        padding_mask_crop=padding_mask_crop,
        kept_pixels=kept_pixels,
        masked_content=masked_content,
        image_guidance_scale=image_guidance_scale,
        grows=grows,
    )
    if image is None:
        return text_call(manifest, prompt, options, additions)
    alone = mask_image is None and strength is None and not grows
    if image_guidance_scale is not None or (alone and manifest.conditioning.task is Task.EDITS):
        from latentrt.runtime.call.tasks.editing import edit_call

        return edit_call(manifest, prompt, image, image_guidance_scale, options, additions)
    from latentrt.runtime.call.sizes.from_pictures import image_call, inpaint_call, outpaint_call

    if grows:
        return outpaint_call(manifest, prompt, image, strength, options, additions, **sides)
    if mask_image is None:
        return image_call(manifest, prompt, image, strength, options, additions)
    return inpaint_call(
        manifest,
        prompt,
        image,
        mask_image,
        strength,
        padding_mask_crop,
        kept_pixels,
        masked_content,
        options,
        additions,
    )


def check_together(
    *,
    image: Any = None,
    mask_image: Any = None,
    strength: float | None = None,
    padding_mask_crop: int | None = None,
    kept_pixels: str | KeptPixels = KeptPixels.EXACT,
    masked_content: str | MaskedContent = MaskedContent.ORIGINAL,
    image_guidance_scale: float | None = None,
    grows: bool = False,
) -> None:
    """Checks that each argument of a way of drawing has those that it means nothing without.

    Raises:
        RequestError: one that has not.
    """
    if image is None:
        given = {
            "mask_image": mask_image is not None,
            "strength": strength is not None,
            "image_guidance_scale": image_guidance_scale is not None,
            "a side that grows": grows,
        }
        _refuse(given, "without image, where it means nothing; give image, too")
    if mask_image is None:
        kept = kept_pixels != KeptPixels.EXACT
        chosen = masked_content != MaskedContent.ORIGINAL
        given = {"padding_mask_crop": padding_mask_crop is not None, "kept_pixels": kept, "masked_content": chosen}
        _refuse(given, "without mask_image, where it means nothing; give mask_image, too")
    elif grows:
        _refuse({"mask_image": True}, "for a picture that grows, whose mask is what is new; leave one out")
    if image_guidance_scale is not None:
        given = {"mask_image": mask_image is not None, "strength": strength is not None, "a side that grows": grows}
        _refuse(given, "with image_guidance_scale, which is about an edit of the whole picture; leave one out")


def watched(call: CheckedCall, watcher: OnModelCall) -> CheckedCall:
    """The call with somebody who is told of its model calls, beside those whom the caller named."""
    request = replace(call.request, delivery=replace(call.request.delivery, watcher=watcher))
    if request.second is not None:
        second = request.second.request
        second = replace(second, delivery=replace(second.delivery, watcher=watcher))
        request = replace(request, second=replace(request.second, request=second))
    return replace(call, request=request)


def steps_of(call: CheckedCall) -> int:
    """How many model calls it takes."""
    second = call.request.second
    return len(call.request.sampling.levels) + (0 if second is None else len(second.request.sampling.levels))


def _refuse(given: dict[str, bool], why: str) -> None:
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise RequestError(f"got {' and '.join(names)} {why}")
