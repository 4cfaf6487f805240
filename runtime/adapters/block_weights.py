"""Weights of a LoRA per block of the U-Net, as diffusers' ``set_adapters`` takes them.

``{"down": 0.5, "mid": 1.0, "up": {"block_0": 0.2, "block_1": [0.5, 1.0, 0.5]}}``: for all blocks of a side, for one,
or for each attention of one. They reach what diffusers 0.42 reaches (``loaders/unet_loader_utils.py`` and
``utils/peft_utils.py``): the attentions of blocks that have some, and beside the n-th of them the n-th residual block
and sampler. All else keeps weight 1, and so does what is not named.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.checks import number

_SIDES = ("down", "up")
_MID = "mid_block.attentions.0."
_ATTENTION = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.")


def block_weights(given: Mapping[Any, Any], names: Collection[str], what: str) -> tuple[tuple[str, float], ...]:
    """Beginnings of weights' names, with what holds there in place of 1.

    Args:
        given: weights by side and block.
        names: of the U-Net's weights.
        what: what they are, for messages.

    Raises:
        RequestError: a block that is not there or has no attentions, another number of weights than it has, or weights
            that are no finite numbers.
    """
    counts: dict[str, dict[int, int]] = {side: {} for side in _SIDES}
    for name in names:
        if found := _ATTENTION.match(name):
            side, block, attention = found.group(1), int(found.group(2)), int(found.group(3))
            counts[side][block] = max(counts[side].get(block, 0), attention + 1)
    unknown = [side for side in given if side not in (*_SIDES, "mid")]
    if unknown:
        raise RequestError(f"got {unknown[0]!r} in the {what}, expected some of down, mid, up; correct it")
    found_weights: list[tuple[str, float]] = []
    if "mid" in given:
        if not any(name.startswith(_MID) for name in names):
            raise RequestError(f"got 'mid' in the {what}, and the model's middle block has no attention; leave it out")
        found_weights.append((_MID, _several(given["mid"], 1, f"mid in the {what}")[0]))
    for side in _SIDES:
        for block, weights in _of_side(given.get(side, 1.0), counts[side], side, what).items():
            for index, weight in enumerate(weights):
                places = [f"attentions.{index}.", f"resnets.{index}."]
                places += [f"{side}samplers.{index}."] if index == 0 else []
                found_weights += [(f"{side}_blocks.{block}.{place}", weight) for place in places if weight != 1.0]
    return tuple(found_weights)


def _of_side(given: Any, counts: Mapping[int, int], side: str, what: str) -> dict[int, list[float]]:
    """The weights of every attention of each block that has some."""
    if not isinstance(given, Mapping):
        given = {f"block_{block}": given for block in counts}
    known = {f"block_{block}": block for block in counts}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise RequestError(
            f"got {unknown[0]!r} for {side} in the {what}, expected blocks with attentions "
            f"({', '.join(sorted(known)) or 'none'}); correct it"
        )
    return {
        block: _several(given.get(name, 1.0), counts[block], f"{side}.{name} in the {what}")
        for name, block in known.items()
    }


def _several(given: Any, count: int, what: str) -> list[float]:
    """One weight for each of so many places."""
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise RequestError(f"got {len(values)} weights for {what}, expected 1 or {count}; give as many")
    weights = [number(value, what) for value in values]
    if not all(map(math.isfinite, weights)):
        raise RequestError(f"got {weights} for {what}, expected finite numbers; correct it")
    return weights
