"""The LoRAs of one call, with their weights: what changes about each component."""

from dataclasses import dataclass

from latentrt.engines.changes import Changes
from latentrt.runtime.adapters.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How much of an adapter is added: to the U-Net, to the text encoders, and to some blocks of the U-Net otherwise.

    ``blocks`` are beginnings of weight names (``down_blocks.1.``) with what holds there in place of ``unet``; the
    longest that fits counts.
    """

    unet: float = 1.0
    text: float = 1.0
    blocks: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class LoraSet:
    """Adapters and strengths. Adapters of weight 0 everywhere are left out; the order counts for nothing."""

    members: tuple[tuple[Adapter, Strength], ...] = ()

    def changes(self, component: str) -> Changes | None:
        """What the set changes about a component; None where that is nothing: the component as it was built."""
        raise NotImplementedError
