"""The drawing commands' options about regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """``--region`` and the options beside it, as typer reads them."""

    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="PROMPT@PLACE",
            help="A part of the picture with a prompt of its own. PLACE is LEFT,TOP,RIGHT,BOTTOM in shares of the "
            "picture, such as 0,0,0.5,1 for the left half, or a mask's file, white where it is; repeatable.",
        ),
    ] = None
    region_weight: Annotated[
        list[float] | None,
        typer.Option(
            "--region-weight",
            metavar="WEIGHT",
            help="How much --region counts; below 1 PROMPT keeps the rest; once for all or once for each; default: 1.",
        ),
    ] = None
    region_feather: Annotated[
        list[float] | None,
        typer.Option(
            "--region-feather",
            metavar="SHARE",
            help="Over which part of the picture's shorter side, 0 to 1, its edges fade; likewise; default: 0.",
        ),
    ] = None
    region_prompt_2: Annotated[
        list[str] | None,
        typer.Option(
            "--region-prompt-2", metavar="PROMPT", help="SDXL: its prompt for the second text encoder; likewise."
        ),
    ] = None

    def regions(self) -> Sequence[Any]:
        """What they name.

        Raises:
            RequestError: one that cannot be read.
        """
        if not any((self.region, self.region_weight, self.region_feather, self.region_prompt_2)):
            return []
        from latentrt.arguments.regions import regions_from_options

        return regions_from_options(
            self.region or (),
            prompts_2=self.region_prompt_2 or (),
            weights=self.region_weight or (),
            feathers=self.region_feather or (),
        )
