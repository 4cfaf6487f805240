"""Where sixteen bits do not do: parts of a model that stay in fp32 when the rest is halved, as data."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Precision

SCOPE_BEHIND = ":"
"""What stands between a component and its modules where some of these are asked for: ``unet:*.mid_block.*``."""

EVERYTHING = "*"
_HALVES = (Precision.FP16, Precision.BF16)


@dataclass(frozen=True, kw_only=True)
class Island:
    """Nodes that stay in fp32: patterns of families, component, module path and kind of node.

    ``precisions`` are what the rest may be in; bf16 has fp32's range. ``scope`` is the dotted path of the torch module
    that a node was traced from; ``operators`` are ONNX operator types, none meaning all. ``reason`` is kept in the
    bundle.
    """

    precisions: tuple[Precision, ...] = (Precision.FP16,)
    families: tuple[str, ...] = (EVERYTHING,)
    component: str
    scope: str = EVERYTHING
    operators: frozenset[str] = frozenset()
    reason: str

    def holds(self, scope: str, operator: str) -> bool:
        """Whether a node is part of it."""
        return fnmatchcase(scope, self.scope) and (not self.operators or operator in self.operators)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the component is halved."""
        return self.scope == EVERYTHING and not self.operators


ISLANDS = (
    # Timesteps and sizes are multiplied by frequencies and go into sines: 10 bits of 999 are not enough
    Island(precisions=_HALVES, component="unet", scope="*time_proj", reason="sines of timesteps and sizes"),
    Island(precisions=_HALVES, component="control", scope="*time_proj", reason="sines of timesteps and sizes"),
    Island(precisions=_HALVES, component="control", scope="*type_proj", reason="sines of control types"),
    # SDXL's autoencoder leaves fp16's range inside (its config says force_upcast); the fp16-fix weights would not
    Island(families=("*sdxl*",), component="vae_*", reason="activations beyond 65504"),
    # Its config says force_upcast; of the temporal decoder no ranges are known, and frames have been black in fp16
    Island(families=("svd",), component="vae_*", reason="activations of unknown range"),
    # SD 2.x trained at 768 pixels multiplies queries and keys beyond 65504 before it scales them down
    Island(
        families=("sd2*", "sd-turbo"),
        component="unet",
        scope="*.attn?",
        operators=frozenset({"Attention"}),
        reason="attention scores",
    ),
    Island(
        families=("sd2*", "sd-turbo"),
        component="control",
        scope="*.attn?",
        operators=frozenset({"Attention"}),
        reason="attention scores",
    ),
    # Its one vector of a picture gathers what all layers were rounded by (a tiny one: 35 dB); it runs once per picture
    Island(precisions=(Precision.BF16,), component="image_encoder", reason="rounding that adds up"),
    # CLIP has channels some hundred times as large as the rest; over 77 tokens this costs nothing
    Island(
        component="text_encoder*",
        operators=frozenset({"LayerNormalization"}),
        reason="outlier channels of CLIP",
    ),
    Island(
        component="image_encoder",
        operators=frozenset({"LayerNormalization"}),
        reason="outlier channels of CLIP",
    ),
)


def asked_islands(component: str, kept_fp32: Iterable[str]) -> tuple[Island, ...]:
    """The modules of a component that somebody wants in fp32: what is called ``COMPONENT:SCOPE``."""
    scopes = (name.partition(SCOPE_BEHIND) for name in kept_fp32)
    return tuple(
        Island(precisions=_HALVES, component=component, scope=scope, reason=f"asked for: {scope}")
        for name, _, scope in scopes
        if name == component and scope
    )


def refuse_unmatched(asked: Iterable[Island], kept: Collection[str]) -> None:
    """Refuses modules to keep in fp32 of which a graph has none.

    Args:
        asked: what was asked for.
        kept: the reasons of all islands that hold nodes.

    Raises:
        RequestError: naming each.
    """
    unmatched = [island for island in asked if island.reason not in kept]
    if unmatched:
        named = ", ".join(f"{island.component}{SCOPE_BEHIND}{island.scope}" for island in unmatched)
        raise RequestError(
            f"got fp32 {named}, of which the graph has no module, expected a path such as "
            "'unet:*.down_blocks.0.resnets.0.*'; latentrt debug names them"
        )


def islands_of(
    family: str, component: str, precision: Precision = Precision.FP16, kept_fp32: Iterable[str] = ()
) -> tuple[Island, ...]:
    """What of a component stays in fp32 when the rest is in a precision of sixteen bits.

    ``kept_fp32`` are what somebody wants in fp32: components, and ``COMPONENT:SCOPE``.
    """
    return asked_islands(component, kept_fp32) + tuple(
        island
        for island in ISLANDS
        if precision in island.precisions
        and any(fnmatchcase(family, one) for one in island.families)
        and fnmatchcase(component, island.component)
    )
