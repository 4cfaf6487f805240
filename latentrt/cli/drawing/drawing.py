"""The options that all drawing commands share, and what they do before and after they draw."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.cli.drawing.control_options import ControlOptions
from latentrt.cli.drawing.flag_parameters import flag_parameters
from latentrt.cli.drawing.image_prompt_options import ImagePromptOptions
from latentrt.cli.drawing.region_options import RegionOptions
from latentrt.cli.drawing.sampler import sampler_from_options
from latentrt.cli.options import parameters_of, takes
from latentrt.cli.values import READ, size_from_text
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.flags import FLAGS
from latentrt.runtime.call.keywords.options import set_options

if TYPE_CHECKING:
    from latentrt.cli.drawing.batches import Batch
    from latentrt.engines.bundle.records.manifests.manifest import DefaultsRecord

_LATENTS = ".npy"
_MOST = 100_000  # pictures of a prompt; their names are checked before the first is drawn
Call = Callable[[Any, "Batch", dict[str, Any]], Any]
"""Draws a batch with a pipeline and keywords."""


@dataclass(frozen=True, kw_only=True)
class Drawing(ControlOptions, ImagePromptOptions, RegionOptions):
    """One command's shared options, as typer reads them.

    ``keywords`` holds the options that stand for one keyword each, by the keyword; their declarations are in
    ``runtime/call``.
    """

    sampler: Annotated[str | None, typer.Option("--sampler", help="A name from `latentrt samplers`.")] = None
    sampler_option: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler-option", metavar="NAME=VALUE", help="An option of the sampler, as eta=0.5; repeatable."
        ),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the first picture; the others count up.")] = None
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Picture size in pixels.")] = None
    count: Annotated[int, typer.Option("--count", help="How many pictures of each prompt.")] = 1
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="Draw the prompts of a text file, one a line, instead of PROMPT."
        ),
    ] = None
    textual_inversion: Annotated[
        list[str] | None,
        typer.Option(
            "--textual-inversion",
            metavar="PATH[:TOKEN]",
            help="An embedding file to load, and its trigger if not the file's own; repeatable.",
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="PATH[:WEIGHT[:TEXT_WEIGHT]]",
            help="A LoRA, with its weight for the U-Net and for the text encoders; default: 1, or what prompts say; "
            "repeatable.",
        ),
    ] = None
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="FILE.png", help="Rewrite a small preview at every step.")
    ] = None
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.png",
            help="Where to write: .png, .jpg, .webp, or .npy for latents; {index}, {seed}, {prompt} and {model} are "
            "filled in.",
        ),
    ] = Path("out.png")
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False
    backend: Annotated[str, typer.Option("--backend", help="The backend to use; auto takes the best one.")] = "auto"
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads of a model call; default: one per core.")
    ] = None
    loop: Annotated[
        str,
        typer.Option("--loop", help="Where latents are between model calls: host or device, whose engine makes steps."),
    ] = "host"
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False
    keywords: Mapping[str, Any]

    def draw(
        self,
        bundle: Path,
        prompt: str | None,
        call: Call,
        *,
        size: Callable[[Any], tuple[int, int]] | None = None,
    ) -> None:
        """Draws all pictures with one opening, and writes each batch as soon as it is drawn.

        Args:
            bundle: the bundle's folder.
            prompt: what to draw; ``-`` stands for the lines of standard input.
            call: draws a batch with a pipeline and keywords.
            size: the pictures' width and height where ``--size`` does not say it; None: the first profile's.

        Raises:
            LatentrtError: an option that cannot be read, or as ``latentrt.open`` and the pipeline do. What was drawn
                before is written, and the message says how much it is.
        """
        from latentrt.cli.drawing.batches import Written, batches, pictures_at_once
        from latentrt.cli.outputs import Picture, output_paths
        from latentrt.runtime.call.prompts.prompt_set import prompt_set_from_keywords

        self.check_count()
        prompts = self._prompts(prompt)
        pictures = [
            Picture(prompt=text, seed=seed) for text, seed in zip(prompts, self.seeds(len(prompts)), strict=True)
        ]
        paths = output_paths(
            self.output, pictures, bundle.absolute().name.removesuffix(".bundle"), overwrite=self.overwrite
        )
        options = self.options()
        with self.opened(bundle) as pipe:
            options["sampler"] = self.sampler_of(pipe.manifest.defaults)
            seeds = [picture.seed for picture in pictures]
            checked = prompt_set_from_keywords(
                pipe.manifest, prompts, set_options({**options, "seed": seeds})
            )  # before the first is drawn
            sets = None
            if self.lora or checked.names_loras:
                from latentrt.cli.drawing.loras import load_loras, loras_of_pictures

                sets, options["loras"] = loras_of_pictures(pipe, checked, load_loras(pipe, self.lora or ()))
            shape = (options["width"], options["height"]) if self.size or size is None else size(pipe)
            of_calls = batches(pictures, pictures_at_once(pipe.manifest.profiles, shape), sets)
            with Written(paths, len(pictures), json=self.json) as written:
                self.draw_batches(pipe, of_calls, call, options, written.add)
        written.report()

    def draw_batches(
        self,
        pipe: Any,
        batches: "Iterable[Batch]",
        call: Call,
        options: Mapping[str, Any],
        add: Callable[[Any], None],
    ) -> None:
        """Draws batch by batch, and has each written before the next begins.

        Args:
            pipe: what draws.
            batches: what each call draws.
            call: draws a batch with a pipeline and keywords.
            options: the keywords of all calls.
            add: writes a result.
        """
        from latentrt.cli.terminal import step_bar, tell

        for batch in batches:
            with step_bar(batch.label) as bar:
                drawn = call(pipe, batch, {**options, "seed": batch.seeds, "progress": bar})
            add(drawn)
        if self.backend == "auto":
            tell(f"drew with {pipe.backend}")

    def check_count(self) -> None:
        """Refuses a number of pictures that cannot be.

        Raises:
            RequestError: it.
        """
        if not 1 <= self.count <= _MOST:
            raise RequestError(f"got count {self.count}, expected 1 to {_MOST}; set it in this range")

    @contextmanager
    def opened(self, bundle: Path) -> Iterator[Any]:
        """The bundle as a pipeline, with the textual inversions."""
        from latentrt.cli.terminal import tell
        from latentrt.opening import open_pipeline

        with open_pipeline(bundle, backend=self.backend, threads=self.threads, loop=self.loop) as pipe:
            for file, token in map(_file_and_token, self.textual_inversion or ()):
                triggers = pipe.load_textual_inversion(file, token)
                tell(f"{file.name}: write {' and '.join(triggers)} in a prompt")
            yield pipe

    def _prompts(self, prompt: str | None) -> list[str]:
        """The prompt of each picture: each line ``count`` times in turn."""
        from latentrt.cli.terminal import tell
        from latentrt.prompt_files import STDIN, prompts_from_file

        if (prompt is None) == (self.prompts is None):
            got = "no PROMPT" if prompt is None else "PROMPT and --prompts"
            raise RequestError(
                f"got {got}, expected one; give PROMPT, - for the lines of standard input, or --prompts FILE"
            )
        source = STDIN if prompt == str(STDIN) else self.prompts
        if source is None:
            return [str(prompt)] * self.count
        if source == STDIN and sys.stdin is not None and sys.stdin.isatty():
            tell("reading prompts, one a line; end with Ctrl-D")
        return [line for line in prompts_from_file(source) for _ in range(self.count)]

    def seeds(self, pictures: int) -> Sequence[int]:
        """One per picture, counting up, so that each picture can be drawn again alone."""
        from latentrt.runtime.checks import seeds_for

        seeds = seeds_for(None if self.seed is None else [self.seed + index for index in range(pictures)], pictures)
        return seeds if isinstance(seeds, tuple) else (seeds,)

    @property
    def _latents(self) -> bool:
        return self.output.suffix.lower() == _LATENTS

    def options(self) -> dict[str, Any]:
        """The keywords that every batch is drawn with, but for the sampler and LoRAs, which need the model.

        Raises:
            LatentrtError: an option that cannot be read, or a file that it names.
        """
        width, height = size_from_text(self.size, "size")
        written = {name: value for name, value in self.keywords.items() if value is not None}
        return {
            **{name: READ[FLAGS[name].form](value, FLAGS[name].name) for name, value in written.items()},
            "width": width,
            "height": height,
            "output_type": "latent" if self._latents else "pil",
            "control": self.controls() or None,
            "image_prompt": self.image_prompts() or None,
            "regions": self.regions() or None,
            "callback_on_step_end": None if self.preview is None else _previews(self.preview),
        }

    def sampler_of(self, defaults: "DefaultsRecord") -> Any:
        """The sampler; None for the model's own.

        Raises:
            RequestError: an unknown one, or an option that it does not have.
        """
        return sampler_from_options(self.sampler, self.sampler_option or (), defaults)


def _file_and_token(text: str) -> tuple[Path, str | None]:
    """An embedding file and the trigger behind its last colon, if any; the names of files may have colons, too."""
    colons = [place for place, character in enumerate(text) if character == ":"]
    for end in (len(text), *reversed(colons)):
        if Path(text[:end]).exists():
            return Path(text[:end]), text[end + 1 :] if end < len(text) else None
    return Path(text), None


def _previews(path: Path) -> Callable[[Any, int, float, dict[str, Any]], None]:
    """A callback that rewrites the preview of the first picture.

    Raises:
        LatentrtError: it cannot be written there.
    """
    from PIL import Image

    from latentrt.engines.files import check_writable
    from latentrt.runtime.pictures.image import write_png

    if path.suffix.lower() != ".png":
        raise RequestError(f"got preview {str(path)!r}, expected a name that ends in .png; add .png")
    check_writable(path)

    def write(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        small = pipe.preview(tensors["denoised"][:1])[0]
        size = pipe.manifest.latents.pixel_size(tensors["denoised"])
        write_png(path, small.resize(size, Image.Resampling.BILINEAR))

    return write


def read_start(path: Path) -> Any:
    """A picture to start from, or the latents of an earlier run.

    Raises:
        RequestError: neither can be read from the file.
    """
    from latentrt.runtime.pictures.image import read_picture_or_array

    return read_picture_or_array(path, "latents", "write them with -o NAME.npy")


_FLAGS = flag_parameters(FLAGS)
GROUPED = {field.name for group in Drawing.__bases__ for field in fields(group)}
"""What stands behind the other options in a command's help."""


def drawing_parameters(kind: type[Drawing], without: Collection[str] = ()) -> list[Parameter]:
    """The options of a kind of drawing as parameters of a command, without the keywords and fields that are named."""
    own = [parameter for parameter in parameters_of(kind) if parameter.name not in ("keywords", *without)]
    flags = [parameter for parameter in _FLAGS if parameter.name not in without]
    return [*flags, *sorted(own, key=lambda parameter: parameter.name in GROUPED)]


def draws_as(
    kind: type[Drawing], without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command with a ``drawing`` parameter the options of a kind of drawing beside its own."""

    def make(**arguments: Any) -> Drawing:
        keywords = {name: arguments.pop(name) for name in FLAGS if name in arguments}
        return kind(**arguments, keywords=keywords)

    return takes("drawing", drawing_parameters(kind, without), make)


draws = draws_as(Drawing)
"""Gives a command with a ``drawing`` parameter the options of ``Drawing`` beside its own."""
