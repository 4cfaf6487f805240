"""Ranges and smoothing, chosen by the error that they leave in the nodes' own results."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.observe import Observations, Observed
from latentrt.engines.graphs.quantization.recipe import Range, rounded_weight
from latentrt.engines.spec import Array

# Of the timesteps' extremes: 100 is the widest, less leaves out the timesteps that went furthest
_PERCENTILES = (100.0, 99.0, 95.0, 90.0)
# Of that range: clipping the rare large numbers leaves finer steps for the rest
_SHRINK = (1.0, 0.9, 0.8, 0.7, 0.6)
# SmoothQuant's migration strengths (arXiv 2211.10438, eq. 4); None smooths nothing
_ALPHAS = (None, 0.4, 0.5, 0.6, 0.7, 0.8)
_TINY = np.float32(1e-5)


@dataclass(frozen=True, kw_only=True)
class InputChoice:
    """How one tensor is rounded on its way into the nodes that take it.

    ``divisor`` (C,) divides its channels first and multiplies the weights' (SmoothQuant); None where that does not pay.
    ``error`` is the share of the results' energy that is lost, over all nodes that take the tensor.
    """

    range: Range
    divisor: Array | None
    alpha: float | None
    error: float


def choose_inputs(
    weights: OnnxWeights, nodes: Sequence[QuantizableNode], observations: Observations, recipe: Recipe
) -> Iterator[tuple[str, InputChoice]]:
    """For every tensor that quantizable nodes take, in the order of the graph, what loses least."""
    takers: dict[str, list[QuantizableNode]] = {}
    for node in nodes:
        takers.setdefault(node.input, []).append(node)
    for tensor, those in takers.items():
        yield tensor, _choice(weights, those, observations.tensors[tensor], recipe)


def output_ranges(nodes: Sequence[QuantizableNode], observations: Observations, recipe: Recipe) -> Mapping[str, Range]:
    """The ranges of results that a recipe rounds, too: the widest ever seen."""
    ranges = {}
    for node in nodes:
        if node.operator in recipe.quantizes_outputs:
            low, high = observations.tensors[node.output].bounds
            ranges[node.output] = Range(lowest=float(low.min()), highest=float(high.max()))
    return ranges


def _choice(weights: OnnxWeights, nodes: Sequence[QuantizableNode], seen: Observed, recipe: Recipe) -> InputChoice:
    inputs = _Inputs(weights, nodes, seen, recipe)
    # A convolution's channels have one range: what divides them could not be undone behind its activation
    alphas = _ALPHAS if nodes[0].operator != "Conv" else (None,)
    strengths = [inputs.smoothed(alpha) for alpha in alphas]
    best = strengths[0]
    if len(strengths) > 1:  # first the strength at the full range, then the range at that strength
        lost = inputs.lost([(one, one.candidates[:1]) for one in strengths])
        best = strengths[int(np.argmin(lost))]
    lost = inputs.lost([(best, best.candidates)])
    chosen = int(np.argmin(lost))
    return InputChoice(range=best.candidates[chosen], divisor=best.divisor, alpha=best.alpha, error=lost[chosen])


@dataclass(frozen=True, kw_only=True)
class _Smoothed:
    """A tensor at one strength of smoothing: the ranges that may be right, the widest one first."""

    alpha: float | None
    divisor: Array | None
    candidates: list[Range]


class _Inputs:
    """One tensor and the nodes that take it: hundreds take the prompt, so their weights are read one at a time."""

    def __init__(self, weights: OnnxWeights, nodes: Sequence[QuantizableNode], seen: Observed, recipe: Recipe) -> None:
        self._weights, self._nodes, self._seen, self._recipe = weights, nodes, seen, recipe
        self._samples = np.concatenate(seen.samples).astype(np.float32)
        self._of_weights = np.max([_largest(weights.array(node.weight), node) for node in nodes], axis=0)

    def smoothed(self, alpha: float | None) -> _Smoothed:
        """Divisor and candidates at a strength."""
        low: Array = np.array(self._seen.lowest, np.float32)
        high: Array = np.array(self._seen.highest, np.float32)
        divisor: Array | None = None
        if alpha is not None:
            divisor = _divisor(self._seen.channel_peaks, self._of_weights, alpha)
            low, high = np.asarray(low / divisor), np.asarray(high / divisor)
        candidates = list(_candidates(low.min(axis=1), high.max(axis=1)))
        return _Smoothed(alpha=alpha, divisor=divisor, candidates=candidates)

    def lost(self, tried: Sequence[tuple[_Smoothed, Sequence[Range]]]) -> list[float]:
        """For every range at every strength the share of the results' energy that rounding loses."""
        lost = np.zeros(sum(len(ranges) for _, ranges in tried))
        energy = 0.0
        for node in self._nodes:
            weight = np.asarray(self._weights.array(node.weight), np.float32)
            exact = results_of_samples(self._samples, weight, node)
            energy += float(np.square(exact).sum())
            index = 0
            for strength, ranges in tried:
                divisor = strength.divisor
                samples = self._samples if divisor is None else self._samples / divisor
                rounded = rounded_weight(
                    weight if divisor is None else scaled(weight, node, divisor), node.channels, self._recipe
                )
                for candidate in ranges:
                    result = results_of_samples(candidate.rounded(samples, self._recipe), rounded, node)
                    lost[index] += float(np.square(result - exact).sum())
                    index += 1
        return [float(error) / energy if energy else 0.0 for error in lost]


def _candidates(low: Array, high: Array) -> Iterator[Range]:
    """Ranges to try: percentiles over the timesteps, and narrower ones."""
    spans = {
        (float(np.percentile(low, 100.0 - percentile)), float(np.percentile(high, percentile))): None
        for percentile in _PERCENTILES
    }
    for lowest, highest in spans:
        for factor in _SHRINK:
            yield Range(lowest=factor * min(lowest, 0.0), highest=factor * max(highest, 0.0))


def _largest(array: Array, node: QuantizableNode) -> Array:
    """The largest magnitude that a weight has for each channel of its input, or for each place of a window."""
    matrix = node.matrix(array)
    return np.asarray(np.maximum(matrix.max(axis=1), -matrix.min(axis=1)))


def _divisor(peaks: Array, of_weights: Array, alpha: float) -> Array:
    """max|X|^α / max|W|^(1−α) of every channel (SmoothQuant, eq. 4), W over all nodes that take the tensor."""
    divisor = np.maximum(peaks, _TINY) ** alpha / np.maximum(of_weights, _TINY) ** (1.0 - alpha)
    return np.asarray(np.maximum(divisor, _TINY), np.float32)


def scaled(array: Array, node: QuantizableNode, divisor: Array) -> Array:
    """A matrix whose inputs are multiplied by what the tensor was divided by."""
    return array * (divisor[:, None] if node.channels == 1 else divisor[None, :])


def results_of_samples(samples: Array, array: Array, node: QuantizableNode) -> Array:
    """What a node makes of sampled rows (n, C), or of the insides of windows (n, C, …): (m, outputs)."""
    if node.operator != "Conv":
        return np.asarray(samples @ node.matrix(array))
    kernel = tuple(map(min, node.kernel, samples.shape[2:]))
    axes = tuple(range(2, samples.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(samples, kernel, axis=axes)
    seen = seen[:, :, *(slice(None, None, stride) for stride in node.strides)]
    rows = np.moveaxis(seen, 1, samples.ndim - 1).reshape(-1, samples.shape[1] * math.prod(kernel))
    cut = array[:, :, *map(slice, kernel)]
    return np.asarray(rows @ cut.reshape(len(array), -1).T)
