"""``latentrt render``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Backend, Bundle, Json, Threads
from latentrt.cli.serving.catalog_options import CatalogOptions, takes_catalog


@takes_catalog
def render(
    bundle: Bundle,
    orders: Annotated[
        Path,
        typer.Argument(
            metavar="ORDERS.jsonl",
            help="One order a line, as JSON of the server's POST /v1/jobs; - is standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="The folder for pictures and journal; what is there already is kept."
        ),
    ],
    named: CatalogOptions,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Draw the I-th of N parts; other processes draw the others.")
    ] = "1/1",
    together: Annotated[
        int,
        typer.Option("--together", metavar="N", help="Draw N orders at once, which share model calls."),
    ] = 1,
    format: Annotated[str, typer.Option("--format", help="png, jpg or webp.")] = "png",
    ray: Annotated[bool, typer.Option("--ray", help="Draw with Ray Data, on all machines of its cluster.")] = False,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors", metavar="N", help="With --ray: at most so many processes; as many as fit if left out."
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", metavar="N", help="With --ray: GPUs of a process, such as 1 or 0.5; none if left out."),
    ] = None,
    backend: Backend = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Draw a file of orders into a folder; the same command goes on where it stopped."""
    from latentrt.cli.serving.rendering import RayOptions, RenderCommand
    from latentrt.engines.errors import RequestError

    if not ray and (actors is not None or gpus is not None):
        raise RequestError("got --actors or --gpus without --ray, where nothing has them; add --ray, or leave them out")
    RenderCommand(
        orders=orders,
        output=output.absolute(),
        shard=shard,
        together=together,
        format=format,
        backend=backend,
        threads=threads,
        json=json,
        ray=RayOptions(actors=actors, gpus=gpus) if ray else None,
    ).run(named.catalog([bundle]))
