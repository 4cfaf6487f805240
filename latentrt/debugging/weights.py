"""What two bundles' weights have to do with where their results part."""

from collections.abc import Sequence

import numpy as np

from latentrt.debugging.marks import Mark
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.spec import Array

_ROUNDING = 2.0**-7  # bf16's, twice


def different_weights(mark: Mark, suspect: ComponentWeights, reference: ComponentWeights) -> dict[str, float]:
    """Of a node's weights those that differ by more than sixteen bits round by: their relative errors, by name."""
    names = {place.initializer: name for name, row in suspect.named.weights.items() for place in row.places} | {
        rounded: name for name, row in suspect.named.weights.items() for rounded in row.rounded
    }
    far = {}
    for initializer in mark.weights:
        name = names.get(initializer) or names.get(_before_halving(initializer))
        if name is None:
            continue
        try:
            error = _relative_error(suspect.array(name), reference.array(name))
        except RequestError:  # one of the bundles cannot reach it
            continue
        if error > _ROUNDING:
            far[name] = error
    return far


def rescaled_tensors(bundle: BundleFolder, component: str, marks: Sequence[Mark]) -> frozenset[str]:
    """The tensors that SmoothQuant divides: what norms make whose weights it divided."""
    named = bundle.weights(component).named
    divided = {
        place.initializer
        for row in named.weights.values()
        for place in row.places
        if place.smoothing is not None and place.smoothing.divides
    }
    return frozenset(mark.tensor for mark in marks if divided & {*mark.weights})


def _before_halving(initializer: str) -> str:
    """What a weight was called in the graph in fp32, where it was halved to be debugged."""
    suffix = next((one.suffix for one in HALF_TYPES.values() if initializer.endswith(one.suffix)), "")
    return initializer.removesuffix(suffix)


def _relative_error(suspect: Array, reference: Array) -> float:
    if suspect.shape != reference.shape:
        return np.inf
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    distance = float(np.linalg.norm(suspect.astype(np.float64) - reference))
    return distance / norm if norm else distance
