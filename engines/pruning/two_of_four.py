"""The pattern 2:4: of four inputs in a row two have weights, for every output on its own."""

from itertools import combinations

import numpy as np

from latentrt.engines.spec import Array

GROUP, KEPT = 4, 2


def two_of_four(importance: Array) -> Array:
    """Which weights stay: of every four inputs in a row the two most important ones, of equal ones the first.

    Args:
        importance: of weights in torch's layout (outputs, inputs, …); the inputs are a multiple of four.

    Returns:
        A mask of that shape.
    """
    outputs, inputs, *window = importance.shape
    grouped = importance.reshape(outputs, inputs // GROUP, GROUP, *window)
    ahead = np.zeros(grouped.shape, np.int8)  # how many of its group are more important
    for first, second in combinations(range(GROUP), 2):
        first_wins = grouped[:, :, first] >= grouped[:, :, second]
        ahead[:, :, second] += first_wins
        ahead[:, :, first] += ~first_wins
    return (ahead < KEPT).reshape(importance.shape)


def is_two_of_four(weight: Array, axis: int = 1) -> bool:
    """Whether a weight has that pattern along an axis, which counts its inputs."""
    inputs = np.moveaxis(weight, axis, -1)
    if inputs.shape[-1] % GROUP:
        return False
    counts = np.count_nonzero(inputs.reshape(*inputs.shape[:-1], -1, GROUP), axis=-1)
    return bool(counts.max(initial=0) <= KEPT)
