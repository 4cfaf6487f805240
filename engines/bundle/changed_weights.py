"""Changed weights as a component's graph stores them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from latentrt.engines.bundle.number_format import format_of
from latentrt.engines.bundle.rounding import bias_steps, channel_steps, rounded, rounded_bias, steps_for_bias
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.machine import physical_cores
from latentrt.engines.spec import Array


class ChangedInitializer(NamedTuple):
    """An initializer of the component's ONNX by name, and its new content in the shape and dtype stored there.

    Of bfloat16 and float8, which NumPy lacks, these are the bits (uint16, uint8).
    """

    name: str
    content: Array


def changed_initializers(weights: ComponentWeights, changes: Changes) -> Iterator[ChangedInitializer]:
    """Every initializer that changes touch; several weights are computed at once, on a thread for each core.

    A weight in eight bits comes with its scales and, where the graph has its bias in multiples of them, with the bias.

    Args:
        weights: the component's, by name.
        changes: what differs.

    Raises:
        RequestError: a weight that the bundle does not have or cannot change, or numbers that its dtype cannot hold.
    """

    def changed(name: str) -> list[ChangedInitializer]:
        new, initializers = _changed(weights, changes, name)
        for initializer, matrix in weights.rounded(name).items():
            if matrix.weight == name:
                initializers += _rounded(weights, changes, initializer, new)
            elif matrix.weight not in changes.weights:  # else the bias comes with it
                initializers += _rounded(weights, changes, initializer, None)
        return initializers

    cores = physical_cores()
    with ThreadPoolExecutor(cores, "latentrt-weights") as pool:
        names, computed = iter(changes.weights), deque[Future[list[ChangedInitializer]]]()
        computed.extend(pool.submit(changed, name) for name in islice(names, cores + 1))
        while computed:  # a caller that is slower than that does not find all of them in memory
            initializers = computed.popleft().result()
            computed.extend(pool.submit(changed, name) for name in islice(names, 1))
            yield from initializers


def _changed(weights: ComponentWeights, changes: Changes, name: str) -> tuple[Array, list[ChangedInitializer]]:
    """A weight's new values, checked, and the initializers that hold them in floating point."""
    new = changes.weights[name](np.asarray(weights.array(name), np.float32))
    weights.release(name)
    places = weights.placed(name, new)
    return new, [ChangedInitializer(place.initializer, content) for place, content in places if place.initializer]


def _rounded(
    weights: ComponentWeights, changes: Changes, initializer: str, weight: Array | None
) -> Iterator[ChangedInitializer]:
    """An eight-bit initializer, its scales and its biases; without a new weight, what its new biases need alone."""
    matrix = weights.named.rounded[initializer]
    numbers = format_of(matrix.precision)
    smoothed = None if weight is None else weights.smoothed(matrix, weight)
    old = weights.steps(matrix)
    steps = old if smoothed is None else channel_steps(smoothed, matrix.axis, numbers, matrix.largest)
    biases = {
        row: _changed(weights, changes, row.bias)[0] if row.bias in changes.weights else weights.bias(row)
        for row in matrix.biases
    }
    for row, bias in biases.items():
        steps = steps_for_bias(steps, bias, row.input_step)
    if smoothed is None and not np.array_equal(steps, old):
        smoothed = weights.unrounded(initializer)
    if smoothed is not None:
        yield ChangedInitializer(initializer, rounded(smoothed, steps, matrix.axis, numbers))
        yield ChangedInitializer(matrix.scale, steps.astype(matrix.scale_dtype))
    for row, bias in biases.items():
        multiples = bias_steps(steps, row.input_step)
        if smoothed is not None:
            yield ChangedInitializer(row.scale, multiples)
        yield ChangedInitializer(row.initializer, rounded_bias(bias, multiples))
