"""How much image prompts count in each cross-attention: diffusers' scales of blocks, and InvokeAI's names for some."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.block_weights import block_weights

# InvokeAI's methods (app/invocations/ip_adapter.py) for SD 1.x and 2.x; its "strong" leaves the last up block out
_PLAIN: Mapping[str, tuple[str, ...]] = {
    "style": ("up_blocks.1",),
    "composition": ("down_blocks.2", "mid_block"),
    "style_precise": ("up_blocks.1", "down_blocks.2", "mid_block"),
    "style_strong": ("up_blocks.0", "up_blocks.1", "up_blocks.2", "down_blocks.0", "down_blocks.1"),
}
_XL: Mapping[str, tuple[str, ...]] = {
    "style": ("up_blocks.0.attentions.1",),
    "composition": ("down_blocks.2.attentions.1",),
    "style_precise": ("up_blocks.0.attentions.1", "down_blocks.2.attentions.1"),
    "style_strong": (
        *("up_blocks.0", "up_blocks.1", "up_blocks.2", "down_blocks.0", "down_blocks.1"),
        *("down_blocks.2.attentions.0", "down_blocks.2.attentions.2"),
    ),
}
PARTS = tuple(_PLAIN)
"""The names of parts of a U-Net that image prompts may count for."""


def attention_scales(
    blocks: str | Mapping[Any, Any] | None, scale: float, structure: UnetStructure, *, xl: bool
) -> tuple[float, ...]:
    """The scale of each cross-attention, in the order of ``structure.cross_attentions``.

    Args:
        blocks: a name in ``PARTS``; scales by side and block, as diffusers' ``set_ip_adapter_scale`` takes them, what
            is not named being 0; None: all.
        scale: what all of them are multiplied by.
        structure: the U-Net's.
        xl: whether it has SDXL's blocks.

    Raises:
        RequestError: another name, a block that is not there, or scales that are no finite numbers.
    """
    scopes = [layer.scope for layer in structure.cross_attentions]
    if blocks is None:
        return (scale,) * len(scopes)
    if isinstance(blocks, str):
        return _of_part(blocks, scale, scopes, xl=xl)
    if not isinstance(blocks, Mapping):
        raise RequestError(
            f"got blocks {blocks!r} of an image prompt, expected one of {', '.join(PARTS)}, or scales such as "
            '{"up": {"block_0": [0.0, 1.0, 0.0]}}; give one of these'
        )
    named = _whole(blocks, structure)
    weights = dict(block_weights(named, scopes, "blocks of an image prompt"))
    return tuple(
        scale * next((weight for begin, weight in weights.items() if f"{scope}.".startswith(begin)), 1.0)
        for scope in scopes
    )


def _of_part(name: str, scale: float, scopes: Sequence[str], *, xl: bool) -> tuple[float, ...]:
    parts = _XL if xl else _PLAIN
    if name not in parts:
        raise RequestError(f"got blocks {name!r} of an image prompt, expected one of {', '.join(PARTS)}; choose one")
    begins = tuple(f"{part}." for part in parts[name])
    scales = tuple(scale if scope.startswith(begins) else 0.0 for scope in scopes)
    if not any(scope.startswith(begins) for scope in scopes):
        raise RequestError(
            f"got blocks {name!r} of an image prompt, which are {', '.join(parts[name])}, and the model has no "
            "cross-attention there; name its blocks with scales, or leave blocks out"
        )
    return scales


def _whole(blocks: Mapping[Any, Any], structure: UnetStructure) -> dict[Any, Any]:
    """The same with 0 for what is not named, where a LoRA's weights would be 1."""
    named: dict[Any, Any] = dict(blocks)
    if structure.mid.attentions:
        named.setdefault("mid", 0.0)
    for side, there in (("down", structure.down), ("up", structure.up)):
        given = named.get(side, 0.0)
        if isinstance(given, Mapping):
            inside = [f"block_{index}" for index, block in enumerate(there) if block.attentions]
            given = {**dict.fromkeys(inside, 0.0), **given}
        named[side] = given
    return named
