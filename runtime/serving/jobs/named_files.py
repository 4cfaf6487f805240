"""What an order names: LoRAs, nets and upscalers, and their files in the catalog."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from latentrt.runtime.call.hires.hires import LatentUpscaler, PictureUpscaler
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.order import Order

LORA_IN_PROMPT = re.compile(r"<lora:([^:>]+)")
FILTERS: tuple[str, ...] = (*LatentUpscaler, *PictureUpscaler)
"""What enlarges without an upscaler."""


def loras_of(order: Order) -> tuple[str, ...]:
    """The names of an order's LoRAs, those in its prompts as well."""
    syntax = order.keywords.get("prompt_syntax")
    texts = order.prompts if syntax is not None and str(syntax) != "plain" else ()
    named = [name for text in texts for name in LORA_IN_PROMPT.findall(text)]
    return tuple(dict.fromkeys((*(order.keywords.get("loras") or ()), *named)))


def keywords_with_files(order: Order, catalog: Catalog) -> dict[str, Any]:
    """An order's keywords, with files in the place of the catalog's names.

    Raises:
        UnknownNameError: a net or an upscaler that there is not.
    """
    keywords = dict(order.keywords)
    net = partial(catalog.path, "net", catalog.nets)
    if "control" in keywords:
        keywords["control"] = [replace(one, net=net(str(one.net))) for one in keywords["control"]]
    if "image_prompt" in keywords:
        keywords["image_prompt"] = [replace(one, adapter=net(str(one.adapter))) for one in keywords["image_prompt"]]
    hires = keywords.get("hires")
    if hires is not None and hires.upscaler not in FILTERS:  # else it would be a path
        among = {**dict.fromkeys(FILTERS, Path()), **catalog.upscalers}
        keywords["hires"] = replace(hires, upscaler=catalog.path("upscaler", among, str(hires.upscaler)))
    return keywords
