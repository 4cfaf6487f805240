"""LoRAs in prompts: what all prompts of a call ask for, and how AUTOMATIC1111's web UI writes them.

That is ``<lora:name>``, ``<lora:name:0.8>`` or ``<lora:name:0.5:unet=0.8>``. Version 1.10 reads the arguments between
colons (``modules/extra_networks.py``, ``extensions-builtin/Lora/extra_networks_lora.py``): first the weight of the text
encoders and then that of the U-Net, or by name (``te``, ``unet``). What is left out is 1 for the text encoders, and
their weight for the U-Net. ``lyco`` is another word for ``lora``.
"""

import re
from collections.abc import Sequence
from math import isfinite

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.syntax.tree import LoraTag, syntax_error

_TAG = re.compile(r"<(\w+):([^>]+)>")
_KINDS = ("lora", "lyco")
_ORDER = ("te", "unet", "dyn")


def lora_tags(text: str) -> tuple[LoraTag, ...]:
    """The LoRAs that a prompt asks for.

    Raises:
        RequestError: a tag without a name, with a weight that is no finite number or with an argument that is not
            known, a LoRA that stands twice, or a hypernetwork.
    """
    tags: list[LoraTag] = []
    for match in _TAG.finditer(text):
        kind = match.group(1)
        if kind in _KINDS:
            tags.append(_tag(text, match))
        elif kind.lower() in _KINDS:
            raise syntax_error(text, match.start(), f"got <{kind}:…>, expected <lora:…>; write it in lower case")
        elif kind.lower() == "hypernet":
            raise syntax_error(text, match.start(), "hypernetworks are not supported; remove the tag")
    refuse_repeated(text, tags)
    return tuple(tags)


def refuse_repeated(text: str, tags: Sequence[LoraTag]) -> None:
    """Refuses a prompt that asks for a LoRA more than once.

    Raises:
        RequestError: where it does so again.
    """
    for index, tag in enumerate(tags):
        if tag.name in [before.name for before in tags[:index]]:
            raise syntax_error(text, tag.begin, f"LoRA {tag.name!r} stands there twice, expected once; remove one")


def _tag(text: str, match: "re.Match[str]") -> LoraTag:
    named: dict[str, str] = {}
    positional: list[str] = []
    for item in match.group(2).split(":"):
        parts = item.split("=", 2)
        if len(parts) == 2:
            named[parts[0]] = parts[1]
        else:
            positional.append(item)
    name = positional[0].strip() if positional else ""
    unknown = [key for key in named if key not in _ORDER]
    if not name or unknown or len(positional) > len(_ORDER) + 1:
        got = "a tag without a name" if not name else f"{unknown[0] if unknown else positional[-1]!r} in a tag"
        raise syntax_error(text, match.start(), f"got {got}, expected <lora:name:weight>; correct it")
    arguments = dict(zip(_ORDER, positional[1:], strict=False)) | named
    if "dyn" in arguments:
        raise syntax_error(text, match.start(), "a smaller rank (dyn) is not supported; leave the argument out")
    of_text = _weight(text, match, arguments.get("te", "1"))
    of_unet = _weight(text, match, arguments["unet"]) if "unet" in arguments else of_text
    return LoraTag(name=name, unet=of_unet, text=of_text, begin=match.start(), end=match.end())


def _weight(text: str, match: "re.Match[str]", written: str) -> float:
    try:
        weight = float(written)
    except ValueError:
        weight = float("nan")
    if not isfinite(weight):
        raise syntax_error(
            text, match.start(), f"got weight {written[:12]!r}, expected a number; write <lora:name:0.8>"
        )
    return weight


def tags_of_prompts(pictures: Sequence[Sequence[LoraTag]]) -> tuple[LoraTag, ...]:
    """What all prompts of a call ask for.

    Args:
        pictures: the LoRAs that each picture's prompts ask for.

    Raises:
        RequestError: some ask for others than the first.
    """
    asked = [{(tag.name, tag.unet, tag.text) for tag in tags} for tags in pictures]
    for index, tags in enumerate(asked):
        if tags != asked[0]:
            first, other = (", ".join(sorted(repr(tag[0]) for tag in one)) or "none" for one in (asked[0], tags))
            raise RequestError(
                f"got prompts with different LoRAs or weights ({first}; prompt {index + 1}: {other}), expected the "
                "same in all prompts of a call; draw them in calls of their own"
            )
    distinct: dict[str, LoraTag] = {}
    for tag in pictures[0]:
        before = distinct.setdefault(tag.name, tag)
        if (before.unet, before.text) != (tag.unet, tag.text):
            raise RequestError(
                f"got LoRA {tag.name!r} with different weights in the prompts of a picture, expected one; leave one out"
            )
    return tuple(distinct.values())


def place_in(position: int, tags: Sequence[LoraTag]) -> int:
    """Where a character of a prompt without its tags stands in the prompt as it was written."""
    for tag in tags:
        if tag.begin <= position:
            position += tag.end - tag.begin
    return position
