"""Changed weights as a component's graph stores them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.spec import Array


class ChangedInitializer(NamedTuple):
    """An initializer of the component's ONNX by name, and its new content in the shape and dtype stored there."""

    name: str
    content: Array


def changed_initializers(weights: ComponentWeights, changes: Changes) -> Iterator[ChangedInitializer]:
    """Every initializer that changes touch, one weight at a time.

    Args:
        weights: the component's, by name.
        changes: what differs.

    Raises:
        RequestError: a weight that the bundle does not have or cannot change, or numbers that its dtype cannot hold.
    """
    for name, change in changes.weights.items():
        new = change(np.asarray(weights.array(name), np.float32))
        for place, content in weights.placed(name, new):
            if place.initializer is not None:
                yield ChangedInitializer(place.initializer, content)
