"""``latentrt grid``."""

from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Bundle, Prompt
from latentrt.cli.drawing.drawing import draws_as
from latentrt.cli.grids.settings import LEFT_OUT, GridDrawing

_X = "NAME=VALUE,…"


@draws_as(GridDrawing, LEFT_OUT)
def grid(
    bundle: Bundle,
    prompt: Prompt,
    drawing: GridDrawing,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            metavar=_X,
            help="What differs between columns: an option of this command, as steps=10,20,30 or guidance=1-7(+2); "
            "prompt=cat,dog replaces cat in PROMPT; also lora:NAME=0,0.5,1 and sampler.eta=0,1.",
        ),
    ] = None,
    y: Annotated[str | None, typer.Option("--y", metavar=_X, help="What differs between rows, likewise.")] = None,
    z: Annotated[str | None, typer.Option("--z", metavar=_X, help="What differs between sheets, likewise.")] = None,
) -> None:
    """Draw a prompt with every combination of two or three settings, on one labelled sheet."""
    from latentrt.cli.grids.run import draw_grid
    from latentrt.cli.grids.settings import Settings

    draw_grid(bundle, Settings(prompt=prompt, drawing=drawing), {"--x": x, "--y": y, "--z": z})
