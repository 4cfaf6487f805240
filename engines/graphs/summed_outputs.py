"""Results to which a further input is added: so several control nets of one U-Net are summed where they run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.graphs.editor import GraphEditor

if TYPE_CHECKING:
    import onnx_ir as ir


def add_previous(model: "ir.Model", outputs: Mapping[str, TensorRecord]) -> None:
    """Adds to each of a graph's results an input, ``previous_<name>``, that may be left out; in place.

    Its default is one zero that is broadcast, which ONNX Runtime holds against the input's shape: of its dimensions
    none is told but their number.
    """
    import onnx_ir as ir

    editor = GraphEditor(model.graph)
    for value in list(model.graph.outputs):
        record = outputs.get(str(value.name))
        if record is None:
            continue
        name, axes = str(value.name), len(record.shape)
        default = np.zeros((1,) * axes, np.float32)
        before = editor.input(previous(name), ir.DataType.FLOAT, [None] * axes, default)
        total = editor.after(value, name).add("Add", value, before)
        total.type = value.type
        editor.give(total, value)
        value.name = f"{name}.alone"  # halving has made a .before


def require_inputs(model: "ir.Model", shapes: Mapping[str, TensorRecord]) -> None:
    """Takes the defaults from a graph's inputs and gives these their shapes, in place.

    For backends that make a constant of an input with a default.
    """
    import onnx_ir as ir

    for value in model.graph.inputs:
        record = shapes[str(value.name)]
        if record.neutral is not None:
            model.graph.initializers.pop(str(value.name), None)
            value.const_value = None
            value.shape = ir.Shape(list(record.shape))
