"""The graph that watches itself: beside its results it gives extremes of what flows in it, and samples."""

from collections.abc import Sequence
from typing import Any

from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode

ROWS = 32  # of a matrix product's input that one run supplies
WINDOWS = 3  # of a convolution's input, each with nine outputs or more
# What the graph takes beside the U-Net's inputs: large numbers, (ROWS,) and (WINDOWS, 3) int64, whose remainders say
# which rows are sampled, and of which sample, from which row and column on, windows are
ROW_DRAWS, WINDOW_DRAWS = "latentrt.rows", "latentrt.windows"
_PICTURES = (0, 2, 3)  # the axes of a convolution's tensors without the channels'


def observed_tensors(nodes: Sequence[QuantizableNode]) -> dict[str, int]:
    """The tensors whose extremes are given, and how many samples of each: none of what is a result alone."""
    tensors = {node.input: WINDOWS if node.operator == "Conv" else ROWS for node in reversed(nodes)}
    return tensors | {node.output: 0 for node in nodes if node.operator == "Conv" and node.output not in tensors}


def observed_graph(weights: OnnxWeights, nodes: Sequence[QuantizableNode]) -> Any:
    """A graph that also gives, of every quantizable node's input, the channels' extremes and some rows or windows.

    Extremes of convolutions' outputs are among them, because some recipes round these, too. What is computed of a
    tensor stands right behind the node that makes it: whole tensors would have to stay until the end of the run.
    """
    from onnx import TensorProto, helper

    model = weights.copy_for_cpu()
    graph = model.graph
    watch = _Watch(graph)
    takers = {node.input: node for node in reversed(nodes)}
    behind: dict[str, list[Any]] = {}
    for name in observed_tensors(nodes):
        if name not in takers:
            behind[name] = watch.extremes(name, name, _PICTURES)
        elif takers[name].operator == "Conv":
            behind[name] = watch.windows(takers[name])
        else:
            behind[name] = watch.rows(takers[name])
    rewritten = [new for value in graph.input for new in behind.pop(value.name, [])]
    for node in graph.node:
        rewritten.append(node)
        rewritten += [new for name in node.output for new in behind.pop(name, [])]
    del graph.node[:]
    graph.node.extend(rewritten)
    graph.input.append(helper.make_tensor_value_info(ROW_DRAWS, TensorProto.INT64, [ROWS]))
    graph.input.append(helper.make_tensor_value_info(WINDOW_DRAWS, TensorProto.INT64, [WINDOWS, 3]))
    return model


class _Watch:
    """Makes the nodes that look at a tensor, and their outputs."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._constants: dict[tuple[int, ...], str] = {}

    def extremes(self, tensor: str, shaped: str, axes: Sequence[int]) -> list[Any]:
        """Of a tensor, as ``shaped``, over all axes but the channels'."""
        from onnx import helper

        made = []
        for kind, operator in (("lowest", "ReduceMin"), ("highest", "ReduceMax")):
            name = self._result(f"{tensor}.{kind}")
            made.append(helper.make_node(operator, [shaped, self._constant(axes)], [name], name=name, keepdims=0))
        return made

    def rows(self, node: QuantizableNode) -> list[Any]:
        """Of a matrix product's input: a prompt's or picture's rows, or one row per sample."""
        from onnx import helper

        tensor = node.input
        rows, count, places = (f"{tensor}.{name}" for name in ("rows", "count", "places"))
        samples = self._result(f"{tensor}.samples")
        return [
            helper.make_node("Reshape", [tensor, self._constant([-1, node.inputs])], [rows], name=rows),
            *self.extremes(tensor, rows, [0]),
            helper.make_node("Shape", [rows], [count], name=count, start=0, end=1),
            helper.make_node("Mod", [ROW_DRAWS, count], [places], name=places),
            helper.make_node("Gather", [rows, places], [samples], name=samples, axis=0),
        ]

    def windows(self, node: QuantizableNode) -> list[Any]:
        """Of a convolution's input; a window holds three by three outputs, or what the picture has."""
        from onnx import helper

        tensor = node.input
        made = self.extremes(tensor, tensor, _PICTURES)

        def step(operator: str, taken: list[str], name: str, **attributes: Any) -> str:
            made.append(helper.make_node(operator, taken, [f"{tensor}.{name}"], name=f"{tensor}.{name}", **attributes))
            return f"{tensor}.{name}"

        extent = [1, *(kernel + 2 * stride for kernel, stride in zip(node.kernel, node.strides, strict=True))]
        axes = self._constant(_PICTURES)
        sizes = step("Gather", [step("Shape", [tensor], "shape"), axes], "sizes")
        room = step("Sub", [sizes, self._constant([size - 1 for size in extent])], "room")
        starts = step("Mod", [WINDOW_DRAWS, step("Max", [room, self._constant([1])], "starts_within")], "starts")
        windows = []
        for index in range(WINDOWS):
            row = step("Slice", [starts, *map(self._constant, ([index], [index + 1], [0]))], f"row{index}")
            start = step("Squeeze", [row, self._constant([0])], f"start{index}")
            end = step("Add", [start, self._constant(extent)], f"end{index}")  # beyond the picture's is cut off
            windows.append(step("Slice", [tensor, start, end, axes], f"window{index}"))
        step("Concat", windows, "samples", axis=0)
        self._result(f"{tensor}.samples")
        return made

    def _constant(self, numbers: Sequence[int]) -> str:
        from onnx import TensorProto, helper

        key = tuple(numbers)
        if key not in self._constants:
            self._constants[key] = f"latentrt.constant{len(self._constants)}"
            self._graph.initializer.append(
                helper.make_tensor(self._constants[key], TensorProto.INT64, [len(key)], list(key))
            )
        return self._constants[key]

    def _result(self, name: str) -> str:
        from onnx import TensorProto, helper

        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return name
