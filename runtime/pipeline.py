"""The pipeline: prompts in, pictures out, around the engines of one bundle."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
from PIL import Image

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines
from latentrt.runtime.additions import Additions, Loaded
from latentrt.runtime.call.checked_call import text_call
from latentrt.runtime.call.drawing import draw, encode
from latentrt.runtime.call.initial_latents import (
    KeptPixels,
)
from latentrt.runtime.call.keywords.options import Embeds, EncodeKeywords, Options, set_options
from latentrt.runtime.call.prompts.prompt_set import prompt_set_from_keywords
from latentrt.runtime.call.request import loras_of_call
from latentrt.runtime.call.result import Result
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.from_picture import FromPicture
from latentrt.runtime.loading import Loading
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.pictures.masked_content import MaskedContent
from latentrt.runtime.pictures.preview import preview_from_latents
from latentrt.runtime.prompts.text_encoder import inversions_of
from latentrt.runtime.serving.lanes.batching import Batching
from latentrt.runtime.serving.lanes.future import PictureFuture
from latentrt.runtime.serving.lanes.lanes import Lanes, seats
from latentrt.runtime.serving.lanes.submitted import submitted_call
from latentrt.runtime.serving.lanes.workers import Workers

if TYPE_CHECKING:
    from latentrt.runtime.call.detail.result import DetailResult
    from latentrt.runtime.pictures.detail.detector import Detector
    from latentrt.runtime.pictures.detail.regions import RegionOrder


class Pipeline(Loading, FromPicture):
    """Draws pictures from a bundle. Threads may share one; calls keep no state in it.

    Textual inversions and LoRAs are all that is loaded into it; a call takes those that are there as it begins. Control
    nets and image prompts are named by the calls; those that are named by their paths stay open until the pipeline is
    closed. To set another attribute would change nothing, and is refused.

    A forked process opens the engines for itself as it draws. Pickled, a pipeline is the bundle's path, the options of
    ``latentrt.open``, the textual inversions and the LoRAs: where it arrives, the bundle is opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        components: Engines,
        *,
        threads: int | None = None,
        batching: Batching = Batching.SHARED,
        reopen: "Callable[[], Pipeline] | None" = None,
    ) -> None:
        """Takes opened components; use ``latentrt.open``, which makes them.

        Args:
            bundle: what is drawn from.
            components: its engines.
            threads: of a call on the CPU, for what it will open; None takes one per core.
            batching: whether calls in several threads share the engines' runs.
            reopen: opens the bundle in the same way, and can be pickled; None: nobody knows how.
        """
        self._bundle = bundle
        self._components = components
        lanes = Lanes(components, threads=threads) if batching is Batching.SHARED else None
        self._engines: Engines = components if lanes is None else lanes
        self._reopen = reopen
        pictures = max(profile.batch for profile in bundle.manifest.profiles)
        self._workers = Workers(2 * pictures * seats(components.backend, threads))
        self._additions = Additions(
            bundle, components.backend, threads=threads, line=None if lanes is None else lanes.line
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """How to open the bundle again, the textual inversions of each text encoder, and the LoRAs.

        Raises:
            EngineError: the pipeline was not made by ``latentrt.open``.
        """
        if self._reopen is None:
            raise EngineError(
                "got a pipeline over engines of another's making, expected one that latentrt.open made; open the "
                "bundle where it is needed"
            )
        return _reopened, (self._reopen, self._additions.loaded)

    def __setattr__(self, name: str, value: Any) -> None:
        made = "_additions" in self.__dict__  # which is set last
        kind = getattr(type(self), name, None)
        if made and name not in self.__dict__ and (kind is None or isinstance(kind, property)):
            from latentrt.runtime.call.keywords.elsewhere import unknown_attribute  # loaded by mistakes

            raise unknown_attribute(name, Options.__annotations__, to_set=True)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:  # asked for what is not there
        from latentrt.runtime.call.keywords.elsewhere import unknown_attribute

        raise unknown_attribute(name, Options.__annotations__, to_set=False)

    @property
    def manifest(self) -> BundleManifest:
        """The bundle's manifest: profiles, schedule, defaults, parity figures."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The backend that runs the engines."""
        return self._components.backend

    @property
    def shared_runs(self) -> Mapping[int, int]:
        """How many runs of its engines there were so far, by how many calls each was made for; empty where calls share
        none."""
        return self._engines.line.runs if isinstance(self._engines, Lanes) else {}

    def encode(self, prompt: str | Sequence[str], **keywords: Unpack[EncodeKeywords]) -> Embeds:
        """Encodes prompts, for calls that take them in place of texts: ``pipe(**pipe.encode("a cat"))``.

        Args:
            prompt: one text or several, B.
            **keywords: see ``Options``: all that are about prompts, and ``loras``.

        Returns:
            ``prompt_embeds`` and ``negative_prompt_embeds`` (B · num_images_per_prompt, 77 · k, width), and for SDXL
            ``pooled_prompt_embeds`` and ``negative_pooled_prompt_embeds`` (…, projection); float32, the caller's own.
            Models that have their guidance built in have no negative ones.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.prompts.embeds import embeds_of

        options = set_options(keywords, EncodeKeywords)
        check_reads_text(self.manifest, "a prompt to encode")
        if prompt is None:
            raise RequestError("got no prompt, expected a text; give one")
        prompts = prompt_set_from_keywords(self.manifest, prompt, options)
        prompts.check_fixed()
        text = encode(
            self._engines,
            self._additions.text_encoders,
            prompts,
            self.manifest.profiles[0],
            guides=not self.manifest.guidance_embedding,
            loras=loras_of_call(self._additions.loras, options, prompts),
        )
        return cast(Embeds, embeds_of(text))

    def close(self) -> None:
        """Cancels what was submitted, waits for its runs to end, and releases the engines; later calls are refused."""
        self._workers.close()
        self._additions.close()
        self._components.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, prompt: str | Sequence[str] | None = None, **options: Unpack[Options]) -> Result:
        """Draws pictures from text.

        Args:
            prompt: one text or several; None where ``prompt_embeds`` are given.
            **options: see ``Options``.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        begin = perf_counter()
        call = text_call(self.manifest, prompt, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def check(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture] | None = None,
        strength: float | None = None,
        image_guidance_scale: float | None = None,
        **options: Unpack[Options],
    ) -> tuple[PictureMetadata, ...]:
        """Checks the arguments of a call, or of ``img2img`` or ``edit`` where a picture is given; nothing is drawn.

        Returns:
            The settings that each picture would have.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        call = submitted_call(
            self.manifest,
            prompt,
            options,
            self._additions,
            image=image,
            mask_image=None,
            strength=strength,
            padding_mask_crop=None,
            kept_pixels=KeptPixels.EXACT,
            masked_content=MaskedContent.ORIGINAL,
            image_guidance_scale=image_guidance_scale,
        )
        return call.request.metadata(inversions_of(self._additions.text_encoders))

    def img2img(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture],
        strength: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draws pictures that start from a picture.

        Args:
            prompt: one text or several; None where ``prompt_embeds`` are given.
            image: the picture for all, or one per picture drawn: PIL; arrays or torch's tensors, uint8 or floats in
                [0, 1], with the channels (1, 3 or 4) last or first; or latents (N, C, H/f, W/f) as a result has them.
            strength: how much of the schedule runs, 0 to 1: the last int(steps · strength) steps. At 0 the
                U-Net is not called and the picture only passes through the autoencoder. LCM distilled from SD 1.x,
                with its own sampler, takes all steps, from that share of its distilled timesteps.
            **options: see ``Options``. Where neither width nor height is given, the picture's own size is taken;
                PIL pictures are resized.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.sizes.from_pictures import image_call

        begin = perf_counter()
        call = image_call(self.manifest, prompt, image, strength, options, self._additions)
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def inpaint(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture],
        mask_image: Picture | Sequence[Picture],
        strength: float | None = None,
        padding_mask_crop: int | None = None,
        kept_pixels: str | KeptPixels = KeptPixels.EXACT,
        masked_content: str | MaskedContent = MaskedContent.ORIGINAL,
        **options: Unpack[Options],
    ) -> Result:
        """Redraws parts of a picture.

        Args:
            prompt: one text or several; None where ``prompt_embeds`` are given.
            image: the picture for all, or one per picture drawn: PIL or arrays, as ``img2img`` takes them.
            mask_image: what to redraw: white is redrawn, black is kept, one half and above counts as white. One for
                all, or one per picture: PIL, or arrays (H, W), (H, W, 1), (1, H, W), or (N, …) of several.
            strength: how much of the schedule runs; at 1 the masked part starts from pure noise. None is 1, or what a
                model with mask channels was made for (SDXL's: 0.99).
            padding_mask_crop: draws only the mask's surroundings, with so many pixels of margin, at the full size
                wanted, and pastes the result into the picture.
            kept_pixels: "exact" lays what the mask keeps over the result, bit for bit; "decoded" leaves it as it
                comes out of the autoencoder (not with a crop, which must be pasted).
            masked_content: what the masked part starts from where ``strength`` is below 1: "original" (the picture),
                "fill" (the colours around it), "noise" or "nothing" (noise, or zeros, in place of its latents).
            **options: see ``Options``.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.sizes.from_pictures import inpaint_call

        begin = perf_counter()
        call = inpaint_call(
            self.manifest,
            prompt,
            image,
            mask_image,
            strength,
            padding_mask_crop,
            kept_pixels,
            masked_content,
            options,
            self._additions,
        )
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def outpaint(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        overlap: int = 0,
        strength: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draws what lies around a picture; the picture itself comes back bit for bit.

        Args:
            prompt: one text or several; None where ``prompt_embeds`` are given.
            image: the picture: PIL or an array, as ``img2img`` takes them.
            left: pixels to add on that side, as with the three that follow; the sum must be a size that the bundle
                has a profile for.
            top: pixels.
            right: pixels.
            bottom: pixels.
            overlap: pixels of the picture along the new sides that are drawn anew as well, fading into it.
            strength: how much of the schedule runs; below 1 the picture's edges, carried outwards, show
                through. None as in ``inpaint``.
            **options: see ``Options``.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
        """
        from latentrt.runtime.call.sizes.from_pictures import outpaint_call

        begin = perf_counter()
        call = outpaint_call(
            self.manifest,
            prompt,
            image,
            strength,
            options,
            self._additions,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            overlap=overlap,
        )
        return draw(self, self._engines, self._additions.text_encoders, call, begin)

    def submit(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        image: Picture | Sequence[Picture] | None = None,
        mask_image: Picture | Sequence[Picture] | None = None,
        strength: float | None = None,
        padding_mask_crop: int | None = None,
        kept_pixels: str | KeptPixels = KeptPixels.EXACT,
        masked_content: str | MaskedContent = MaskedContent.ORIGINAL,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        overlap: int = 0,
        image_guidance_scale: float | None = None,
        **options: Unpack[Options],
    ) -> PictureFuture:
        """Has pictures drawn by threads of the pipeline's own, which begin with the first call.

        With ``image`` it is a call of ``img2img``, or of ``edit`` with a model that draws edits; with ``mask_image``,
        too, of ``inpaint``, with ``left`` and the like of ``outpaint``, whose arguments they are; else of the pipeline
        itself. What is loaded now counts.

        Returns:
            A future of ``concurrent.futures``: ``result`` is what the call would return. It tells its ``step`` of
            ``steps``; ``preview`` shows it, ``cancel`` and ``interrupt`` end it at its next step.

        Raises:
            RequestError: an argument that cannot be served, with what to do; nothing is drawn.
            EngineError: the pipeline is closed.
        """
        call = submitted_call(
            self.manifest,
            prompt,
            options,
            self._additions,
            image=image,
            mask_image=mask_image,
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            kept_pixels=kept_pixels,
            masked_content=masked_content,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            overlap=overlap,
            image_guidance_scale=image_guidance_scale,
        )
        return self._submitted(call)

    def detail(
        self,
        prompt: str | Sequence[str],
        *,
        image: Picture | Sequence[Picture],
        boxes: Sequence[Any] | Array | None = None,
        masks: Picture | Sequence[Picture] | None = None,
        detector: "Detector | None" = None,
        strength: float = 0.4,
        padding: int = 32,
        dilation: int = 4,
        mask_blur: float = 4.0,
        order: "str | RegionOrder | None" = None,
        max_regions: int | None = None,
        **options: Unpack[Options],
    ) -> "DetailResult":
        """Redraws regions of a picture one after the other, each at full size: what ADetailer does.

        Args:
            prompt: one text or several. ``[SEP]`` in it divides what the first region is drawn from, the second, and so
                on, the last one being for all that follow; ``[SKIP]`` leaves a region as it is. So do the other texts.
            image: the picture for all, or one per picture drawn: PIL or arrays, as ``img2img`` takes them, of any size.
            boxes: the regions as (left, top, right, bottom) in pixels; or ``masks``, or a ``detector``.
            masks: one per region, white, each of the picture's size, as ``inpaint`` takes them.
            detector: finds the regions: ``latentrt.Detector("face.onnx")``.
            strength: how much of the schedule runs; 0 leaves all as it is.
            padding: pixels around a region that are drawn with it, and not kept.
            dilation: pixels by which masks grow, half of them on each side; below 0 they shrink.
            mask_blur: pixels in which a region fades into the picture: a Gaussian's standard deviation.
            order: "given", "left-to-right", "center-to-edge" or "largest"; None: a detector's from left to right.
            max_regions: the largest so many of a picture; None: all.
            **options: see ``Options``. A region's seed is the picture's plus its place; width and height are those at
                which regions are drawn.

        Returns:
            The pictures in their own sizes, with ``regions``. Outside of its regions every pixel is as it was.

        Raises:
            RequestError: an argument that cannot be served, with what to do.
            EngineError: a detector that answers in no known way.
        """
        from latentrt.runtime.call.detail.arguments import detail_from_arguments  # loaded by those who use it
        from latentrt.runtime.call.detail.drawing import draw_details

        detail = detail_from_arguments(
            boxes=boxes,
            masks=masks,
            detector=detector,
            strength=strength,
            padding=padding,
            dilation=dilation,
            mask_blur=mask_blur,
            order=order,
            max_regions=max_regions,
        )
        return draw_details(self.inpaint, self.manifest, self._additions, prompt, image, detail, options)

    def preview(self, denoised: Array) -> list[Image.Image]:
        """Small pictures, one pixel per latent, of the clean sample that a callback is given as ``denoised``.

        Of videos there is one for each frame, those of a video in order. No engine runs: it is a linear map that was
        fitted when the bundle was built.
        """
        shape, channels = np.shape(denoised), self.manifest.latents.channels
        frames = "F, " if self.manifest.conditioning.task is Task.VIDEOS else ""
        if len(shape) != (5 if frames else 4) or shape[-3] != channels:
            raise RequestError(
                f"got latents {shape}, expected (N, {frames}{channels}, h, w); give the callback's denoised"
            )
        pictures = preview_from_latents(self.manifest.preview, np.reshape(denoised, (-1, *shape[-3:])))
        return [Image.fromarray(picture) for picture in pictures]


def _reopened(reopen: "Callable[[], Pipeline]", loaded: Loaded) -> Pipeline:
    """A pickled pipeline, where it arrives.

    Raises:
        LatentrtError: the bundle cannot be opened here, or is another model's.
    """
    pipe = reopen()
    try:
        pipe._additions.take(loaded)
    except RequestError:
        pipe.close()
        raise
    return pipe
