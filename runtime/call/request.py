"""One call of a pipeline, checked: every argument is refused or filled in before any work is done."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.delivery import Delivery, delivery_from_keywords
from latentrt.runtime.call.guidance.guidance import Guidance, guidance_from_keywords
from latentrt.runtime.call.keywords.options import LoraKeywords, Options, set_options
from latentrt.runtime.call.prompts.prompt_set import PromptSet, prompt_set_from_keywords
from latentrt.runtime.call.sampling import Sampling, sampling_from_keywords
from latentrt.runtime.call.sizes.canvas import Canvas, SourceSize, canvas_from_keywords
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.metadata.model_name import ModelName, model_name_from_manifest
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.masked_content import MaskedContent
from latentrt.runtime.prompts.parts import StepCount
from latentrt.runtime.prompts.textual_inversion import TextualInversions

if TYPE_CHECKING:
    from latentrt.runtime.adapters.loaded import LoadedLoras
    from latentrt.runtime.additions import Additions
    from latentrt.runtime.addons.use import AddonUse
    from latentrt.runtime.call.deep_cache import DeepCache
    from latentrt.runtime.call.hires.second_pass import SecondPass
    from latentrt.runtime.call.loras import CallLoras
    from latentrt.runtime.call.tasks.video.clip import Clip
    from latentrt.runtime.call.tasks.views.pose import Pose


@dataclass(frozen=True, kw_only=True)
class Request:
    """N pictures of one size, from latents of ``latent_shape`` (N, C, h, w), of videos (N, F, C, h, w).

    ``second`` enlarges them.

    ``deep_cache`` is None where every model call is whole.
    ``masked_content`` is what inpainting starts from under its mask. ``poses`` are those of the views, one per picture.
    ``clip`` is about the frames of videos; None: these are pictures.
    """

    prompts: PromptSet
    canvas: Canvas
    sampling: Sampling
    guidance: Guidance
    delivery: Delivery
    latent_shape: tuple[int, ...]
    model: ModelName
    loras: "CallLoras | None" = None
    addons: "tuple[AddonUse, ...]" = ()
    deep_cache: "DeepCache | None" = None
    second: "SecondPass | None" = None
    masked_content: MaskedContent = MaskedContent.ORIGINAL
    poses: "tuple[Pose, ...]" = ()
    clip: "Clip | None" = None

    @property
    def count(self) -> int:
        """N."""
        return self.latent_shape[0]

    @property
    def seed_of_each(self) -> tuple[int, ...]:
        """The seed of every picture; a shared one is repeated."""
        seeds = self.sampling.seeds
        return seeds if isinstance(seeds, tuple) else (seeds,) * self.count

    def metadata(self, inversions: TextualInversions) -> tuple[PictureMetadata, ...]:
        """The settings of every picture. Where a seed is shared, its place in the batch counts.

        Args:
            inversions: those that the prompts were read with.
        """
        shared = isinstance(self.sampling.seeds, int)
        common = {**self.canvas.metadata(), **self.sampling.metadata(), **self.guidance.metadata()}
        if self.masked_content is not MaskedContent.ORIGINAL:
            common["masked_content"] = self.masked_content
        if self.loras is not None:
            common["loras"] = tuple(used.metadata() for used in self.loras.used)
        for use in self.addons:
            common |= use.metadata()
        if self.deep_cache is not None:
            common["deep_cache"] = asdict(self.deep_cache)
        if self.clip is not None:
            common |= self.clip.metadata(self.guidance)
        return tuple(
            PictureMetadata(
                **self.prompts.metadata(index),
                **common,
                hires=None if self.second is None else self.second.metadata(index, self.prompts),
                poses=self.poses[index : index + 1],
                seed=seed,
                batch_index=index if shared else 0,
                model=self.model.name,
                model_hash=self.model.short_hash,
                vae=self.model.vae,
                vae_hash=self.model.vae_hash,
                embeddings=self.prompts.embeddings(index, inversions),
            )
            for index, seed in enumerate(self.seed_of_each)
        )


def request_from_options(
    manifest: BundleManifest,
    prompt: str | Sequence[str] | None,
    options: Options,
    workflow: Workflow,
    *,
    strength: float | None = None,
    source: SourceSize | None = None,
    additions: "Additions | None" = None,
) -> Request:
    """Checks a call's arguments and fills in the bundle's defaults.

    Args:
        manifest: the bundle's.
        prompt: one text or several; None where ``prompt_embeds`` are given.
        options: the keywords.
        workflow: what the call starts from.
        strength: how much of the schedule runs; None for text-to-image.
        source: whose size is taken where the keywords give none; None takes the bundle's first profile. Inpainting has
            none where it draws a crop.
        additions: what is added to the pipeline's model; None: nothing.

    Raises:
        RequestError: the first argument that cannot be served, with what to do.
    """
    keywords = set_options(options)
    check_workflow(manifest, workflow)
    if "hires" in keywords and workflow is not Workflow.TEXT:
        remedy = "use img2img with the width and height wanted"
        if workflow.task is not Task.PICTURES:
            remedy = "leave it out, and enlarge what is drawn with an upscaler"
        raise RequestError(
            f"got hires in {workflow}, expected it in text-to-image, where the first pass draws what is enlarged; "
            f"{remedy}"
        )
    delivery = delivery_from_keywords(manifest, keywords)
    prompts = prompt_set_from_keywords(manifest, prompt, keywords)
    if prompts.seeds is not None:  # they chose the prompts, and are the pictures'
        keywords = {**keywords, "seed": prompts.seeds}
    canvas = canvas_from_keywords(manifest, keywords, source, from_picture=workflow is not Workflow.TEXT)
    shape = manifest.latents.shape(canvas.profile, prompts.count)
    sampling = sampling_from_keywords(manifest, keywords, workflow, strength, shape)
    cropped = workflow is Workflow.INPAINT and source is None
    request = request_of_parts(
        manifest, keywords, prompts, canvas, sampling, delivery, additions=additions, cropped=cropped
    )
    if not request.guidance.guides:
        warn_of_guidance(keywords)
    if request.loras is not None:
        request.loras.warn_of_settings(manifest, sampling, request.guidance)
    if "hires" not in keywords:
        return request
    from latentrt.runtime.call.hires.second_pass import with_second_pass  # loaded by those who use it

    return with_second_pass(request, manifest, prompt, keywords, additions)


def request_of_parts(
    manifest: BundleManifest,
    keywords: Options,
    prompts: PromptSet,
    canvas: Canvas,
    sampling: Sampling,
    delivery: Delivery,
    *,
    additions: "Additions | None",
    before: int | None = None,
    cropped: bool = False,
) -> Request:
    """What is drawn by these prompts, on this canvas, in these steps; the rest is read from the keywords.

    Args:
        manifest: the bundle's.
        keywords: those that were set.
        prompts: of the call, or of its second pass, as the four that follow.
        canvas: the size.
        sampling: the steps.
        delivery: what comes back.
        additions: what is added to the pipeline's model; None: nothing.
        before: the steps of the pass that this one goes on with; None: it is the first.
        cropped: whether the pictures are parts of larger ones.

    Raises:
        RequestError: the first argument that cannot be served, with what to do.
    """
    loras = loras_of_call(None if additions is None else additions.loras, keywords, prompts)
    prompts = prompts.over(StepCount(steps=max(len(sampling.ratios), 1), before=before))
    if prompts.regions is not None and not cropped:
        prompts.regions.check_proportions(canvas.profile.width, canvas.profile.height)
    weights = prompts.weights(manifest.latents, canvas.profile)
    guidance = guidance_from_keywords(manifest, keywords, sampling.schedule, weights)
    addons: Sequence[AddonUse] = ()
    if additions is not None and ("control" in keywords or "image_prompt" in keywords):
        from latentrt.runtime.call.addons.from_keywords import addons_from_keywords  # loaded by those who use it

        addons = addons_from_keywords(
            manifest, additions.addons, keywords, sampling, canvas.profile, prompts.count, cropped=cropped
        )
    if additions is not None and ("freeu" in keywords or guidance.perturbation is not None):
        addons = (*addons, *_in_the_unet(manifest, additions, keywords, guidance))
    deep_cache = None
    if additions is not None and "deep_cache" in keywords:
        from latentrt.runtime.call.deep_cache import deep_cache_from_keyword  # loaded by those who use it

        structure, is_first = additions.addons.unet.structure, before is None
        deep_cache = deep_cache_from_keyword(structure, keywords["deep_cache"], sampling, first=is_first)
    return Request(
        prompts=prompts,
        canvas=canvas,
        sampling=sampling,
        guidance=guidance,
        delivery=delivery,
        latent_shape=manifest.latents.shape(canvas.profile, prompts.count),
        model=model_name_from_manifest(manifest),
        loras=loras,
        addons=tuple(addons),
        deep_cache=deep_cache,
    )


def loras_of_call(loaded: "LoadedLoras | None", keywords: LoraKeywords, prompts: PromptSet) -> "CallLoras | None":
    """The LoRAs of a call, as ``loras_from_keywords`` reads them; without any, nothing is loaded for it."""
    if not prompts.loras and "loras" not in keywords:
        return None
    from latentrt.runtime.call.loras import loras_from_keywords

    return loras_from_keywords(loaded, keywords, prompts)


def _in_the_unet(
    manifest: BundleManifest, additions: "Additions", keywords: Options, guidance: Guidance
) -> "Iterator[AddonUse]":
    """What a call changes in the U-Net itself; each is loaded by those who use it."""
    structure = additions.addons.unet.structure
    if guidance.perturbation is not None:
        from latentrt.runtime.call.guidance.perturbed_attention import perturbed_attention_from_keyword

        yield perturbed_attention_from_keyword(structure, keywords.get("pag_applied_layers"))
    if "freeu" in keywords:
        from latentrt.runtime.call.guidance.freeu import freeu_from_keyword

        freeu = freeu_from_keyword(manifest, structure, keywords["freeu"])
        if freeu is not None:
            yield freeu


def warn_of_guidance(keywords: Options) -> None:
    """Says what changes nothing in a run without guidance."""
    given = {
        "negative_prompt": "".join(keywords.get("negative_prompt") or ""),
        "negative_prompt_2": "".join(keywords.get("negative_prompt_2") or ""),
        "guidance_rescale": keywords.get("guidance_rescale"),
        "apg": keywords.get("apg") is not None,
        "dynamic_thresholding": keywords.get("dynamic_thresholding") is not None,
    }
    idle = [name for name, value in given.items() if value]
    if idle:
        warn_caller(
            f"got {' and '.join(idle)} without guidance, where it changes nothing; raise guidance_scale above 1, or "
            "leave it out"
        )
