"""Perturbed-attention guidance in a call: which self-attentions it perturbs. How much it weighs is in the guidance."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import AddedInputs, Shapes
from latentrt.runtime.checks import texts
from latentrt.runtime.denoiser.conditions.perturbed_attention import PerturbedAttentionCondition
from latentrt.runtime.pictures.crop import Crop

MIDDLE = ("mid",)
_LONGEST, _REPEATS = 100, 3  # of an expression: nested or many repetitions may take for ever to find nothing
_MOST = 100  # expressions: each is compiled, and looked for in every name


@dataclass(frozen=True, kw_only=True, eq=False)
class PerturbedAttentionUse:
    """The self-attentions that a call perturbs; an ``AddonUse``.

    Attributes:
        names: the patterns that chose them.
        layers: of each self-attention of the U-Net, whether it is chosen.
    """

    names: tuple[str, ...]
    layers: tuple[bool, ...]

    def opened_for(self, shapes: Shapes) -> Shapes:
        """As ``AddonUse.opened_for``."""
        return replace(shapes, added=shapes.added | {AddedInputs.PERTURBED_ATTENTION})

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> PerturbedAttentionCondition:
        """As ``AddonUse.condition``."""
        return PerturbedAttentionCondition(self.layers)

    def metadata(self) -> Mapping[str, Any]:
        """As ``AddonUse.metadata``."""
        return {"pag_applied_layers": self.names}


def perturbed_attention_from_keyword(structure: UnetStructure, given: Any) -> PerturbedAttentionUse:
    """The keyword ``pag_applied_layers``: regular expressions that are looked for in the names of self-attentions.

    The names are those of diffusers' modules, such as ``up_blocks.0.attentions.1.transformer_blocks.0.attn1``.

    Args:
        structure: of the model's U-Net.
        given: one or several; None stands for the mid block's.

    Raises:
        RequestError: no texts, or one that is no regular expression or in no name.
    """
    names = MIDDLE if given is None else texts(given, "pag_applied_layers")
    if not names:
        raise RequestError("got no pag_applied_layers with pag_scale, expected some; leave them out for 'mid'")
    if len(names) > _MOST:
        raise RequestError(
            f"got {len(names)} pag_applied_layers, expected at most {_MOST}; name whole blocks, such as 'up_blocks.0'"
        )
    scopes = [layer.scope for layer in structure.self_attentions]
    chosen = [False] * len(scopes)
    for name in names:
        if len(name) > _LONGEST or len(re.findall(r"[*+?{]", name)) > _REPEATS or re.search(r"\)[*+?{]", name):
            raise RequestError(
                f"got {name[:_LONGEST]!r} in pag_applied_layers, expected at most {_LONGEST} characters and {_REPEATS} "
                "repetitions, none of them of a group; give a part of a layer's name, such as 'mid' or 'up_blocks.0'"
            )
        try:
            here = [re.search(name, scope) is not None for scope in scopes]
        except re.error as error:
            raise RequestError(
                f"got {name!r} in pag_applied_layers, which is no regular expression ({error}); give a part of a "
                "layer's name, such as 'mid' or 'up_blocks.0'"
            ) from error
        if not any(here):
            blocks = dict.fromkeys(scope.partition(".transformer_blocks")[0] for scope in scopes)
            raise RequestError(
                f"got {name!r} in pag_applied_layers, which is in the name of no self-attention; choose from "
                f"{', '.join(blocks)}"
            )
        chosen = [one or other for one, other in zip(chosen, here, strict=True)]
    return PerturbedAttentionUse(names=tuple(names), layers=tuple(chosen))
