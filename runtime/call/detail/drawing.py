"""A detail pass, drawn: every region of every picture is a call of ``inpaint`` with a crop of its own."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.call.detail.arguments import Detail
from latentrt.runtime.call.detail.result import DetailedRegion, DetailResult
from latentrt.runtime.call.keywords.options import Embeds, OnProgress, Options, set_options
from latentrt.runtime.call.request import request_from_options
from latentrt.runtime.call.result import OutputType, Result, Timings
from latentrt.runtime.call.workflow import Workflow, check_workflow
from latentrt.runtime.checks import seeds_for, texts, texts_for, warn_caller, whole
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.arrays import pictures_from_argument, size_of
from latentrt.runtime.pictures.detail.regions import DetailRegion
from latentrt.runtime.pictures.image import Picture, array_from_image, images_from_pixels, rgb_from_image
from latentrt.runtime.prompts.text_encoder import inversions_of

if TYPE_CHECKING:
    from latentrt.runtime.additions import Additions

_BETWEEN = " [SEP] "  # the texts of regions; this and [SKIP] are ADetailer's
_SEPARATOR = re.compile(r"\s*\[SEP\]\s*")
_SKIPPED = re.compile(r"\s*\[SKIP\]\s*")
_TEXTS = ("prompt_2", "negative_prompt", "negative_prompt_2")  # beside the prompt
_OF_PICTURES = ("num_images_per_prompt", "seed", "progress", *_TEXTS)
_NOT_HERE = (*Embeds.__annotations__, "latents", "denoising_start", "denoising_end")
Inpaint = Callable[..., Result]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One picture to go over: its texts by keyword, its seed, and its regions."""

    picture: Picture
    texts: Mapping[str, str]
    seed: int
    regions: Sequence[DetailRegion]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """One picture that was gone over, and what drew its regions."""

    picture: Picture
    regions: tuple[DetailedRegion, ...]
    results: tuple[Result, ...]


def draw_details(
    inpaint: Inpaint,
    manifest: BundleManifest,
    additions: "Additions",
    prompt: Any,
    image: Any,
    detail: Detail,
    options: Options,
) -> DetailResult:
    """Finds the regions of every picture, and draws them.

    Args:
        inpaint: the pipeline's.
        manifest: the bundle's.
        additions: what is added to the model.
        prompt: one text or several, each divided by ``[SEP]``.
        image: the picture for all, or one per picture.
        detail: how.
        options: the keywords of the call.

    Raises:
        RequestError: an argument that cannot be served, with what to do.
    """
    begin = perf_counter()
    keywords = set_options(options)
    check_workflow(manifest, Workflow.INPAINT)
    output = _checked_output(prompt, keywords)
    common: Options = cast(Options, {name: one for name, one in keywords.items() if name not in _OF_PICTURES})
    jobs = _jobs(manifest, prompt, image, keywords, detail)
    unchanged = [_unchanged(manifest, additions, job, detail, common) for job in jobs]  # and every argument is checked
    progress = _Progress(keywords.get("progress"), sum(len(job.regions) for job in jobs))
    drawn: list[_Drawn] = []
    for job in jobs:
        stopped = any(one.interrupted for each in drawn for one in each.results)
        work = replace(job, picture=_in_form(job.picture, output))
        drawn.append(_gone_over(inpaint, work, detail, common, progress, stopped=stopped))
    results = [one for each in drawn for one in each.results]
    return DetailResult(
        images=cast("list[Image.Image] | list[Array]", [one.picture for one in drawn]),
        latents=_latents(manifest, results),
        seeds=tuple(job.seed for job in jobs),
        timings=_timings(results, perf_counter() - begin),
        metadata=tuple(_metadata(job, one, detail, own) for job, one, own in zip(jobs, drawn, unchanged, strict=True)),
        interrupted=any(one.interrupted for one in results),
        regions=tuple(one.regions for one in drawn),
    )


def _checked_output(prompt: Any, keywords: Options) -> OutputType:
    """The form of the pictures; refuses what means nothing for parts of pictures."""
    beside = [name for name in _NOT_HERE if name in keywords]
    if beside:
        raise RequestError(
            f"got {' and '.join(beside)} for details, whose regions are each drawn by a text and a seed; leave it out"
        )
    if prompt is None:
        raise RequestError("got no prompt, expected a text for the regions; give one")
    output = choice(OutputType, keywords.get("output_type", OutputType.PIL), "output_type")
    if output is OutputType.LATENT:
        raise RequestError(
            "got output_type 'latent' for details, which are pasted into a picture; choose 'pil' or 'np'"
        )
    return output


def _jobs(manifest: BundleManifest, prompt: Any, image: Any, keywords: Options, detail: Detail) -> list[_Job]:
    """What to do about each picture."""
    prompts = texts(prompt, "prompt")
    repeats = whole(keywords.get("num_images_per_prompt", 1), "num_images_per_prompt")
    count = len(prompts) * repeats
    if repeats < 1 or not prompts:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    pictures = pictures_from_argument(image, manifest.latents.channels, latents=False)
    if len(pictures) not in (1, count):
        raise RequestError(f"got {len(pictures)} images for {count} pictures; give one, or one per picture")
    columns = {"prompt": prompts}
    for name in _TEXTS:
        if name in keywords:
            columns[name] = texts_for(keywords.get(name), len(prompts), name)
    seeds = seeds_for(keywords.get("seed"), count)
    of_each = seeds if isinstance(seeds, tuple) else tuple((seeds + index) % 2**64 for index in range(count))
    regions = [detail.regions(picture) for picture in pictures]
    for index, found in enumerate(regions):
        if not found:
            which = f"picture {index + 1}" if len(regions) > 1 else "the picture"
            warn_caller(f"nothing was found to draw anew in {which}, which comes back unchanged; {_advice(detail)}")
    return [
        _Job(
            picture=pictures[index % len(pictures)],
            texts={name: column[index // repeats] for name, column in columns.items()},
            seed=of_each[index],
            regions=regions[index % len(pictures)],
        )
        for index in range(count)
    ]


def _advice(detail: Detail) -> str:
    if detail.detector is not None:
        return "lower the detector's confidence, or give boxes"
    return "give boxes or masks, and a dilation that leaves some of them"


def _gone_over(
    inpaint: Inpaint, job: _Job, detail: Detail, common: Options, progress: "_Progress", *, stopped: bool
) -> _Drawn:
    """A picture with its regions drawn, each over what the one before left."""
    picture, regions, results = job.picture, [], []
    for index, region in enumerate(job.regions):
        of_region = {name: _piece(text, index) for name, text in job.texts.items()}
        prompt, seed = of_region["prompt"], (job.seed + index) % 2**64
        draws = not (stopped or detail.strength == 0.0 or _SKIPPED.fullmatch(prompt))
        with progress.region() as of_calls:
            if draws:
                result = inpaint(
                    **of_region,
                    image=picture,
                    mask_image=region.image(detail.blur),
                    strength=detail.strength,
                    padding_mask_crop=detail.padding,
                    seed=seed,
                    progress=of_calls,
                    **common,
                )
                picture, prompt, stopped = result.images[0], result.metadata[0].prompt, result.interrupted
                results.append(result)
        regions.append(
            DetailedRegion(
                box=region.box, prompt=prompt, seed=seed, score=region.score, label=region.label, drawn=draws
            )
        )
    return _Drawn(picture=picture, regions=tuple(regions), results=tuple(results))


def _piece(text: str, index: int) -> str:
    """A region's part of a text; the last part is for all regions that follow."""
    pieces = _SEPARATOR.split(text)
    return pieces[min(index, len(pieces) - 1)]


def _in_form(picture: Picture, output: OutputType) -> Picture:
    """A picture as it comes back, in RGB, with every pixel as it is."""
    if output is OutputType.NUMPY:
        return array_from_image(picture, *size_of(picture))
    return rgb_from_image(picture) if isinstance(picture, Image.Image) else images_from_pixels(picture[None])[0]


def _unchanged(
    manifest: BundleManifest, additions: "Additions", job: _Job, detail: Detail, common: Options
) -> PictureMetadata:
    """The metadata of a picture of which nothing is drawn anew. The texts of every region are checked.

    Raises:
        RequestError: an argument that cannot be served.
    """
    of_regions = [tuple(_piece(text, index) for text in job.texts.values()) for index in range(len(job.regions) or 1)]
    requests = []
    for pieces in dict.fromkeys(of_regions):  # the first region's first
        written = dict(zip(job.texts, pieces, strict=True))
        prompt, seed = written.pop("prompt"), (job.seed + of_regions.index(pieces)) % 2**64
        options = cast(Options, {**common, **written, "seed": seed})
        requests.append(
            request_from_options(
                manifest, prompt, options, Workflow.INPAINT, strength=detail.strength, additions=additions
            )
        )
    return requests[0].metadata(inversions_of(additions.text_encoders))[0]


def _metadata(job: _Job, drawn: _Drawn, detail: Detail, unchanged: PictureMetadata) -> PictureMetadata:
    """The settings of a picture: those of its first region, and the texts of all."""
    own = drawn.results[0].metadata[0] if drawn.results else unchanged
    written: dict[str, Any] = dict(job.texts)
    if own.templates:  # each region has become a prompt of its own
        written = {"prompt": _BETWEEN.join(region.prompt for region in drawn.regions), "templates": written}
    return replace(own, **written, seed=job.seed, detail=detail.metadata(drawn.regions))


def _latents(manifest: BundleManifest, results: Sequence[Result]) -> Array:
    """Those of all regions; none, of the first profile's shape, where nothing was drawn."""
    none = np.zeros(manifest.latents.shape(manifest.profiles[0], 0), np.float32)
    return np.concatenate([result.latents for result in results]) if results else none


def _timings(results: Sequence[Result], total: float) -> Timings:
    """The seconds of all calls together."""
    each = [result.timings for result in results]
    return Timings(
        encode_prompt=sum(one.encode_prompt for one in each),
        encode_image=sum(one.encode_image for one in each),
        denoise=sum(one.denoise for one in each),
        calls=tuple(seconds for one in each for seconds in one.calls),
        unet_calls=sum(one.unet_calls for one in each),
        decode=sum(one.decode for one in each),
        total=total,
    )


class _Progress:
    """Tells a caller how far all regions are: each has as many model calls as the first."""

    def __init__(self, tell: OnProgress | None, regions: int) -> None:
        self._tell, self._regions, self._done = tell, regions, 0

    @contextmanager
    def region(self) -> Iterator[OnProgress | None]:
        """One region; yields what its call tells."""
        yield None if self._tell is None else self._told
        self._done += 1

    def _told(self, done: int, total: int) -> None:
        if self._tell is not None:
            self._tell(self._done * total + done, self._regions * total)
