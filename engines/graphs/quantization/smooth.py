"""SmoothQuant in the graph: what makes activations hard to round moves into the weights (arXiv 2211.10438)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.graphs.editor import GraphEditor, computed_weight
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice, scaled
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

# Its scale and bias can be divided, and nothing is left to compute
_NORM = "LayerNormalization"


class SmoothedGraph:
    """A copy of a graph whose chosen tensors are divided by channel, and whose weights are multiplied.

    Every node that takes such a tensor computes the same as before, whether it is rounded later or not. Weights are
    multiplied when they are read. ``renamed`` tells which tensors have another name where they are divided.
    """

    def __init__(
        self, weights: OnnxWeights, nodes: Sequence[QuantizableNode], inputs: Mapping[str, InputChoice]
    ) -> None:
        """Rewrites the graph.

        Args:
            weights: the graph.
            nodes: all quantizable ones.
            inputs: what was chosen for the tensors that they take.
        """
        self.model = weights.copy()
        self.renamed: dict[str, str] = {}
        self._weights = weights
        self._editor = GraphEditor(self.model.graph)
        self._values = self._editor.values()
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

        def multiplied() -> Array:
            return scaled(self._weights.array(node.weight), node, divisor)

        weight = self._values[node.weight]
        users = [user for user, _ in weight.uses()]
        shared = any(user.name not in taking for user in users)
        name = f"{node.name}.{node.weight}.smoothed" if shared else node.weight
        tensor = computed_weight(name, weight.const_value, multiplied)
        if not shared:
            weight.const_value = tensor
            return
        (user,) = (user for user in users if user.name == node.name)
        user.replace_input_with(1, self._editor.weight(name, tensor))

    def _norm_alone(self, tensor: str, takers: set[str]) -> "ir.Node | None":
        """The norm that makes a tensor, if nothing but the takers has it and its scale and bias are weights."""
        value = self._values[tensor]
        norm = value.producer()
        if norm is None or norm.op_type != _NORM or value.is_graph_output():
            return None
        if any(node.name not in takers for node, _ in value.uses()):
            return None
        return norm if all(self._weights.shape(str(part.name)) for part in norm.inputs[1:] if part) else None

    def _divide_norm(self, norm: "ir.Node", divisor: Array) -> None:
        """Gives a norm a scale and a bias of its own, divided: equal ones of several norms are stored once."""
        for index, value in enumerate(norm.inputs):
            if index and value is not None:
                divided = np.asarray(self._weights.array(str(value.name)) / divisor, np.float32)
                own = self._editor.weight(f"{norm.name}.{value.name}.smoothed", divided)
                norm.replace_input_with(index, own)

    def _divide(self, tensor: str, takers: set[str], divisor: Array) -> None:
        import onnx_ir as ir

        value = self._values[tensor]
        factor = self._editor.weight(f"{tensor}.smoothing", (1.0 / divisor).astype(np.float32))
        takes = [node for node, _ in value.uses() if node.name in takers]
        divided = self._editor.after(value).add("Mul", value, factor, name=f"{tensor}.smoothed")
        divided.dtype = ir.DataType.FLOAT
        self.renamed[tensor] = f"{tensor}.smoothed"
        for node in takes:
            node.replace_input_with(0, divided)
