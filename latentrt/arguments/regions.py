"""Regions as they are named on a command line: a prompt, and its place in the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.arguments.addons import for_each
from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from latentrt.runtime.prompts.region import Region

REGION, FORM = "--region", "PROMPT@PLACE"
_PLACES = "PROMPT@LEFT,TOP,RIGHT,BOTTOM in shares of the picture, 0 to 1, or PROMPT@MASK.png"


def regions_from_options(
    options: Sequence[str],
    *,
    prompts_2: Sequence[str],
    weights: Sequence[float],
    feathers: Sequence[float],
) -> "list[Region]":
    """The ``Region`` of each ``--region``, its mask read.

    Args:
        options: as ``PROMPT@LEFT,TOP,RIGHT,BOTTOM`` or ``PROMPT@MASK``; prompts and files may have an @, too.
        prompts_2: of ``--region-prompt-2``: none, one for all, or one for each.
        weights: of ``--region-weight``, likewise.
        feathers: of ``--region-feather``, likewise.

    Raises:
        RequestError: another number of them, no place, or a mask that cannot be read.
    """
    from latentrt.runtime.pictures.image import read_image
    from latentrt.runtime.prompts.region import Region

    count = len(options)
    given = {
        name: for_each(REGION, FORM, f"{REGION}-{name.replace('_', '-')}", values, count)
        for name, values in (("prompt_2", prompts_2), ("weight", weights), ("feather", feathers))
    }
    regions = []
    for index, text in enumerate(options):
        prompt, place = _prompt_and_place(text)
        more = {name: values[index] for name, values in given.items() if values}
        if isinstance(place, Path):
            regions.append(Region(prompt, mask=read_image(place), **more))
        else:
            regions.append(Region(prompt, box=place, **more))
    return regions


def _prompt_and_place(text: str) -> tuple[str, tuple[float, ...] | Path]:
    """What stands on both sides of the last @ that a box or a file follows.

    Raises:
        RequestError: there is none.
    """
    for at in (at for at in range(len(text) - 1, -1, -1) if text[at] == "@"):
        prompt, place = text[:at].strip(), text[at + 1 :].strip()
        numbers = _numbers(place)
        if len(numbers) == 4:
            return prompt, numbers
        if place and _is_file(place):
            return prompt, Path(place)
    prompt, at_sign, place = text.rpartition("@")
    if not at_sign:
        raise RequestError(f"got region {text!r} without a place, expected {_PLACES}; say where it is")
    if _numbers(place):
        raise RequestError(f"got place {place!r} of region {prompt.strip()!r}, expected {_PLACES}; give four numbers")
    raise RequestError(
        f"got place {place!r} of region {prompt.strip()!r}, which is no box and no file, expected {_PLACES}; check it"
    )


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them; none where it is something else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a name that no file could have
        return False
