"""The LoRAs of one call, with their weights: what changes about each component."""

from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.changes import Changes
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.formulas.fixed import as_matrix
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.low_rank import LowRank, added_products

_RECIPE = 1  # of all formulas; plans are kept by the key, so one that computes otherwise raises it


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How much of an adapter is added: to the U-Net, to the text encoders, and to some blocks of the U-Net otherwise.

    ``blocks`` are beginnings of weight names (``down_blocks.1.``) with what holds there in place of ``unet``; the
    longest that fits counts.
    """

    unet: float = 1.0
    text: float = 1.0
    blocks: tuple[tuple[str, float], ...] = ()

    def of(self, component: str, weight: str) -> float:
        """What holds for one weight of a component."""
        if component != UNET:
            return self.text
        fitting = [(len(start), strength) for start, strength in self.blocks if weight.startswith(start)]
        return max(fitting, default=(0, self.unet), key=lambda block: block[0])[1]


@dataclass(frozen=True)
class LoraSet:
    """Adapters and strengths. Adapters of weight 0 everywhere are left out; the order counts for nothing."""

    members: tuple[tuple[Adapter, Strength], ...] = ()

    def changes(self, component: str) -> Changes | None:
        """What the set changes about a component; None where that is nothing: the component as it was built.

        Two sets whose adapters have the same content and, in this component, the same strengths have the same key,
        however they were written, and add in the same order.
        """
        shares = []
        for adapter, strength in self.members:
            part = adapter.parts.get(component, {})
            strengths = {name: float(strength.of(component, name)) for name in sorted(part)}
            if present := {name: value for name, value in strengths.items() if value != 0}:
                shares.append((adapter.sha256, list(present.items()), part))
        if not shares:
            return None
        shares.sort(key=lambda share: share[:2])
        digest = sha256(repr((_RECIPE, component, [share[:2] for share in shares])).encode())
        contributions: dict[str, list[tuple[float, Formula]]] = {}
        for _, strengths_by_name, part in shares:
            for name, value in strengths_by_name:
                contributions.setdefault(name, []).append((value, part[name]))
        return Changes(
            key=digest.hexdigest(), weights={name: partial(changed, parts) for name, parts in contributions.items()}
        )


def changed(contributions: list[tuple[float, Formula]], weight: Array) -> Array:
    """W' = W + Σᵢ wᵢ · (Fᵢ(W) − W).

    Args:
        contributions: (wᵢ, Fᵢ).
        weight: W, float32.

    Returns:
        A new array in W's shape and memory order.
    """
    matrix = as_matrix(weight)
    as_stored = np.shares_memory(matrix, weight)
    products: list[tuple[float, LowRank]] = []
    others: list[tuple[float, Formula]] = []
    for strength, formula in contributions:
        if as_stored and isinstance(formula, LowRank) and formula.down.shape[1] == matrix.shape[1]:
            products.append((strength, formula))
        else:
            others.append((strength, formula))
    if products:
        result = added_products(matrix, products).reshape(weight.shape)
    else:
        (strength, formula), *others = others
        result = formula.change(weight)
        if strength != 1:
            result *= np.float32(strength)
        result += weight
    for strength, formula in others:
        difference = formula.change(weight)
        if strength != 1:
            difference *= np.float32(strength)
        result += difference
    return result
