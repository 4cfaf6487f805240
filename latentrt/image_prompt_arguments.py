"""Image prompts as they are named on a command line: an adapter's bundle, a picture, and how much it counts."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    from latentrt.runtime.addons.image_prompt import ImagePrompt

FORM = "ADAPTER:IMAGE[:SCALE]"


def image_prompt_from_text(text: str) -> tuple[Path, Path, float]:
    """Reads ``ADAPTER:IMAGE[:SCALE]``. Paths may have colons: the longest beginnings that exist are taken.

    Returns:
        The bundle, the picture's file, and the scale.

    Raises:
        RequestError: no such bundle or picture, or a scale that is no finite number.
    """
    parts = text.split(":")
    adapters = [end for end in range(len(parts), 0, -1) if _exists(parts[:end])]
    for end in adapters:
        for last in range(len(parts), end, -1):
            if _exists(parts[end:last]):
                return _of_parts(parts, end, last)
    if not adapters:
        raise RequestError(
            f"got image prompt {text!r}, expected {FORM} with the bundle of an IP-Adapter, and there is none at the "
            "beginning; check the path"
        )
    adapter, rest = ":".join(parts[: adapters[0]]), parts[adapters[0] :]
    if not rest:
        raise RequestError(f"got image prompt {text!r} without a picture, expected {FORM}; give {adapter}:photo.png")
    missing = ":".join(rest[:-1] if len(rest) > 1 and _is_number(rest[-1]) else rest)
    raise RequestError(f"got picture {missing!r} for the adapter {adapter!r}, which does not exist; check the path")


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

    given: dict[str, Sequence[Any]] = {"mask": masks, "blocks": blocks, "start": starts, "end": ends}
    count = len(options)
    for name, values in given.items():
        option = f"--image-prompt-{name}"
        if values and not count:
            raise RequestError(
                f"got {option} without --image-prompt, expected it beside one; give --image-prompt {FORM}"
            )
        if len(values) not in (0, 1, count):
            raise RequestError(
                f"got {option} {len(values)} times for {count} times --image-prompt; give it once for all, or once for "
                "each"
            )
    prompts = []
    for index, (adapter, image, scale) in enumerate(map(image_prompt_from_text, options)):
        more = {name: values[index % len(values)] for name, values in given.items() if values}
        if "mask" in more:
            more["mask"] = read_image(more["mask"])
        prompts.append(ImagePrompt(adapter, read_image(image), scale=scale, **more))
    return prompts


def _of_parts(parts: Sequence[str], end: int, last: int) -> tuple[Path, Path, float]:
    adapter, image, rest = ":".join(parts[:end]), ":".join(parts[end:last]), parts[last:]
    if len(rest) > 1 or not all(map(_is_number, rest)):
        raise RequestError(
            f"got scale {':'.join(rest)!r} for the adapter {adapter!r}, expected {FORM} with a finite number, such as "
            f"{Path(adapter).name}:{Path(image).name}:0.6; correct it"
        )
    return Path(adapter), Path(image), float(rest[0]) if rest else 1.0


def _exists(parts: Sequence[str]) -> bool:
    try:
        return list(parts) != [""] and Path(":".join(parts)).exists()
    except (OSError, ValueError):  # a name that is too long, or none that a file could have
        return False


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
