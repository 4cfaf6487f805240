"""Which nodes of an ONNX graph can be computed in eight bits: convolutions and products with a constant matrix."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.attention import fuse_attention
from latentrt.engines.graphs.editor import computed_weight, input_of, load_graph, scope_of, serialized, weight_of
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class QuantizableNode:
    """One of them: y = x · w, convolved or multiplied.

    ``path`` is the dotted path of the torch module that it came from, ``channels`` the axis of the weight that counts
    its outputs. ``strides`` and ``kernel`` are a convolution's.
    """

    path: str
    name: str
    operator: str
    input: str
    weight: str
    output: str
    shape: tuple[int, ...]
    channels: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def parameters(self) -> int:
        """How many numbers its weight has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def inputs(self) -> int:
        """How many channels its input has."""
        return self.shape[1 - self.channels]

    def matrix(self, weight: Array) -> Array:
        """The weight as (inputs, outputs); a convolution's inputs are the channels, and each place of its window."""
        if self.operator == "Conv":
            return weight.reshape(weight.shape[0], -1).T
        return weight if self.channels == 1 else weight.T


class OnnxWeights:
    """A graph on disk without its weights in memory; they are read one at a time."""

    def __init__(self, path: Path) -> None:
        """Reads the graph.

        Args:
            path: a graph whose external data lies beside it.

        Raises:
            EngineError: the packages that read it are missing.
        """
        try:
            self.model = load_graph(path)
        except ImportError as error:
            raise EngineError(
                "int8 needs the packages onnx and onnx_ir, of which one is not installed; install latentrt[export]"
            ) from error
        self.path = path

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a weight; None for what is no weight."""
        weight = self.model.graph.initializers.get(name)
        return None if weight is None or weight.const_value is None else tuple(weight.const_value.shape.numpy())

    def array(self, name: str) -> Array:
        """One weight; large ones are mapped from the disk."""
        return weight_of(self.model.graph.initializers[name])

    def copy(self) -> "ir.Model":
        """The graph again, to change; its large weights are the same file's."""
        return load_graph(self.path)

    def copy_for_cpu(self) -> "ir.Model":
        """A copy of the graph, to add to and to open as a session.

        Its attention is ONNX Runtime's own: the kernel of the standard operator holds the scores of all heads at once.
        """
        model = self.copy()
        fuse_attention(model)
        return model

    def write_into(self, model: "ir.Model") -> None:
        """Has every weight of a graph derived from this one written into it, where it is saved, one at a time."""
        import onnx_ir as ir

        for name, value in model.graph.initializers.items():
            stored = value.const_value
            if isinstance(stored, ir.ExternalTensor):
                value.const_value = computed_weight(name, stored, partial(self.array, name))

    def session(self, model: "ir.Model") -> Any:
        """An ONNX Runtime session on the CPU of a graph derived from this one, whose large weights are this one's.

        They stay mapped from the disk, and nodes run in the order of the list.

        Raises:
            EngineError: ONNX Runtime refuses the graph.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.enable_mem_pattern = False
        # Optimising would hold weights twice, reordered or with what is computed of them, and move nodes; the default
        # order leaves what nothing but the caller takes to the end
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.path.parent))
        # Packing would hold all weights twice
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            return onnxruntime.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise EngineError(
                f"ONNX Runtime cannot open the graph of {str(self.path)!r} ({error}); report it"
            ) from error

    def quantizable(self) -> tuple[QuantizableNode, ...]:
        """Every node that can be computed in eight bits, in the order of the graph."""
        nodes = []
        for node in self.model.graph:
            if node.op_type not in _OPERATORS:
                continue
            source, weight = str(input_of(node, 0).name), str(input_of(node, 1).name)
            shape = self.shape(weight)
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            if shape is None or self.shape(source) is not None or attributes.get("group", 1) != 1:
                continue
            nodes.append(
                QuantizableNode(
                    path=scope_of(node) or str(node.name),
                    name=str(node.name),
                    operator=node.op_type,
                    input=source,
                    weight=weight,
                    output=str(node.outputs[0].name),
                    shape=shape,
                    channels=0 if node.op_type == "Conv" or attributes.get("transB") == 1 else 1,
                    kernel=shape[2:] if node.op_type == "Conv" else (),
                    strides=tuple(attributes.get("strides", (1,) * (len(shape) - 2))),
                )
            )
        return tuple(nodes)
