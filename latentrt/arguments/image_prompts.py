"""Image prompts as they are named on a command line: an adapter's bundle, a picture, and how much it counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.arguments.addons import AddonOption

if TYPE_CHECKING:
    from latentrt.runtime.addons.image_prompt import ImagePrompt

IMAGE_PROMPT_OPTION = AddonOption(
    name="--image-prompt",
    form="ADAPTER:IMAGE[:SCALE]",
    noun="adapter",
    label="an IP-Adapter",
    example=("photo.png", "0.6"),
)
"""What names image prompts."""


def image_prompts_from_options(
    options: Sequence[str],
    *,
    masks: Sequence[Path],
    blocks: Sequence[str],
    starts: Sequence[float],
    ends: Sequence[float],
) -> "list[ImagePrompt]":
    """The ``ImagePrompt`` of each ``--image-prompt``, its pictures read.

    Args:
        options: as ``ADAPTER:IMAGE[:SCALE]``.
        masks: of ``--image-prompt-mask``: none, one for all, or one for each.
        blocks: of ``--image-prompt-blocks``, likewise.
        starts: of ``--image-prompt-start``, likewise.
        ends: of ``--image-prompt-end``, likewise.

    Raises:
        RequestError: another number of them, or a file that cannot be read.
    """
    from latentrt.runtime.addons.image_prompt import ImagePrompt
    from latentrt.runtime.pictures.image import read_image

    beside: dict[str, Sequence[Any]] = {"mask": masks, "blocks": blocks, "start": starts, "end": ends}
    given = {
        name: IMAGE_PROMPT_OPTION.for_each(f"--image-prompt-{name}", values, len(options))
        for name, values in beside.items()
    }
    prompts = []
    for index, argument in enumerate(map(IMAGE_PROMPT_OPTION.argument, options)):
        more = {name: values[index] for name, values in given.items() if values}
        if "mask" in more:
            more["mask"] = read_image(more["mask"])
        prompts.append(ImagePrompt(argument.bundle, read_image(argument.image), scale=argument.scale, **more))
    return prompts
