"""The layers that can be pruned, by the names of their weights, and how a layer is pruned best."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.records.sparsity import Criterion
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.observe import Observed
from latentrt.engines.graphs.quantization.ranges import results_of_samples
from latentrt.engines.pruning.two_of_four import GROUP, two_of_four
from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class PrunableLayer:
    """A convolution or a product whose weight is its own: ``weight`` is its name in the checkpoint."""

    node: QuantizableNode
    weight: str

    @property
    def path(self) -> str:
        """The dotted path of the torch module."""
        return self.node.path


def prunable_layers(graph: OnnxWeights, weights: ComponentWeights) -> Iterator[PrunableLayer]:
    """Every layer of a graph whose inputs are a multiple of four, and whose weight nothing else takes."""
    names: dict[str, list[str]] = {}
    for name, row in weights.named.weights.items():
        for place in row.places:
            if place.initializer is not None:
                names.setdefault(place.initializer, []).append(name)
    for node in graph.quantizable():
        named = names.get(node.weight, [])
        takers = graph.model.graph.initializers[node.weight].uses()
        if len(named) == len(takers) == 1 and node.inputs % GROUP == 0:
            yield PrunableLayer(node=node, weight=named[0])


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How a layer is pruned: by |W| times ``norms`` (inputs,), and the share of its results' energy that is lost."""

    criterion: Criterion
    norms: Array
    error: float

    def __call__(self, weight: Array) -> Array:
        """The layer's weight in torch's layout, pruned."""
        return pruned_by(weight, self.norms)


def pruned_by(weight: Array, norms: Array) -> Array:
    """A weight (outputs, inputs, …) with two of four left: those whose |W| times the norm of their input is largest."""
    importance = np.abs(weight) * np.expand_dims(norms, tuple(range(1, weight.ndim - 1)))
    return np.where(two_of_four(importance), weight, weight.dtype.type(0))  # a product would make some of them -0


def best_pruned(layer: PrunableLayer, weight: Array, seen: Observed) -> Pruned:
    """How a layer loses least on what was sampled of its input: by Wanda, or by magnitude alone.

    Args:
        layer: it.
        weight: its weight in torch's layout.
        seen: what its input was while calibrating.
    """
    samples = np.concatenate(seen.samples).astype(np.float32)
    exact = results_of_samples(samples, _as_stored(layer.node, weight), layer.node)
    energy = float(np.square(exact).sum())

    def tried(criterion: Criterion, norms: Array) -> Pruned:
        stored = _as_stored(layer.node, pruned_by(weight, norms))
        lost = float(np.square(results_of_samples(samples, stored, layer.node) - exact).sum())
        return Pruned(criterion=criterion, norms=norms, error=lost / energy if energy else 0.0)

    norms = input_norms(samples)
    wanda, magnitude = tried(Criterion.WANDA, norms), tried(Criterion.MAGNITUDE, np.ones_like(norms))
    return wanda if wanda.error <= magnitude.error else magnitude


def input_norms(samples: Array) -> Array:
    """The root mean square (C,) of each channel over sampled rows (n, C) or windows (n, C, …)."""
    others = (0, *range(2, samples.ndim))
    return np.asarray(np.sqrt(np.mean(np.square(samples, dtype=np.float64), axis=others)), np.float32)


def _as_stored(node: QuantizableNode, weight: Array) -> Array:
    """A weight in torch's layout as the node's own."""
    if node.operator == "Conv":
        return weight.reshape(node.shape)
    matrix = weight.reshape(weight.shape[0], -1)
    return matrix if node.channels == 0 else matrix.T
