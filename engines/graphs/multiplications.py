"""How often a graph multiplies with its weights."""

from collections.abc import Mapping, Sequence

import numpy as np

from latentrt.engines.graphs.editor import GraphEditor
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.spec import Array


def multiplications(
    weights: OnnxWeights, nodes: Sequence[QuantizableNode], inputs: Mapping[str, Array]
) -> dict[str, int]:
    """Multiplications with each node's weight in one call, by the node's path.

    The graph is run once, and tells the shapes of its results.

    Args:
        weights: the graph.
        nodes: of its convolutions and products.
        inputs: of the call.
    """
    import onnx_ir as ir

    model = weights.copy()
    editor = GraphEditor(model.graph)
    values = editor.values()
    named = [f"{node.output}.shape" for node in nodes]
    for node, name in zip(nodes, named, strict=True):
        shape = editor.after(values[node.output]).add("Shape", values[node.output], name=name)
        editor.output(shape, ir.DataType.INT64)
    shapes = weights.session(model).run(named, dict(inputs))
    outputs = (node.shape[node.channels] for node in nodes)
    return {
        node.path: int(np.prod(shape)) * (node.parameters // count)
        for node, shape, count in zip(nodes, shapes, outputs, strict=True)
    }
