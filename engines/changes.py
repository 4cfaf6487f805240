"""What adapters change about a component: some of its weights, by their names in the checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """Weights of one component that take other values than the bundle's.

    Attributes:
        key: a digest; changes of equal keys are equal.
        weights: by a weight's name (``mid_block.attentions.0.proj_in.weight``), what makes its new value of the old
            one. It is given the weight in torch's shape, float32, read-only, and returns a new float32 array of that
            shape, best in the same memory order. It may be called from several threads.
    """

    key: str
    weights: Mapping[str, Callable[[Array], Array]]
