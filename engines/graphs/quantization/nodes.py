"""Which nodes of an ONNX graph can be computed in eight bits: convolutions and products with a constant matrix."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.attention import fuse_attention
from latentrt.engines.spec import Array

_SCOPES = "pkg.torch.onnx.name_scopes"
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

    @property
    def input_axis(self) -> int:
        """The axis of the input that counts its channels."""
        return 1 if self.operator == "Conv" else -1

    def matrix(self, weight: Array) -> Array:
        """The weight as (inputs, outputs); a convolution's inputs are channel, row and column of its window."""
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
            EngineError: the package onnx is missing.
        """
        try:
            import onnx
        except ImportError as error:
            raise EngineError(
                "int8 needs the package onnx, which is not installed; install latentrt[export]"
            ) from error
        self.path = path
        self.model: Any = onnx.load(str(path), load_external_data=False)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a weight; None for what is no weight."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.dims)

    def array(self, name: str) -> Array:
        """One weight; large ones are mapped from the disk."""
        from onnx import helper, numpy_helper

        tensor = self._tensors[name]
        if not tensor.external_data:
            return np.asarray(numpy_helper.to_array(tensor))
        place = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self.path.parent / place["location"],
            dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
            mode="r",
            offset=int(place.get("offset", 0)),
            shape=tuple(tensor.dims),
        )

    def copy_for_cpu(self) -> Any:
        """A copy of the graph, to add to and to open as a session.

        Its attention is ONNX Runtime's own: the kernel of the standard operator holds the scores of all heads at once.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        fuse_attention(model)
        return model

    def session(self, model: Any) -> Any:
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
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise EngineError(
                f"ONNX Runtime cannot open the graph of {str(self.path)!r} ({error}); report it"
            ) from error

    def quantizable(self) -> tuple[QuantizableNode, ...]:
        """Every node that can be computed in eight bits, in the order of the graph."""
        found = []
        for node in self.model.graph.node:
            if node.op_type not in _OPERATORS:
                continue
            shape = self.shape(node.input[1])
            attributes = {attribute.name: attribute for attribute in node.attribute}
            grouped = "group" in attributes and attributes["group"].i != 1
            if shape is None or self.shape(node.input[0]) is not None or grouped:
                continue
            turned = "transB" in attributes and attributes["transB"].i == 1
            found.append(
                QuantizableNode(
                    path=_path(node),
                    name=node.name,
                    operator=node.op_type,
                    input=node.input[0],
                    weight=node.input[1],
                    output=node.output[0],
                    shape=shape,
                    channels=0 if node.op_type == "Conv" or turned else 1,
                    kernel=tuple(shape[2:]) if node.op_type == "Conv" else (),
                    strides=tuple(attributes["strides"].ints) if "strides" in attributes else (1,) * (len(shape) - 2),
                )
            )
        return tuple(found)


def _path(node: Any) -> str:
    """The dotted path of the torch module that a node came from; its own name where the graph does not say."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            modules = [path for path in ast.literal_eval(entry.value)[:-1] if path]
            return str(modules[-1] if modules else node.name)
    return str(node.name)
