"""What a call starts from, and which models draw from it."""

from enum import StrEnum
from types import MappingProxyType

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest, Start
from latentrt.engines.errors import RequestError


class Workflow(StrEnum):
    """What a call starts from."""

    TEXT = "text-to-image"
    IMAGE = "image-to-image"
    INPAINT = "inpainting"
    EDIT = "editing"
    VARIATION = "a variation"
    VIEW = "a new view"
    VIDEO = "image-to-video"

    @property
    def task(self) -> Task:
        """What the models draw that it is for."""
        return _TASKS.get(self, Task.PICTURES)


_TASKS = MappingProxyType(
    {
        Workflow.EDIT: Task.EDITS,
        Workflow.VARIATION: Task.VARIATIONS,
        Workflow.VIEW: Task.VIEWS,
        Workflow.VIDEO: Task.VIDEOS,
    }
)
_DRAWN = MappingProxyType({Task.PICTURES: "pictures from text"})
_CALLS = MappingProxyType(
    {Task.EDITS: "edit", Task.VARIATIONS: "variation", Task.VIEWS: "view", Task.VIDEOS: "img2vid"}
)


def drawn_by(manifest: BundleManifest) -> str:
    """What a model draws, for messages: "a model that draws videos"."""
    task = manifest.conditioning.task
    return f"a model that draws {_DRAWN.get(task, task)}"


def call_of(manifest: BundleManifest) -> str:
    """The call that draws with a model and a picture: of ``Pipeline``, and of the command line."""
    of_pictures = "inpaint" if manifest.unet_takes_mask else "img2img"
    return _CALLS.get(manifest.conditioning.task, of_pictures)


def check_workflow(manifest: BundleManifest, workflow: Workflow) -> None:
    """Refuses models that were made for another workflow.

    Raises:
        RequestError: such a model, with the call that draws with it.
    """
    if manifest.conditioning.task is not workflow.task:
        raise RequestError(f"got {workflow} with {drawn_by(manifest)}; use {call_of(manifest)}, with a picture")
    if manifest.unet_takes_mask and workflow is not Workflow.INPAINT:
        raise RequestError(f"got {workflow} with an inpainting model, whose U-Net wants a mask; use inpaint")
    if manifest.traits.starts_from is Start.PICTURE and workflow is Workflow.TEXT:
        raise RequestError(
            "got text-to-image with a refiner, which goes on from a picture; use img2img, or give it the latents of a "
            "base model's denoising_end with the same denoising_start"
        )


def check_reads_text(manifest: BundleManifest, got: str) -> None:
    """Refuses what is about prompts with a model that has no text encoder.

    Args:
        manifest: the bundle's.
        got: what was asked for, for the message.

    Raises:
        RequestError: it has none; with the call that draws with it.
    """
    if not manifest.conditioning.text_encoders:
        raise RequestError(
            f"got {got} for {drawn_by(manifest)} and reads no text; use {call_of(manifest)}, with a picture alone"
        )
