"""How a U-Net is built, as the names and shapes of its weights tell."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from latentrt.engines.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class Block:
    """A down block, the mid block or an up block.

    Attributes:
        scope: its path, such as ``down_blocks.0``.
        channels: of its results.
        level: how often its planes were halved: 0 is the latents' own size.
        resnets: how many.
        attentions: whether it has cross-attention.
        resamples: whether a down- or upsampler follows its last layer.
    """

    scope: str
    channels: int
    level: int
    resnets: int
    attentions: bool
    resamples: bool


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """A self- or cross-attention: the path of its module, the width of its queries, and the level of its planes."""

    scope: str
    width: int
    level: int


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The channels and the level of one of the tensors that go through a U-Net."""

    channels: int
    level: int


@dataclass(frozen=True, kw_only=True)
class UnetStructure:
    """A U-Net's blocks and attentions; up blocks in the order in which they run.

    ``entry`` is the number of channels behind ``conv_in``. A U-Net without a mid block, as distilled ones are, has one
    of no layers. ``self_attentions`` and ``cross_attentions`` are in the order of the library's modules: down, up, mid.
    Graphs run down, mid, up. Where the context is one token, cross-attentions have no queries and are not among them.
    """

    entry: int
    down: tuple[Block, ...]
    mid: Block
    up: tuple[Block, ...]
    self_attentions: tuple[AttentionLayer, ...]
    cross_attentions: tuple[AttentionLayer, ...]

    @cached_property
    def skips(self) -> tuple[Plane, ...]:
        """What the down path hands to the up path, in the order in which it is made: a control net adds to each."""
        planes = [Plane(channels=self.entry, level=0)]
        for block in self.down:
            planes += [Plane(channels=block.channels, level=block.level)] * block.resnets
            if block.resamples:
                planes.append(Plane(channels=block.channels, level=block.level + 1))
        return tuple(planes)

    @property
    def middle(self) -> Plane:
        """The mid block's result; without one, what the first up block takes."""
        return Plane(channels=self.mid.channels, level=self.mid.level)

    @property
    def levels(self) -> int:
        """How many sizes planes have."""
        return self.mid.level + 1


def unet_structure(shapes: Mapping[str, tuple[int, ...]]) -> UnetStructure:
    """The structure of a U-Net.

    Args:
        shapes: of its weights in torch, by name.

    Raises:
        BundleError: names that are no U-Net's.
    """
    if "conv_in.weight" not in shapes or "down_blocks.0.resnets.0.conv2.weight" not in shapes:
        raise BundleError(
            "got weights without conv_in and down_blocks, expected those of a U-Net; build the bundle again"
        )
    level, down, up = 0, [], []
    for index in range(_count(shapes, "down_blocks.{}.resnets.0.conv2.weight")):
        down.append(_block(shapes, f"down_blocks.{index}", level, "downsamplers"))
        level += down[-1].resamples
    if "mid_block.resnets.0.conv2.weight" in shapes:
        mid = _block(shapes, "mid_block", level, "downsamplers")
    else:
        mid = replace(down[-1], scope="mid_block", level=level, resnets=0, attentions=False, resamples=False)
    for index in range(_count(shapes, "up_blocks.{}.resnets.0.conv2.weight")):
        up.append(_block(shapes, f"up_blocks.{index}", level, "upsamplers"))
        level -= up[-1].resamples
    blocks = (*down, *up, mid)
    return UnetStructure(
        entry=shapes["conv_in.weight"][0],
        down=tuple(down),
        mid=mid,
        up=tuple(up),
        self_attentions=tuple(one for block in blocks for one in _attentions(shapes, block, "attn1")),
        cross_attentions=tuple(one for block in blocks for one in _attentions(shapes, block, "attn2")),
    )


def _block(shapes: Mapping[str, tuple[int, ...]], scope: str, level: int, resampler: str) -> Block:
    return Block(
        scope=scope,
        channels=shapes[f"{scope}.resnets.0.conv2.weight"][0],
        level=level,
        resnets=_count(shapes, f"{scope}.resnets.{{}}.conv2.weight"),
        attentions=f"{scope}.attentions.0.transformer_blocks.0.attn2.to_v.weight" in shapes,
        resamples=f"{scope}.{resampler}.0.conv.weight" in shapes,
    )


def _attentions(shapes: Mapping[str, tuple[int, ...]], block: Block, kind: str) -> list[AttentionLayer]:
    """Of one kind, by the name that the library gives its modules."""
    found = []
    for index in range(_count(shapes, f"{block.scope}.attentions.{{}}.transformer_blocks.0.{kind}.to_q.weight")):
        transformer = f"{block.scope}.attentions.{index}.transformer_blocks"
        for depth in range(_count(shapes, f"{transformer}.{{}}.{kind}.to_q.weight")):
            scope = f"{transformer}.{depth}.{kind}"
            found.append(AttentionLayer(scope=scope, width=shapes[f"{scope}.to_q.weight"][0], level=block.level))
    return found


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many numbers from 0 on a name exists for."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count
