"""SmoothQuant in the graph: what makes activations hard to round moves into the weights (arXiv 2211.10438)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice, scaled
from latentrt.engines.spec import Array

# Its scale and bias can be divided, and nothing is left to compute
_NORM = "LayerNormalization"


class SmoothedGraph:
    """A copy of a graph whose chosen tensors are divided by channel, and whose weights are multiplied.

    Every node that takes such a tensor computes the same as before, whether it is rounded later or not.
    """

    def __init__(
        self, weights: OnnxWeights, nodes: Sequence[QuantizableNode], inputs: Mapping[str, InputChoice]
    ) -> None:
        """Rewrites the graph; the arrays that it changes are in ``arrays``, the others where they were.

        Args:
            weights: the graph.
            nodes: all quantizable ones.
            inputs: what was chosen for the tensors that they take.
        """
        import onnx

        self.model: Any = onnx.ModelProto()
        self.model.CopyFrom(weights.model)
        self.arrays: dict[str, Array] = {}
        self.renamed: dict[str, str] = {}
        self._weights = weights
        takers: dict[str, list[QuantizableNode]] = {}
        for node in nodes:
            takers.setdefault(node.input, []).append(node)
        for tensor, those in takers.items():
            divisor = inputs[tensor].divisor
            if divisor is None:
                continue
            taking = {node.name for node in those}
            for node in those:
                self._scale(node, taking, divisor)
            norm = self._norm_alone(tensor, taking)
            if norm is None:
                self._divide(tensor, taking, divisor)
            else:
                self._divide_norm(norm, divisor)

    def _scale(self, node: QuantizableNode, taking: set[str], divisor: Array) -> None:
        """Multiplies a node's weight, or a copy of one that others have, too: equal weights are stored once."""
        from onnx import numpy_helper

        array = scaled(self._weights.array(node.weight), node, divisor)
        users = [user for user in self.model.graph.node if node.weight in user.input]
        if all(user.name in taking for user in users):
            self.arrays[node.weight] = array
            return
        own = f"{node.name}.{node.weight}.smoothed"
        self.model.graph.initializer.append(numpy_helper.from_array(array, own))
        for user in users:
            if user.name == node.name:
                user.input[list(user.input).index(node.weight)] = own

    def _norm_alone(self, tensor: str, takers: set[str]) -> Any | None:
        """The norm that makes a tensor, if nothing but the takers has it and its scale and bias are weights."""
        graph = self.model.graph
        if any(tensor in node.input for node in graph.node if node.name not in takers):
            return None
        norm = next((node for node in graph.node if tensor in node.output), None)
        if norm is None or norm.op_type != _NORM:
            return None
        return norm if all(self._weights.shape(name) for name in norm.input[1:] if name) else None

    def _divide_norm(self, norm: Any, divisor: Array) -> None:
        """Gives a norm a scale and a bias of its own, divided: equal ones of several norms are stored once."""
        from onnx import numpy_helper

        for index, name in enumerate(norm.input):
            if index and name:
                own = f"{norm.name}.{name}.smoothed"
                divided = np.asarray(self._weights.array(name) / divisor, np.float32)
                self.model.graph.initializer.append(numpy_helper.from_array(divided, own))
                norm.input[index] = own

    def _divide(self, tensor: str, takers: set[str], divisor: Array) -> None:
        from onnx import helper, numpy_helper

        graph, name = self.model.graph, f"{tensor}.smoothed"
        factor = numpy_helper.from_array((1.0 / divisor).astype(np.float32), f"{tensor}.smoothing")
        graph.initializer.append(factor)
        first = next(index for index, node in enumerate(graph.node) if node.name in takers)
        graph.node.insert(first, helper.make_node("Mul", [tensor, factor.name], [name], name=f"node_{name}"))
        graph.value_info.append(helper.make_tensor_value_info(name, 1, None))
        self.renamed[tensor] = name
        for node in graph.node:
            if node.name in takers:
                node.input[0] = name
