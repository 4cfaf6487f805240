"""Weights in eight bits alone: what is multiplied with them stays in floating point."""

from collections.abc import Sequence
from pathlib import Path

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import save_with_weights
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.pairs import Pairs


def write_with_rounded_weights(weights: OnnxWeights, nodes: Sequence[QuantizableNode], folder: Path) -> None:
    """Writes a graph whose matrices are rounded, each output channel with steps of its own.

    A ``DequantizeLinear`` stands before every node that takes one; it is ``model.onnx`` with its weights beside it.

    Args:
        weights: the graph in fp32.
        nodes: those whose matrices are rounded.
        folder: where to write; created.
    """
    model = weights.copy()
    pairs = Pairs(model, Recipe.W8)
    for node in nodes:
        pairs.round_weight(node)
    pairs.done()
    weights.write_into(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_with_weights(model, folder / "model.onnx")
