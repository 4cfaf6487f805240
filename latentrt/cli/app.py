"""The command line. Exit status: 0 done, 2 the user can mend it, 1 a fault of ours."""

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from latentrt.cli.bench import bench
from latentrt.cli.drawing import Drawing, draws, read_start
from latentrt.engines.errors import LatentrtError

app = typer.Typer(
    name="latentrt",
    help="Builds Stable Diffusion bundles once and draws from them without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Bundle = Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")]
Image = Annotated[Path, typer.Option("--image", help="The picture to start from.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of a model's call; one per core if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def build(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a checkpoint file, a hub id, emoji, or a bundle.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle's folder.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, fp16 or int8; fp32 if left out.")] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What runs the engines: ort-cpu, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "ort-cpu",
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="ARCH", help="A GPU architecture to compile tensorrt-rtx engines for, as sm89; repeatable."
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", metavar="MB", help="Scratch memory that TensorRT may plan per layer.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option("--profile", metavar="WxH[xBATCH]", help="A picture size; repeatable.")
    ] = None,
    seamless: Annotated[
        str, typer.Option("--seamless", help="Axes on which pictures shall wrap around: none, x, y or xy.")
    ] = "none",
    fp32: Annotated[
        list[str] | None, typer.Option("--fp32", metavar="COMPONENT", help="Stays in fp32 all the same; repeatable.")
    ] = None,
    variant: Annotated[str | None, typer.Option("--variant", help="Which of a folder's weights: fp16, ...")] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="A model that supplies what the chosen one lacks.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", metavar="PATH", help="An autoencoder in place of the model's own.")
    ] = None,
    ema: Annotated[
        bool | None, typer.Option("--ema/--no-ema", help="The averaged weights or the last, where a model has both.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="sd1, sd2, sdxl, ... in place of the one worked out.")
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option("--prediction-type", help="epsilon or v_prediction in place of the one worked out.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="int8: prompts to calibrate with, one a line.")
    ] = None,
    quality: Annotated[
        float | None, typer.Option("--quality", metavar="DB", help="int8: mean PSNR against fp32 pictures; 30.")
    ] = None,
    json: Json = False,
) -> None:
    """Build a bundle from a model; given a bundle, compile its engines for this machine."""
    from latentrt.building.build import build as build_bundle
    from latentrt.cli.terminal import BuildLog, BuildProgress, print_decisions, print_json, say

    result = build_bundle(
        model,
        output,
        precision=precision,
        profiles=profile or (),
        backend=backend,
        gpus=gpu or (),
        workspace_mb=workspace,
        seamless=seamless,
        fp32=fp32 or (),
        variant=variant,
        base=base,
        vae=vae,
        ema=None if ema is None else "ema" if ema else "non-ema",
        family=family,
        prediction_type=prediction_type,
        prompts=prompts,
        quality=quality,
        progress=BuildLog() if json else BuildProgress(),
        decided=print_decisions,
    )
    manifest, root = result.bundle.manifest, result.bundle.root
    if json:
        parity = {name: record.parity.model_dump() for name, record in manifest.components.items()}
        print_json(
            {
                "bundle": str(root),
                "up_to_date": result.up_to_date,
                "seconds": result.seconds,
                "decisions": {name: row.model_dump() for name, row in manifest.source.decisions.items()},
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
@draws
def generate(bundle: Bundle, prompt: Prompt, drawing: Drawing) -> None:
    """Draw pictures from text."""
    with drawing.opened(bundle) as (pipe, options):
        drawing.report(pipe([prompt] * drawing.count, **options))


@app.command()
@draws
def img2img(
    bundle: Bundle,
    prompt: Prompt,
    image: Annotated[Path, typer.Option("--image", help="The picture to start from, or latents (.npy).")],
    drawing: Drawing,
    strength: Annotated[float | None, typer.Option("--strength", help="0 keeps the picture, 1 redraws it.")] = None,
    denoising_start: Annotated[
        float | None, typer.Option("--denoising-start", help="Go on where another run's --denoising-end stopped.")
    ] = None,
) -> None:
    """Draw pictures that start from a picture; --size resizes it first."""
    picture = read_start(image)
    with drawing.opened(bundle) as (pipe, options):
        options["denoising_start"] = denoising_start
        drawing.report(pipe.img2img([prompt] * drawing.count, image=picture, strength=strength, **options))


@app.command()
@draws
def inpaint(
    bundle: Bundle,
    prompt: Prompt,
    image: Image,
    mask: Annotated[Path, typer.Option("--mask", help="White where the picture is redrawn, black where it is kept.")],
    drawing: Drawing,
    strength: Annotated[
        float | None, typer.Option("--strength", help="1 starts from noise, less from the picture.")
    ] = None,
    padding_mask_crop: Annotated[
        int | None,
        typer.Option("--padding-mask-crop", help="Draw only the mask's surroundings, with so many pixels of margin."),
    ] = None,
    kept_pixels: Annotated[
        str, typer.Option("--kept-pixels", help="exact: the source's own, bit for bit; or decoded.")
    ] = "exact",
) -> None:
    """Redraw parts of a picture."""
    from latentrt.runtime.pictures.image import read_image

    picture, masked = read_image(image), read_image(mask)
    with drawing.opened(bundle) as (pipe, options):
        result = pipe.inpaint(
            [prompt] * drawing.count,
            image=picture,
            mask_image=masked,
            strength=strength,
            padding_mask_crop=padding_mask_crop,
            kept_pixels=kept_pixels,
            **options,
        )
        drawing.report(result)


@app.command()
@draws
def outpaint(
    bundle: Bundle,
    prompt: Prompt,
    image: Image,
    drawing: Drawing,
    left: Annotated[int, typer.Option("--left", help="Pixels to add on this side.")] = 0,
    top: Annotated[int, typer.Option("--top", help="Pixels to add on this side.")] = 0,
    right: Annotated[int, typer.Option("--right", help="Pixels to add on this side.")] = 0,
    bottom: Annotated[int, typer.Option("--bottom", help="Pixels to add on this side.")] = 0,
    overlap: Annotated[int, typer.Option("--overlap", help="Pixels of the picture to draw anew along them.")] = 0,
    strength: Annotated[
        float | None, typer.Option("--strength", help="Below 1 the picture's edges show through.")
    ] = None,
) -> None:
    """Draw what lies around a picture."""
    from latentrt.runtime.pictures.image import read_image

    picture = read_image(image)
    with drawing.opened(bundle) as (pipe, options):
        result = pipe.outpaint(
            [prompt] * drawing.count,
            image=picture,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            overlap=overlap,
            strength=strength,
            **options,
        )
        drawing.report(result)


@app.command()
def inspect(bundle: Bundle, json: Json = False) -> None:
    """Show what a bundle holds: components, profiles, parity, engines."""
    from latentrt.cli.inspection import describe, print_description

    description = describe(bundle)
    if json:
        from latentrt.cli.terminal import print_json

        print_json(description)
    else:
        print_description(description)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to compare with, such as fp32.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another of the same model, such as int8.")],
    prompt: Prompt,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Both pictures and their difference.")],
    seed: Annotated[int, typer.Option("--seed", help="The seed of both.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampler steps; the bundle's default if left out.")] = (
        None
    ),
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="auto, or one to insist on.")] = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw one prompt with two bundles, side by side with the difference, eight times as large as it is."""
    from latentrt.cli.comparing import compare as compare_bundles
    from latentrt.cli.terminal import print_json, say

    made = compare_bundles(
        first,
        second,
        prompt,
        output,
        seed=seed,
        steps=steps,
        guidance_scale=guidance,
        backend=backend,
        threads=threads,
    )
    if json:
        print_json({"picture": str(output), "psnr": made.psnr})
    else:
        say(f"{output}  ({made.names[1]} against {made.names[0]}: PSNR {made.psnr:.1f} dB)")


@app.command()
def verify(
    bundle: Bundle,
    backend: Annotated[
        str, typer.Option("--backend", help="Whose engines to run: auto, ort-cpu, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Check every file of a bundle, and its engines on this machine against torch's recorded results."""
    from latentrt.cli.inspection import verify as verify_bundle
    from latentrt.cli.terminal import BuildProgress, print_json, say

    figures = verify_bundle(bundle, backend=backend, threads=threads, progress=BuildProgress())
    if json:
        print_json({"bundle": str(bundle), "parity": {name: asdict(parity) for name, parity in figures.items()}})
        return
    for name, parity in figures.items():
        say(f"{name:<13} {parity}")
    say(f"{bundle} is whole, and its engines agree with torch")


@app.command()
def samplers(json: Json = False) -> None:
    """List the samplers."""
    from latentrt.cli.terminal import print_json, print_table
    from latentrt.runtime.sampling.sampler_table import SAMPLERS

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
    from latentrt.cli.demo import run
    from latentrt.cli.terminal import print_json, say

    done = run(output)
    if json:
        print_json({"sheet": str(done.sheet), "bundle": str(done.bundle), "seconds": done.seconds})
        return
    for stage, seconds in done.seconds.items():
        say(f"{seconds:8.1f} s  {stage}")
    say(f"the contact sheet is {done.sheet}")


app.command()(bench)


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
