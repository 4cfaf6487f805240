"""Some layers of a graph in eight bits turned back to floating point: their weights keep what rounding left of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.graphs.editor import (
    GraphEditor,
    computed_weight,
    dtype_of,
    input_of,
    load_graph,
    save_with_weights,
    scope_of,
    weight_of,
)
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir


def write_unpaired(source: Path, chosen: Callable[[str, str], bool], graph: Path) -> tuple[str, ...]:
    """Writes a graph whose chosen layers take tensors and weights in floating point, the weights in a file beside it.

    Initializers keep their names. Where results are rounded, too, they stay so: other nodes take them.

    Args:
        source: the graph in eight bits.
        chosen: whether a layer is to be turned back, by the path of its torch module and its operator.
        graph: the file to write.

    Returns:
        The paths of the layers that were turned back.
    """
    model = load_graph(source)
    editor, turned = GraphEditor(model.graph), list[str]()
    for node in list(model.graph):
        path = scope_of(node) or str(node.name)
        if len(node.inputs) < 2 or node.inputs[1] is None or not chosen(path, node.op_type):
            continue
        tensor, weight = (_dequantizer(input_of(node, place)) for place in (0, 1))
        rounder = None if tensor is None else input_of(tensor, 0).producer()
        if weight is None or rounder is None or input_of(weight, 0).const_value is None:
            continue
        node.replace_input_with(0, input_of(rounder, 0))
        _turn_back(editor, weight)
        turned.append(path)
    editor.prune()
    graph.parent.mkdir(parents=True, exist_ok=True)
    save_with_weights(model, graph)
    return tuple(turned)


def _dequantizer(value: "ir.Value") -> "ir.Node | None":
    maker = value.producer()
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _turn_back(editor: GraphEditor, dequantizer: "ir.Node") -> None:
    """Has all that take a dequantized weight take its numbers."""
    stored, steps = input_of(dequantizer, 0), input_of(dequantizer, 1)
    dtype = dtype_of(dequantizer.outputs[0])
    axis = dequantizer.attributes["axis"].value if "axis" in dequantizer.attributes else 1
    numbers = partial(_numbers, weight_of(stored), weight_of(steps), axis, dtype.numpy())
    weight = computed_weight(str(stored.name), stored.const_value, numbers, dtype)
    del editor.graph.initializers[str(stored.name)]
    editor.rewire(dequantizer.outputs[0], editor.weight(str(stored.name), weight))


def _numbers(stored: Array, steps: Array, axis: int, dtype: "np.dtype[np.generic]") -> Array:
    shape = [1] * stored.ndim
    if steps.size > 1:
        shape[axis] = -1
    return np.asarray(stored.astype(np.float32) * steps.astype(np.float32).reshape(shape), dtype)
