"""Changed weights as a component's graph stores them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.machine import physical_cores
from latentrt.engines.spec import Array


class ChangedInitializer(NamedTuple):
    """An initializer of the component's ONNX by name, and its new content in the shape and dtype stored there."""

    name: str
    content: Array


def changed_initializers(weights: ComponentWeights, changes: Changes) -> Iterator[ChangedInitializer]:
    """Every initializer that changes touch; several weights are computed at once, on a thread for each core.

    Args:
        weights: the component's, by name.
        changes: what differs.

    Raises:
        RequestError: a weight that the bundle does not have or cannot change, or numbers that its dtype cannot hold.
    """

    def changed(name: str) -> list[ChangedInitializer]:
        new = changes.weights[name](np.asarray(weights.array(name), np.float32))
        places = weights.placed(name, new)
        return [ChangedInitializer(place.initializer, content) for place, content in places if place.initializer]

    with ThreadPoolExecutor(physical_cores(), "latentrt-weights") as pool:
        for initializers in pool.map(changed, changes.weights):
            yield from initializers
