"""The graph that watches itself: beside its results it gives extremes of what flows in it, and samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentrt.engines.graphs.editor import GraphEditor, Insertion, dtype_of
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode

if TYPE_CHECKING:
    import onnx_ir as ir

ROWS = 32  # of a matrix product's input that one run supplies
WINDOWS = 3  # of a convolution's input, each with nine outputs or more
# What the graph takes beside the U-Net's inputs: large numbers, (ROWS,) and (WINDOWS, PLACES) int64, whose remainders
# say which rows are sampled, and of which sample, from which row, column and frame on, windows are
ROW_DRAWS, WINDOW_DRAWS = "latentrt.rows", "latentrt.windows"
PLACES = 4


def observed_tensors(nodes: Sequence[QuantizableNode]) -> dict[str, int]:
    """The tensors whose extremes are given, and how many samples of each: none of what is a result alone."""
    tensors = {node.input: WINDOWS if node.operator == "Conv" else ROWS for node in reversed(nodes)}
    return tensors | {node.output: 0 for node in nodes if node.operator == "Conv" and node.output not in tensors}


def observed_graph(weights: OnnxWeights, nodes: Sequence[QuantizableNode], ranged: Sequence[str] = ()) -> "ir.Model":
    """A graph that also gives, of every quantizable node's input, the channels' extremes and some rows or windows.

    Of tensors that are ``ranged`` it gives the extremes of all channels together.

    Extremes of convolutions' outputs are among them, because some recipes round these, too. What is computed of a
    tensor stands right behind the node that makes it: whole tensors would have to stay until the end of the run.
    """
    import onnx_ir as ir

    model = weights.copy_for_cpu()
    editor = GraphEditor(model.graph)
    values = editor.values()
    row_draws = editor.input(ROW_DRAWS, ir.DataType.INT64, [ROWS])
    window_draws = editor.input(WINDOW_DRAWS, ir.DataType.INT64, [WINDOWS, PLACES])
    makers = {node.output: node for node in nodes}
    takers = {node.input: node for node in reversed(nodes)}
    for name in observed_tensors(nodes):
        behind = editor.after(values[name])
        tensor = _in_fp32(behind, values[name])
        if name not in takers:
            results = _extremes(behind, tensor, tensor, _axes(makers[name]))
        elif takers[name].operator == "Conv":
            results = _windows(behind, tensor, takers[name], window_draws)
        else:
            results = _rows(behind, tensor, takers[name], row_draws)
        for result in results:
            editor.output(result, ir.DataType.FLOAT)
    for name in ranged:
        behind = editor.after(values[name])
        numbers = behind.add("Reshape", values[name], behind.constant([-1, 1]), name=f"{name}.numbers")
        for result in _extremes(behind, values[name], numbers, [0]):
            editor.output(result, ir.DataType.FLOAT)
    return model


def _in_fp32(behind: Insertion, tensor: "ir.Value") -> "ir.Value":
    """A tensor of a graph in fp16 in fp32. It takes over the name, after which what is computed of it is called."""
    import onnx_ir as ir

    if dtype_of(tensor) is ir.DataType.FLOAT:
        return tensor
    wide = behind.add("Cast", tensor, name=f"{tensor.name}.wide", to=ir.DataType.FLOAT)
    wide.name, tensor.name = tensor.name, f"{tensor.name}.narrow"
    return wide


def _axes(node: QuantizableNode) -> tuple[int, ...]:
    """The axes of a convolution's tensors without the channels': sample, row, column, and of a video's frames these."""
    *frames, row, column = range(2, len(node.shape))
    return (0, row, column, *frames)


def _extremes(behind: Insertion, tensor: "ir.Value", shaped: "ir.Value", axes: Sequence[int]) -> "list[ir.Value]":
    """Of a tensor, as ``shaped``, over all axes but the channels'."""
    over = behind.constant(axes)
    return [
        behind.add(operator, shaped, over, name=f"{tensor.name}.{kind}", keepdims=0)
        for kind, operator in (("lowest", "ReduceMin"), ("highest", "ReduceMax"))
    ]


def _rows(behind: Insertion, tensor: "ir.Value", node: QuantizableNode, draws: "ir.Value") -> "list[ir.Value]":
    """Of a matrix product's input: a prompt's or picture's rows, or one row per sample."""
    rows = behind.add("Reshape", tensor, behind.constant([-1, node.inputs]), name=f"{tensor.name}.rows")
    extremes = _extremes(behind, tensor, rows, [0])
    count = behind.add("Shape", rows, name=f"{tensor.name}.count", start=0, end=1)
    places = behind.add("Mod", draws, count, name=f"{tensor.name}.places")
    return [*extremes, behind.add("Gather", rows, places, name=f"{tensor.name}.samples", axis=0)]


def _windows(behind: Insertion, tensor: "ir.Value", node: QuantizableNode, draws: "ir.Value") -> "list[ir.Value]":
    """Of a convolution's input; a window holds three by three outputs, or what the picture has, of three frames."""
    extremes = _extremes(behind, tensor, tensor, _axes(node))

    def step(operator: str, *inputs: "ir.Value", name: str) -> "ir.Value":
        return behind.add(operator, *inputs, name=f"{tensor.name}.{name}")

    constant = behind.constant
    sides = [kernel + 2 * stride for kernel, stride in zip(node.kernel, node.strides, strict=True)]
    extent = [1, *(sides[axis - 2] for axis in _axes(node)[1:])]
    axes = constant(_axes(node))
    sizes = step("Gather", step("Shape", tensor, name="shape"), axes, name="sizes")
    room = step("Sub", sizes, constant([size - 1 for size in extent]), name="room")
    draws = step("Slice", draws, *map(constant, ([0], [len(extent)], [1])), name="draws")
    starts = step("Mod", draws, step("Max", room, constant([1]), name="starts_within"), name="starts")
    windows = []
    for index in range(WINDOWS):
        row = step("Slice", starts, *map(constant, ([index], [index + 1], [0])), name=f"row{index}")
        start = step("Squeeze", row, constant([0]), name=f"start{index}")
        end = step("Add", start, constant(extent), name=f"end{index}")  # beyond the picture's is cut off
        windows.append(step("Slice", tensor, start, end, axes, name=f"window{index}"))
    return [*extremes, behind.add("Concat", *windows, name=f"{tensor.name}.samples", axis=0)]
