"""Small detectors as ONNX files: a convolution finds patches of a colour, and the answer has YOLO's layouts."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 64
STRIDES = (8, 16, 32)
NAMES = {0: "red", 1: "blue"}
Array = np.ndarray[Any, Any]


def anchors(size: int = SIZE) -> Array:
    """Every anchor's centre, width and height: (4, anchors), the finest grid first, row by row."""
    boxes = []
    for stride in STRIDES:
        middles = (np.arange(size // stride) + 0.5) * stride
        rows, columns = np.meshgrid(middles, middles, indexing="ij")
        side = np.full(rows.size, stride * 1.25)
        boxes.append(np.stack([columns.ravel(), rows.ravel(), side, side]))
    return np.concatenate(boxes, axis=1).astype(np.float32)


def save_detector(
    path: Path,
    layout: str = "columns",
    *,
    size: int = SIZE,
    half: bool = False,
    dynamic: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a detector that scores each cell of three grids by how red and how blue it is.

    Args:
        path: the file.
        layout: "columns" (1, 6, A), "rows" (1, A, 6 + 1 of nothing), "objectness" (1, 3·A, 7) or "final" (1, 20, 6).
        size: of the input.
        half: whether it takes and answers float16.
        dynamic: whether the input's size is left open; it must be ``size`` all the same.
        metadata: of the file; None: the names as ultralytics writes them.
    """
    kernel = np.zeros((2, 3, 8, 8), np.float32)
    for index, (colour, others) in enumerate(((0, (1, 2)), (2, (0, 1)))):
        kernel[index, colour] = 1 / 64
        for other in others:
            kernel[index, other] = -1 / 64
    constants = {"kernel": kernel, "boxes": anchors(size)[None]}
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["cells"], strides=[8, 8]),
        helper.make_node("Relu", ["cells"], ["grid8"]),
        helper.make_node("AveragePool", ["grid8"], ["grid16"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["grid16"], ["grid32"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    constants["flat"] = np.array([1, 2, -1], np.int64)
    nodes += [helper.make_node("Reshape", [f"grid{stride}", "flat"], [f"flat{stride}"]) for stride in STRIDES]
    nodes.append(helper.make_node("Concat", [f"flat{stride}" for stride in STRIDES], ["scores"], axis=2))
    if layout == "columns":
        nodes.append(helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1))
    elif layout == "rows":
        constants["none"] = np.zeros((1, 1, anchors(size).shape[1]), np.float32)
        nodes.append(helper.make_node("Concat", ["boxes", "scores", "none"], ["wide"], axis=1))
        nodes.append(helper.make_node("Transpose", ["wide"], ["output0"], perm=[0, 2, 1]))
    elif layout == "objectness":
        constants |= {"axis": np.array([1], np.int64), "times": np.array([1, 3, 1], np.int64)}
        nodes += [
            helper.make_node("ReduceMax", ["scores", "axis"], ["object"], keepdims=1),
            helper.make_node("Concat", ["boxes", "object", "scores"], ["wide"], axis=1),
            helper.make_node("Transpose", ["wide"], ["long"], perm=[0, 2, 1]),
            helper.make_node("Tile", ["long", "times"], ["output0"]),
        ]
    else:
        centres, sides = np.split(anchors(size), 2)
        corners = np.concatenate([centres - sides / 2, centres + sides / 2]).T
        constants |= {"axis": np.array([1], np.int64), "most": np.array([20], np.int64), "corners": corners}
        constants["one"] = np.array([1], np.int64)
        nodes += [
            helper.make_node("ReduceMax", ["scores", "axis"], ["best"], keepdims=0),
            helper.make_node("TopK", ["best", "most"], ["top", "places"], axis=1),
            helper.make_node("Gather", ["corners", "places"], ["found"], axis=0),
            helper.make_node("ArgMax", ["scores"], ["classes"], axis=1, keepdims=0),
            helper.make_node("GatherElements", ["classes", "places"], ["of"], axis=1),
            helper.make_node("Cast", ["of"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["top", "two"], ["top3"]),
            helper.make_node("Unsqueeze", ["numbers", "two"], ["numbers3"]),
            helper.make_node("Concat", ["found", "top3", "numbers3"], ["output0"], axis=2),
        ]
        constants["two"] = np.array([2], np.int64)
        constants.pop("one")
    sides = ["height", "width"] if dynamic else [size, size]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    if half:
        nodes.insert(0, helper.make_node("Cast", ["halves"], ["images"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Cast", ["output0"], ["half0"], to=TensorProto.FLOAT16))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("halves" if half else "images", kind, [1, 3, *sides])],
        [helper.make_tensor_value_info("half0" if half else "output0", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"names": repr(NAMES)} if metadata is None else metadata)
    onnx.save(model, str(path))
    return path
