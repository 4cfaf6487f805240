"""The drawing commands' options about control nets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """``--control`` and the options beside it, as typer reads them."""

    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="NET:IMAGE[:SCALE]",
            help="A control net's or T2I-Adapter's bundle, its picture, and how much it counts (default: 1); "
            "repeatable.",
        ),
    ] = None
    control_start: Annotated[
        list[float] | None,
        typer.Option(
            "--control-start",
            metavar="SHARE",
            help="Part of the steps, 0 to 1, before --control begins; once for all or once for each; default: 0.",
        ),
    ] = None
    control_end: Annotated[
        list[float] | None,
        typer.Option(
            "--control-end",
            metavar="SHARE",
            help="Part of the steps, 0 to 1, after which --control ends; likewise; default: 1.",
        ),
    ] = None
    control_mode: Annotated[
        list[str] | None,
        typer.Option(
            "--control-mode",
            metavar="MODE",
            help="What counts more: balanced (default), prompt, or control; once for all or once for each.",
        ),
    ] = None
    control_type: Annotated[
        list[str] | None,
        typer.Option(
            "--control-type", metavar="KIND", help="Union nets: of which kind the picture is, such as canny; likewise."
        ),
    ] = None

    def controls(self) -> Sequence[Any]:
        """What ``--control`` and the options beside it name."""
        if not any((self.control, self.control_start, self.control_end, self.control_mode, self.control_type)):
            return []
        from latentrt.arguments.controls import controls_from_options

        return controls_from_options(
            self.control or (),
            starts=self.control_start or (),
            ends=self.control_end or (),
            modes=self.control_mode or (),
            types=self.control_type or (),
        )
