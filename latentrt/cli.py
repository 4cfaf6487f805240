"""The command line. Exit status: 0 done, 2 the user can mend it, 1 a fault of ours."""

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from latentrt.engines.errors import LatentrtError, RequestError

app = typer.Typer(
    name="latentrt",
    help="Builds Stable Diffusion bundles once and draws from them without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Bundle = Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")]
Negative = Annotated[str, typer.Option("--negative", "-n", help="What to steer away from.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampler steps; the bundle's default if left out.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Guidance scale; at most 1 means none.")]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="A name from `latentrt samplers`.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the first picture; the others count up.")]
Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Picture size in pixels.")]
Count = Annotated[int, typer.Option("--count", help="How many pictures.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="Where to write the PNG.")]
Syntax = Annotated[str, typer.Option("--prompt-syntax", help="How weights are written: plain, compel or a1111.")]
LongPrompt = Annotated[
    str | None, typer.Option("--long-prompt", help="truncate or chunk; plain prompts are truncated if left out.")
]
ClipSkip = Annotated[int | None, typer.Option("--clip-skip", help="Layers of the text encoder to leave out.")]
Inversions = Annotated[
    list[Path] | None,
    typer.Option("--textual-inversion", metavar="PATH", help="An embedding file to load; repeatable."),
]
BackendName = Annotated[str, typer.Option("--backend", help="auto or ort-cpu.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads per operator; one per core if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A diffusers folder, a hub id, emoji, or a bundle.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle's folder.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32.")] = "fp32",
    backend: Annotated[str, typer.Option("--backend", help="ort-cpu.")] = "ort-cpu",
    profile: Annotated[
        list[str] | None, typer.Option("--profile", metavar="WxH[xBATCH]", help="A picture size; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Build a bundle from a model; given a bundle, compile its engines for this machine."""
    from latentrt.building import build as build_bundle
    from latentrt.terminal import BuildProgress, print_json, say

    result = build_bundle(
        model, output, precision=precision, profiles=profile or (), backend=backend, progress=BuildProgress()
    )
    manifest, root = result.bundle.manifest, result.bundle.root
    if json:
        parity = {name: record.parity.model_dump() for name, record in manifest.components.items()}
        print_json(
            {
                "bundle": str(root),
                "up_to_date": result.up_to_date,
                "seconds": result.seconds,
                "parity": parity,
            }
        )
        return
    if result.up_to_date:
        say(f"{root} is up to date")
        return
    say(f"{root} built in {sum(result.seconds.values()):.1f} s")
    for name, record in manifest.components.items():
        say(f"  {name:<13} against torch: {record.parity.parity}")


@app.command()
def generate(
    bundle: Bundle,
    prompt: Prompt,
    negative: Negative = "",
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    seed: Seed = None,
    size: Size = None,
    count: Count = 1,
    prompt_syntax: Syntax = "plain",
    long_prompt: LongPrompt = None,
    clip_skip: ClipSkip = None,
    textual_inversion: Inversions = None,
    output: Output = Path("out.png"),
    backend: BackendName = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw pictures from text."""
    width, height = _size(size)
    with _opened(bundle, output, backend, threads) as pipe, _Steps(pipe, steps, 1.0) as callback:
        pipe.load_textual_inversion(textual_inversion or ())
        result = pipe(
            [prompt] * _positive(count),
            negative_prompt=negative,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            seed=_seeds(seed, count),
            callback_on_step_end=callback,
            prompt_syntax=prompt_syntax,
            long_prompt=long_prompt,
            clip_skip=clip_skip,
        )
    _report(result, output, json)


@app.command()
def img2img(
    bundle: Bundle,
    prompt: Prompt,
    image: Annotated[Path, typer.Option("--image", help="The picture to start from.")],
    strength: Annotated[float | None, typer.Option("--strength", help="0 keeps the picture, 1 redraws it.")] = None,
    negative: Negative = "",
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    seed: Seed = None,
    size: Size = None,
    count: Count = 1,
    prompt_syntax: Syntax = "plain",
    long_prompt: LongPrompt = None,
    clip_skip: ClipSkip = None,
    textual_inversion: Inversions = None,
    output: Output = Path("out.png"),
    backend: BackendName = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw pictures that start from a picture; --size resizes it first."""
    from latentrt.runtime.image import read_image

    width, height = _size(size)
    picture = read_image(image)
    with _opened(bundle, output, backend, threads) as pipe, _Steps(pipe, steps, strength) as callback:
        pipe.load_textual_inversion(textual_inversion or ())
        result = pipe.img2img(
            [prompt] * _positive(count),
            image=picture,
            strength=strength,
            negative_prompt=negative,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            seed=_seeds(seed, count),
            callback_on_step_end=callback,
            prompt_syntax=prompt_syntax,
            long_prompt=long_prompt,
            clip_skip=clip_skip,
        )
    _report(result, output, json)


@app.command()
def inspect(bundle: Bundle, json: Json = False) -> None:
    """Show what a bundle holds: components, profiles, parity, engines."""
    from latentrt.inspection import describe, print_description

    description = describe(bundle)
    if json:
        from latentrt.terminal import print_json

        print_json(description)
    else:
        print_description(description)


@app.command()
def verify(bundle: Bundle, threads: Threads = None, json: Json = False) -> None:
    """Check every file of a bundle, and its engines on this machine against torch's recorded results."""
    from latentrt.inspection import verify as verify_bundle
    from latentrt.terminal import BuildProgress, print_json, say

    figures = verify_bundle(bundle, threads=threads, progress=BuildProgress())
    if json:
        print_json({"bundle": str(bundle), "parity": {name: asdict(parity) for name, parity in figures.items()}})
        return
    for name, parity in figures.items():
        say(f"{name:<13} {parity}")
    say(f"{bundle} is whole, and its engines agree with torch")


@app.command()
def samplers(json: Json = False) -> None:
    """List the samplers."""
    from latentrt.runtime.samplers import SAMPLERS
    from latentrt.terminal import print_json, print_table

    if json:
        keys = ("name", "label", "order", "stochastic", "calls_per_step")
        print_json({"samplers": [{key: getattr(row, key) for key in keys} for row in SAMPLERS.values()]})
        return
    rows = [
        (row.name, row.label, row.order, "yes" if row.stochastic else "no", row.calls_per_step)
        for row in SAMPLERS.values()
    ]
    print_table("", ("name", "label", "order", "stochastic", "model calls per step"), rows)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to put bundle and sheet.")
    ] = Path("out"),
    json: Json = False,
) -> None:
    """Build the embedded emoji model and draw a contact sheet of prompts × seeds."""
    from latentrt.demo import run
    from latentrt.terminal import print_json, say

    done = run(output)
    if json:
        print_json({"sheet": str(done.sheet), "bundle": str(done.bundle), "seconds": done.seconds})
        return
    for stage, seconds in done.seconds.items():
        say(f"{seconds:8.1f} s  {stage}")
    say(f"the contact sheet is {done.sheet}")


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    from latentrt.engines.profile import profile_from_text

    profile = profile_from_text(text)
    if profile.batch != 1:
        raise RequestError(f"got size {text!r}, expected WIDTHxHEIGHT; use --count for several pictures")
    return profile.width, profile.height


def _positive(count: int) -> int:
    if count < 1:
        raise RequestError(f"got count {count}, expected at least 1; raise it")
    return count


def _seeds(seed: int | None, count: int) -> list[int] | None:
    """One seed per picture, counting up, so that each picture can be drawn again alone."""
    return None if seed is None else [seed + index for index in range(count)]


def _opened(bundle: Path, output: Path, backend: str, threads: int | None) -> Any:
    """The bundle as a pipeline, once it is clear that the picture can be written."""
    from latentrt.engines.files import check_writable
    from latentrt.opening import open as open_pipeline

    if output.suffix.lower() != ".png":
        raise RequestError(f"got output {str(output)!r}, expected a name that ends in .png; add .png")
    check_writable(output)
    return open_pipeline(bundle, backend=backend, threads=threads)


class _Steps:
    """A progress bar over the steps of one call, as a callback_on_step_end."""

    def __init__(self, pipe: Any, steps: int | None, strength: float | None) -> None:
        from latentrt.terminal import step_bar

        defaults = pipe.manifest.defaults
        total = steps if steps is not None else defaults.num_inference_steps
        share = strength if strength is not None else defaults.strength
        self._bar = step_bar(int(total * share) if 0 <= share <= 1 else 0, "denoising")

    def __enter__(self) -> Any:
        advance = self._bar.__enter__()
        return lambda *_: advance()

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)


def _report(result: Any, output: Path, json: bool) -> None:
    from latentrt.terminal import print_json, say

    paths = result.save(output)
    timings = asdict(result.timings)
    if json:
        pictures = [
            {"path": str(path), **asdict(metadata)} for path, metadata in zip(paths, result.metadata, strict=True)
        ]
        print_json({"pictures": pictures, "timings": timings})
        return
    for path, seed in zip(paths, result.seeds, strict=True):
        say(f"{path}  (seed {seed})")
    say(
        f"{timings['total']:.2f} s: prompt {timings['encode_prompt']:.2f}, "
        f"denoise {timings['denoise']:.2f}, decode {timings['decode']:.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; the entry point of the ``latentrt`` command."""
    warnings.showwarning = _show_warning
    try:
        command = typer.main.get_command(app)
        status = command.main(arguments, prog_name="latentrt", standalone_mode=False)
    except LatentrtError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # typer's own complaints about arguments carry format_message; everything else is a fault of ours
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        sys.exit(_fail(format_message() or "see latentrt --help"))
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> int:
    sys.stderr.write(f"latentrt: {' '.join(message.split())}\n")
    return 2


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        sys.stderr.write(f"latentrt: warning: {message}\n")
