"""The options that all drawing commands share, and what they do before and after they draw."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from latentrt.engines.errors import RequestError

_LATENTS = ".npy"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One command's shared options, as typer reads them."""

    negative: Annotated[str | None, typer.Option("--negative", "-n", help="What to steer away from.")] = None
    prompt_2: Annotated[
        str | None, typer.Option("--prompt-2", help="What SDXL's second text encoder reads instead.")
    ] = None
    negative_2: Annotated[str | None, typer.Option("--negative-2", help="The same for the negative prompt.")] = None
    steps: Annotated[int | None, typer.Option("--steps", help="Sampler steps; the bundle's default if left out.")] = (
        None
    )
    guidance: Annotated[
        str | None, typer.Option("--guidance", help="Guidance scale, or one per step with commas; at most 1: none.")
    ] = None
    guidance_rescale: Annotated[float, typer.Option("--guidance-rescale", help="0 to 1, against overexposure.")] = 0.0
    guidance_start: Annotated[float, typer.Option("--guidance-start", help="Part of the steps before guidance.")] = 0.0
    guidance_end: Annotated[float, typer.Option("--guidance-end", help="Part of the steps after which it ends.")] = 1.0
    sampler: Annotated[str | None, typer.Option("--sampler", help="A name from `latentrt samplers`.")] = None
    sampler_option: Annotated[
        list[str] | None,
        typer.Option("--sampler-option", metavar="NAME=VALUE", help="Such as eta=0.5; repeatable."),
    ] = None
    timesteps: Annotated[
        str | None, typer.Option("--timesteps", help="Timesteps to visit, with commas; or ays, Align Your Steps.")
    ] = None
    sigmas: Annotated[str | None, typer.Option("--sigmas", help="Noise levels to visit, with commas, down to 0.")] = (
        None
    )
    denoising_end: Annotated[
        float | None, typer.Option("--denoising-end", help="Part of the schedule after which to stop.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the first picture; the others count up.")] = None
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Picture size in pixels.")] = None
    original_size: Annotated[
        str | None,
        typer.Option("--original-size", metavar="WxH", help="SDXL: size of the picture it shall look like."),
    ] = None
    crop_top_left: Annotated[
        str | None, typer.Option("--crop-top-left", metavar="TOP,LEFT", help="SDXL: where that one shall look cropped.")
    ] = None
    target_size: Annotated[
        str | None, typer.Option("--target-size", metavar="WxH", help="SDXL: the size it shall look made for.")
    ] = None
    aesthetic_score: Annotated[
        float | None, typer.Option("--aesthetic-score", help="SDXL's refiner: how good it shall look; 6 if left out.")
    ] = None
    count: Annotated[int, typer.Option("--count", help="How many pictures.")] = 1
    prompt_syntax: Annotated[
        str, typer.Option("--prompt-syntax", help="How weights are written: plain, compel or a1111.")
    ] = "plain"
    long_prompt: Annotated[
        str | None, typer.Option("--long-prompt", help="truncate or chunk; plain prompts are truncated if left out.")
    ] = None
    clip_skip: Annotated[int | None, typer.Option("--clip-skip", help="Layers of the text encoder to leave out.")] = (
        None
    )
    textual_inversion: Annotated[
        list[Path] | None,
        typer.Option("--textual-inversion", metavar="PATH", help="An embedding file to load; repeatable."),
    ] = None
    vae: Annotated[str, typer.Option("--vae", help="whole, sliced, or tiled for large pictures.")] = "whole"
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="FILE.png", help="Rewrite a small preview at every step.")
    ] = None
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.png", help="Where to write; .npy writes the latents.")
    ] = Path("out.png")
    backend: Annotated[str, typer.Option("--backend", help="auto, or one to insist on.")] = "auto"
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of a model's call; one per core if left out.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False

    @contextmanager
    def opened(self, bundle: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The bundle as a pipeline, and the keywords to draw with, once it is clear that the result can be written.

        Raises:
            LatentrtError: an option that cannot be read, or as ``latentrt.open`` does.
        """
        from latentrt.cli.terminal import step_bar
        from latentrt.engines.files import check_writable
        from latentrt.opening import open as open_pipeline

        if self.count < 1:
            raise RequestError(f"got count {self.count}, expected at least 1; raise it")
        if self.output.suffix.lower() not in (".png", _LATENTS):
            raise RequestError(
                f"got output {str(self.output)!r}, expected a name that ends in .png or {_LATENTS}; add .png"
            )
        check_writable(self.output)
        if self.preview is not None:
            if self.preview.suffix.lower() != ".png":
                raise RequestError(f"got preview {str(self.preview)!r}, expected a name that ends in .png; add .png")
            check_writable(self.preview)
        options = self._options()
        with open_pipeline(bundle, backend=self.backend, threads=self.threads) as pipe, step_bar("denoising") as bar:
            pipe.load_textual_inversion(self.textual_inversion or ())
            options["sampler"] = self._sampler(pipe.manifest.defaults.sampler)
            options["progress"] = bar
            if self.preview is not None:
                options["callback_on_step_end"] = _previews(self.preview)
            yield pipe, options
            if self.backend == "auto":
                sys.stderr.write(f"latentrt: drew with {pipe.backend}\n")

    def report(self, result: Any) -> None:
        """Writes the result and says where."""
        from latentrt.cli.terminal import print_json, say

        paths = result.save_latents(self.output) if self._latents else result.save(self.output)
        timings = asdict(result.timings)
        if self.json:
            pictures = [
                {"path": str(paths[min(index, len(paths) - 1)]), **asdict(metadata)}
                for index, metadata in enumerate(result.metadata)
            ]
            print_json({"pictures": pictures, "timings": timings})
            return
        for index, path in enumerate(paths):
            seeds = result.seeds if len(paths) == 1 else result.seeds[index : index + 1]
            say(f"{path}  (seed {', '.join(map(str, seeds))})")
        say(
            f"{timings['total']:.2f} s: prompt {timings['encode_prompt']:.2f}, "
            f"denoise {timings['denoise']:.2f}, decode {timings['decode']:.2f}"
        )

    @property
    def _latents(self) -> bool:
        return self.output.suffix.lower() == _LATENTS

    def _options(self) -> dict[str, Any]:
        width, height = _size(self.size, "size")
        scales = None if self.guidance is None else _numbers(self.guidance, "--guidance")
        return {
            "prompt_2": self.prompt_2,
            "negative_prompt": self.negative,
            "negative_prompt_2": self.negative_2,
            "original_size": _height_first(self.original_size, "--original-size"),
            "crops_coords_top_left": None
            if self.crop_top_left is None
            else _whole_numbers(self.crop_top_left, "--crop-top-left"),
            "target_size": _height_first(self.target_size, "--target-size"),
            "aesthetic_score": self.aesthetic_score,
            "width": width,
            "height": height,
            "num_inference_steps": self.steps,
            "guidance_scale": scales[0] if scales is not None and len(scales) == 1 else scales,
            "guidance_rescale": self.guidance_rescale,
            "guidance_start": self.guidance_start,
            "guidance_end": self.guidance_end,
            "timesteps": _numbers_or_ays(self.timesteps, "--timesteps"),
            "sigmas": _numbers_or_ays(self.sigmas, "--sigmas"),
            "denoising_end": self.denoising_end,
            # one seed per picture, counting up, so that each picture can be drawn again alone
            "seed": None if self.seed is None else [self.seed + index for index in range(self.count)],
            "prompt_syntax": self.prompt_syntax,
            "long_prompt": self.long_prompt,
            "clip_skip": self.clip_skip,
            "vae": self.vae,
            "output_type": "latent" if self._latents else "pil",
        }

    def _sampler(self, default: str) -> Any:
        from latentrt.runtime.sampling.samplers import Sampler

        sampler = Sampler(name=self.sampler or default)
        wishes = {}
        for text in self.sampler_option or ():
            name, _, value = text.partition("=")
            if name not in sampler.options or not value or name in wishes:
                raise RequestError(
                    f"got --sampler-option {text!r} for sampler {sampler.name!r}, expected NAME=VALUE, once each, with "
                    f"one of {', '.join(sampler.options)}; correct it"
                )
            wishes[name] = _value(value)
        if self.sampler is None and not wishes:
            return None  # the bundle's own, which gives way to custom timesteps
        return Sampler(name=sampler.name, **wishes)


def _previews(path: Path) -> Callable[[Any, int, float, dict[str, Any]], None]:
    """A callback that rewrites the preview of the first picture."""
    from PIL import Image

    from latentrt.runtime.pictures.image import write_png

    def write(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        small = pipe.preview(tensors["denoised"][:1])[0]
        size = pipe.manifest.latents.pixel_size(tensors["denoised"])
        write_png(path, small.resize(size, Image.Resampling.BILINEAR))

    return write


def draws(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command with a ``drawing`` parameter the options of ``Drawing`` beside its own."""
    shared = get_type_hints(Drawing, include_extras=True)
    parameters = [p for p in signature(command).parameters.values() if p.name != "drawing"]
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters] + [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=shared[field.name])
        for field in fields(Drawing)
    ]

    @wraps(command)
    def run(**arguments: Any) -> None:
        drawing = Drawing(**{field.name: arguments.pop(field.name) for field in fields(Drawing)})
        command(**arguments, drawing=drawing)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def read_start(path: Path) -> Any:
    """A picture to start from, or the latents of an earlier run.

    Raises:
        RequestError: neither can be read from the file.
    """
    if path.suffix.lower() != _LATENTS:
        from latentrt.runtime.pictures.image import read_image

        return read_image(path)
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:  # MemoryError: a header that lies
        reason = getattr(error, "strerror", None) or "it is damaged or no array"
        raise RequestError(f"cannot read latents from {str(path)!r} ({reason}); write them with -o NAME.npy") from error


def _size(text: str | None, name: str) -> tuple[int, int] | tuple[None, None]:
    if text is None:
        return None, None
    from latentrt.engines.shapes import profile_from_text

    try:
        profile = profile_from_text(text)
    except RequestError:
        profile = None
    if profile is None or profile.batch != 1:
        hint = "use --count for several pictures" if name == "size" else "correct it"
        raise RequestError(f"got {name} {text!r}, expected WIDTHxHEIGHT, such as 512x512; {hint}")
    return profile.width, profile.height


def _height_first(text: str | None, option: str) -> tuple[int, int] | None:
    width, height = _size(text, option)
    return None if width is None or height is None else (height, width)


def _whole_numbers(text: str, option: str) -> list[int]:
    found = _numbers(text, option)
    if not all(value.is_integer() for value in found):
        raise RequestError(f"got {option} {text!r}, expected whole numbers of pixels; correct it")
    return [int(value) for value in found]


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(f"got {option} {text!r}, expected numbers with commas between them; correct it") from error


def _numbers_or_ays(text: str | None, option: str) -> list[float] | str | None:
    return text if text is None or text.lower() == "ays" else _numbers(text, option)


def _value(text: str) -> Any:
    """True, false, numbers and lists as JSON writes them; anything else is a text."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
