"""What the cells of a grid are drawn with."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from latentrt.cli.drawing.drawing import drawing_parameters
from latentrt.cli.drawing.text_drawing import TextDrawing
from latentrt.cli.options import Option, option_from_parameter

LEFT_OUT = frozenset({"count", "prompts"})
"""Options of drawing that a grid does not have: its axes do that."""
_FIXED = frozenset({"textual_inversion", "preview", "output", "overwrite", "backend", "threads", "loop", "json"})


@dataclass(frozen=True, kw_only=True)
class GridDrawing(TextDrawing):
    """The options of drawing from text, and a picture to start from."""

    image: Annotated[
        Path | None, typer.Option("--image", help="Start every cell from this picture, as img2img does.")
    ] = None
    strength: Annotated[
        float | None, typer.Option("--strength", help="With --image: 0 keeps the picture, 1 redraws it.")
    ] = None
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.png",
            help="The sheet: .png, .jpg or .webp. Its table (OUT.json) and its cells (OUT-cells/) stand beside it.",
        ),
    ] = Path("grid.png")
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the sheet and table of another grid; cells stay.")
    ] = False

    def given(self) -> dict[str, Any]:
        """The options about the picture that say something, by parameter."""
        own = {one.name: value for one in fields(self) if (value := getattr(self, one.name)) not in (one.default, [])}
        told = {**own, **own.pop("keywords")}
        return {name: value for name, value in told.items() if value is not None and name not in _FIXED | LEFT_OUT}

    def with_option(self, parameter: str, value: Any) -> "GridDrawing":
        """The same with one option set otherwise."""
        if parameter in self.keywords:
            return replace(self, keywords={**self.keywords, parameter: value})
        return replace(self, **{parameter: value})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one cell is drawn with."""

    prompt: str
    drawing: GridDrawing


def axis_options() -> list[Option]:
    """The options that can be an axis: all that are about the picture."""
    options = map(option_from_parameter, drawing_parameters(GridDrawing, LEFT_OUT | _FIXED))
    return list(options)
