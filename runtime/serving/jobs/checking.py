"""What an order's model cannot draw is refused as it arrives, also where the model is not open."""

from dataclasses import replace
from typing import Any

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.runtime.call.hires.hires import LatentUpscaler, PictureUpscaler
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.call.request import request_from_options
from latentrt.runtime.call.sizes.canvas import SourceSize
from latentrt.runtime.call.tasks.editing import guidance_with_picture
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.serving.jobs.order import Order, first_of
from latentrt.runtime.serving.lanes.submitted import check_together

# Read by the pipeline alone, which has them loaded, or reads files for them
_LEFT_OUT = frozenset({"loras", "control", "image_prompt", "wildcards"})
_SIDES = frozenset({"left", "top", "right", "bottom"})
_TOGETHER = (
    *("image", "mask_image", "strength", "image_guidance_scale", "padding_mask_crop", "kept_pixels", "masked_content"),
)
_FILTERS = (*LatentUpscaler, *PictureUpscaler)
_REMEDY = "give width and height of one of these, to which the picture is resized"


def check_order(order: Order, manifest: BundleManifest) -> None:
    """Checks all of an order but its LoRAs, nets and image prompts, and what its pictures' number must be.

    Raises:
        RequestError: the first thing that cannot be served, with what to do.
    """
    pictured = {name: order.keywords[name] for name in _TOGETHER if order.keywords.get(name) is not None}
    workflow = _workflow(order, manifest)
    check_together(**pictured, grows=any(order.keywords.get(name) for name in _SIDES))
    check_workflow(manifest, workflow)
    if order.keywords.get("prompt_syntax") is not None and any("<" in text for text in order.prompts):
        return  # LoRAs may be named in the prompts
    if order.keywords.keys() & _SIDES:
        return  # what outpainting draws is larger than its picture
    taken = Options.__annotations__.keys() - _LEFT_OUT
    options: Any = {name: value for name, value in order.keywords.items() if name in taken}
    hires = options.get("hires")
    if hires is not None and hires.upscaler not in _FILTERS:  # of the catalog, and not opened for this
        options["hires"] = replace(hires, upscaler=PictureUpscaler.LANCZOS)
    image, strength = (order.keywords.get(name) for name in ("image", "strength"))
    if image is None:
        request_from_options(manifest, order.prompt, options, workflow)
        return
    width, height = first_of(image).size
    source = SourceSize(width=width, height=height, remedy=_REMEDY)
    if workflow is Workflow.EDIT:
        guidance = request_from_options(manifest, order.prompt, options, workflow, source=source).guidance
        guidance_with_picture(guidance, order.keywords.get("image_guidance_scale"), options)
        return
    if strength is None:
        of_model = workflow is Workflow.IMAGE or manifest.unet_takes_mask
        strength = manifest.defaults.strength if of_model else 1.0
    cropped = order.keywords.get("padding_mask_crop") is not None
    request_from_options(
        manifest, order.prompt, options, workflow, strength=strength, source=None if cropped else source
    )


def _workflow(order: Order, manifest: BundleManifest) -> Workflow:
    """What it starts from, as ``Pipeline.submit`` takes it."""
    keywords = order.keywords
    if keywords.get("image") is None:
        return Workflow.TEXT
    if keywords.get("mask_image") is not None or any(keywords.get(name) for name in _SIDES):
        return Workflow.INPAINT
    edits = manifest.conditioning.task is Task.EDITS and keywords.get("strength") is None
    return Workflow.EDIT if edits or keywords.get("image_guidance_scale") is not None else Workflow.IMAGE
