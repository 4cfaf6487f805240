"""``latentrt upscale``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Backend, Json, Threads


def upscale(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of an upscaler's bundle.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="Pictures; transparency is enlarged, too. Of animated ones the first frame counts."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file; a folder, in which cat.png becomes cat-x4.png; or a pattern such as out/{name}-{scale}.png, "
            "with {name}, {index}, {scale} and {model}.",
        ),
    ],
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="How many times as wide and high, 1 to 64; the upscaler's own if left out."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that are there already.")] = False,
    backend: Backend = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Enlarge pictures with an upscaler. A PNG keeps the settings that drew it."""
    from latentrt.cli.upscaling import Upscaling

    Upscaling(images=images, output=output, scale=scale, overwrite=overwrite, json=json).run(
        bundle, backend=backend, threads=threads
    )
