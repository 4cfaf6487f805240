"""Nets that are stored as what differs from a model: their weights are made by the adapters' formulas."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.changes import Changes
from latentrt.runtime.adapters.formulas.difference import Difference
from latentrt.runtime.adapters.formulas.formula import Formula
from latentrt.runtime.adapters.formulas.low_rank import LowRank
from latentrt.runtime.adapters.lora_set import changed

if TYPE_CHECKING:
    from latentrt.export.addons.based_net import BasedControlNet, Factors


def with_base_weights(net: "BasedControlNet") -> "BasedControlNet":
    """The net with what it adds to the model's weights."""
    weights = {name: partial(changed, [(1.0, _formula(factors))]) for name, factors in net.added().items()}
    return net.with_changes(Changes(key="net", weights=weights))


def _formula(factors: "Factors") -> Formula:
    """A low rank, whose alpha is its rank, or a whole difference."""
    down = np.asarray(factors.down, np.float32)
    if factors.up is None:
        return Difference(content=down)
    up = np.asarray(factors.up, np.float32)
    return LowRank(
        up=up.reshape(len(up), -1), down=down.reshape(len(down), -1), scale=1.0, shape=(len(up), *down.shape[1:])
    )
