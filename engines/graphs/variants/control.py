"""The inputs of control nets and T2I-Adapters: what is added to planes on their way through a U-Net."""

from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import MID_RESIDUAL, down_residual, feature, feature_planes
from latentrt.engines.bundle.unet.structure import Plane, UnetStructure
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.editor import GraphEditor, dtype_of, input_of
from latentrt.engines.graphs.variants.joins import joins
from latentrt.engines.spec import BATCH

if TYPE_CHECKING:
    import onnx_ir as ir

_TAKES_INT8 = frozenset({"Conv", "Gemm", "MatMul"})


def add_control_inputs(model: "ir.Model", structure: UnetStructure, optional: bool) -> None:
    """Adds ``down_residual_<i>``, ``mid_residual`` and ``feature_<i>`` to a U-Net's graph, in place.

    As the library does it: a residual is for the copy of a plane that an up block takes, a feature for the plane
    itself. The mid block's result gets its feature first, then its residual.

    Raises:
        EngineError: the graph joins another number of planes than the U-Net has.
    """
    editor = GraphEditor(model.graph)
    found = joins(model.graph, structure)
    features = feature_planes(structure)
    ends = _block_ends(structure)
    for index, plane in enumerate(features):
        value = input_of(found[-1 - ends[index]], 1) if index < len(ends) else input_of(found[0], 0)
        _replace_by_sum(editor, value, _sum(editor, value, feature(index), plane, optional))
    middle = input_of(found[0], 0)
    total = _sum(editor, middle, MID_RESIDUAL, structure.middle, optional)
    if structure.mid.resnets:
        _replace_by_sum(editor, middle, total)
    else:  # what the first up block takes is the last skip, too, which has a residual of its own
        found[0].replace_input_with(0, total)
    for index, (join, plane) in enumerate(zip(reversed(found), structure.skips, strict=True)):
        join.replace_input_with(1, _sum(editor, input_of(join, 1), down_residual(index), plane, optional))


def _block_ends(structure: UnetStructure) -> list[int]:
    """Per down block, which of the skips is its feature's: of a block with cross-attention its last layer's."""
    ends, end = [], 0
    for block in structure.down:
        end += block.resnets
        ends.append(end + (block.resamples and not block.attentions))
        end += block.resamples
    return ends


def _sum(editor: GraphEditor, value: "ir.Value", name: str, plane: Plane, optional: bool) -> "ir.Value":
    """A value with a new input added to it, in the value's own precision."""
    import onnx_ir as ir

    if optional:  # no dimension is told, since the default has but one number
        given = editor.input(name, ir.DataType.FLOAT, [None] * 4, np.zeros((1, 1, 1, 1), np.float32))
    else:
        sides = [f"{side}_{plane.level}" for side in ("height", "width")]
        given = editor.input(name, ir.DataType.FLOAT, [BATCH, plane.channels, *sides])
    place = editor.after(value, name)
    dtype = dtype_of(value)
    addend = given if dtype == ir.DataType.FLOAT else place.add("Cast", given, to=dtype, name=f"{name}.cast")
    total = place.add("Add", value, addend, name=f"{name}.sum")
    total.dtype, total.shape = dtype, value.shape
    return total


def _replace_by_sum(editor: GraphEditor, value: "ir.Value", total: "ir.Value") -> None:
    """Gives a sum to all that took one of its terms.

    A node in eight bits that took a dequantized value takes the sum in the same eight bits: else it would compute in
    floating point.
    """
    dequantize, adding = value.producer(), total.producer()
    takers = [(node, index) for node, index in value.uses() if node is not adding]
    rounded = [(node, index) for node, index in takers if index == 0 and node.op_type in _TAKES_INT8]
    if dequantize is not None and dequantize.op_type == "DequantizeLinear" and rounded:
        quantize = input_of(dequantize, 0).producer()
        if quantize is None:
            raise EngineError(f"got a graph that dequantizes a weight as {value.name!r}; build the bundle again")
        place = editor.after(total, str(total.name))
        codes = place.add_like(quantize, total, *quantize.inputs[1:])
        again = place.add_like(dequantize, codes, *dequantize.inputs[1:])
        again.dtype = dtype_of(value)
        for node, index in rounded:
            node.replace_input_with(index, again)
    editor.rewire(value, total, but=[node for node in (adding,) if node is not None])
