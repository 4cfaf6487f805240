"""``latentrt img2vid``: its options, and what it does before and after it draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.cli.drawing.flag_parameters import flag_parameters
from latentrt.cli.drawing.sampler import sampler_from_options
from latentrt.cli.options import parameters_of, takes
from latentrt.cli.values import READ, size_from_text
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.video_flags import VIDEO_FLAGS

if TYPE_CHECKING:
    from latentrt.cli.outputs import Picture

_LATENTS = ".npy"
_MOST = 10_000  # videos of a picture; their names are checked before the first is drawn


@dataclass(frozen=True, kw_only=True)
class VideoDrawing:
    """The options of ``latentrt img2vid``, as typer reads them.

    ``keywords`` holds the options that stand for one keyword each, by the keyword.
    """

    sampler: Annotated[str | None, typer.Option("--sampler", help="A name from `latentrt samplers`.")] = None
    sampler_option: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler-option", metavar="NAME=VALUE", help="An option of the sampler, as s_churn=0.1; repeatable."
        ),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the first video; the others count up.")] = None
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="The video's size in pixels, to which the picture is resized."),
    ] = None
    count: Annotated[int, typer.Option("--count", help="How many videos of each picture.")] = 1
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="FILE.png", help="Rewrite a strip of small frames at every step."),
    ] = None
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.webp",
            help="Where to write: .webp, .apng, .gif, .mp4, or .npy for latents; {index}, {seed}, {prompt} (the "
            "picture's name) and {model} are filled in.",
        ),
    ] = Path("out.webp")
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False
    backend: Annotated[str, typer.Option("--backend", help="The backend to use; auto takes the best one.")] = "auto"
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads of a model call; default: one per core.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False
    keywords: Mapping[str, Any]

    def draw(self, bundle: Path, images: Sequence[Path]) -> None:
        """Draws the videos of all pictures with one opening, and writes each as soon as it is drawn.

        Args:
            bundle: the bundle's folder.
            images: the pictures.

        Raises:
            LatentrtError: an option or a picture that cannot be read, or as ``latentrt.open`` and ``img2vid`` do. What
                was drawn before is written, and the message says how much it is.
        """
        from latentrt.cli.drawing.written_clips import WrittenClips
        from latentrt.cli.outputs import output_paths
        from latentrt.cli.terminal import step_bar, tell
        from latentrt.opening import open_pipeline
        from latentrt.runtime.call.tasks.video.call import video_call
        from latentrt.runtime.pictures.clips.clip_file import CLIP_SUFFIXES, check_clip
        from latentrt.runtime.pictures.image import read_image

        if not 1 <= self.count <= _MOST:
            raise RequestError(f"got count {self.count}, expected 1 to {_MOST}; set it in this range")
        videos = self._videos(images)
        model = bundle.absolute().name.removesuffix(".bundle")
        paths = output_paths(self.output, videos, model, overwrite=self.overwrite, suffixes=CLIP_SUFFIXES)
        options = self._options()
        pictures = [picture for picture in map(read_image, images) for _ in range(self.count)]
        with open_pipeline(bundle, backend=self.backend, threads=self.threads) as pipe:
            options["sampler"] = sampler_from_options(self.sampler, self.sampler_option or (), pipe.manifest.defaults)
            for picture in pictures:  # before the first is drawn
                checked = video_call(pipe.manifest, picture, options).request
                if not self._latents and checked.clip is not None:
                    profile = checked.canvas.profile
                    check_clip(self.output, width=profile.width, height=profile.height, fps=checked.clip.fps)
            with WrittenClips(paths, len(videos), json=self.json) as written:
                for index, (video, picture) in enumerate(zip(videos, pictures, strict=True)):
                    label = "denoising" if len(videos) == 1 else f"video {index + 1} of {len(videos)}"
                    with step_bar(label) as bar:
                        drawn = pipe.img2vid(picture, **{**options, "seed": [video.seed], "progress": bar})
                    written.add(drawn)
        if self.backend == "auto":
            tell(f"drew with {pipe.backend}")
        written.report()

    def _videos(self, images: Sequence[Path]) -> "list[Picture]":
        """What each video is drawn from: each picture ``count`` times in turn, with seeds that count up."""
        from latentrt.cli.outputs import Picture
        from latentrt.runtime.checks import seeds_for

        names = [path.stem for path in images for _ in range(self.count)]
        given = None if self.seed is None else [self.seed + index for index in range(len(names))]
        seeds = seeds_for(given, len(names))
        assert isinstance(seeds, tuple)  # there is one per video; for the type checker
        return [Picture(prompt=name, seed=seed) for name, seed in zip(names, seeds, strict=True)]

    @property
    def _latents(self) -> bool:
        return self.output.suffix.lower() == _LATENTS

    def _options(self) -> dict[str, Any]:
        """The keywords that every video is drawn with, but for the sampler, which needs the model.

        Raises:
            LatentrtError: an option that cannot be read, or a file that it names.
        """
        width, height = size_from_text(self.size, "size")
        written = {name: value for name, value in self.keywords.items() if value is not None}
        return {
            **{name: READ[VIDEO_FLAGS[name].form](value, VIDEO_FLAGS[name].name) for name, value in written.items()},
            "width": width,
            "height": height,
            "output_type": "latent" if self._latents else "pil",
            "callback_on_step_end": None if self.preview is None else _previews(self.preview),
        }


def _previews(path: Path) -> Callable[[Any, int, float, dict[str, Any]], None]:
    """A callback that rewrites the preview of a video: its frames from left to right.

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
        frames = pipe.preview(tensors["denoised"][:1])
        width, height = frames[0].size
        strip = Image.new("RGB", (width * len(frames), height))
        for index, frame in enumerate(frames):
            strip.paste(frame, (index * width, 0))
        write_png(path, strip)

    return write


def _made(**arguments: Any) -> VideoDrawing:
    keywords = {name: arguments.pop(name) for name in VIDEO_FLAGS}
    return VideoDrawing(**arguments, keywords=keywords)


_OWN = [parameter for parameter in parameters_of(VideoDrawing) if parameter.name != "keywords"]
draws_videos = takes("drawing", [*flag_parameters(VIDEO_FLAGS), *_OWN], _made)
"""Gives a command with a ``drawing`` parameter the options of ``VideoDrawing`` beside its own."""
