"""The drawing commands' options about image prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


@dataclass(frozen=True, kw_only=True)
class ImagePromptOptions:
    """``--image-prompt`` and the options beside it, as typer reads them."""

    image_prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--image-prompt",
            metavar="ADAPTER:IMAGE[:SCALE]",
            help="An IP-Adapter's bundle, the picture to draw after, and how much it counts (default: 1); repeatable.",
        ),
    ] = None
    image_prompt_mask: Annotated[
        list[Path] | None,
        typer.Option(
            "--image-prompt-mask",
            metavar="MASK",
            help="Where --image-prompt counts: white; once for all or once for each.",
        ),
    ] = None
    image_prompt_blocks: Annotated[
        list[str] | None,
        typer.Option(
            "--image-prompt-blocks",
            help="For which part of the U-Net: style, composition, style_precise or style_strong; likewise.",
        ),
    ] = None
    image_prompt_start: Annotated[
        list[float] | None,
        typer.Option(
            "--image-prompt-start",
            metavar="SHARE",
            help="Part of the steps, 0 to 1, before it begins; likewise; default: 0.",
        ),
    ] = None
    image_prompt_end: Annotated[
        list[float] | None,
        typer.Option(
            "--image-prompt-end",
            metavar="SHARE",
            help="Part of the steps, 0 to 1, after which it ends; likewise; default: 1.",
        ),
    ] = None

    def image_prompts(self) -> Sequence[Any]:
        """What ``--image-prompt`` and the options beside it name."""
        beside = (self.image_prompt_mask, self.image_prompt_blocks, self.image_prompt_start, self.image_prompt_end)
        if not self.image_prompt and not any(beside):
            return []
        from latentrt.arguments.image_prompts import image_prompts_from_options

        return image_prompts_from_options(
            self.image_prompt or (),
            masks=self.image_prompt_mask or (),
            blocks=self.image_prompt_blocks or (),
            starts=self.image_prompt_start or (),
            ends=self.image_prompt_end or (),
        )
