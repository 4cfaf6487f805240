"""The inputs of FreeU: factors of what the first two up blocks join, and of the lowest frequencies of their skips."""

from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.unet.added_inputs import FREEU_BACKBONE, FREEU_SKIPS, freeu_blocks, freeu_modes
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.graphs.editor import GraphEditor, Insertion, dtype_of, input_of
from latentrt.engines.graphs.variants.joins import joins
from latentrt.engines.spec import BATCH, Array

if TYPE_CHECKING:
    import onnx_ir as ir


def add_freeu_inputs(model: "ir.Model", structure: UnetStructure, optional: bool) -> None:
    """Adds ``freeu_backbone`` and what belongs to it to a U-Net's graph, in place.

    Si et al. 2023, arXiv 2309.11497, as the library does it: before each join of a block, the first half of its own
    channels times b, and of the skip x + (s − 1) · low. The library takes low from a Fourier transform: it multiplies
    the four frequencies in the middle of the shifted spectrum, 0 and −1 along each side, and takes the real part of
    what comes back. ONNX's DFT has hardly a kernel; those four are two small products with the cosines and sines of
    ``runtime``'s ``freeu_modes``: low = (x · Φᵀ) · Φ.

    With control inputs they come behind these: residuals are part of the skips.

    Raises:
        EngineError: the graph joins another number of planes than the U-Net has.
    """
    editor = GraphEditor(model.graph)
    found, first = joins(model.graph, structure), 0
    blocks = freeu_blocks(structure)
    backbone, skips = (_factors(editor, name, len(blocks), optional) for name in (FREEU_BACKBONE, FREEU_SKIPS))
    place = editor.before(editor.graph[0], "freeu")
    channels = structure.middle.channels
    for index, block in enumerate(blocks):
        modes = _modes(editor, index, optional)
        factor = place.add("Gather", backbone, place.constant([index]), axis=1)
        share = place.add("Sub", place.add("Gather", skips, place.constant([index]), axis=1), _one(place))
        counts = _counts(place, share, modes) if optional else None
        widths = [channels, *[block.channels] * (block.resnets - 1)]
        halves = {width: _half(place, factor, width) for width in dict.fromkeys(widths)}
        for layer, (width, join) in enumerate(zip(widths, found[first : first + block.resnets], strict=True)):
            _scale(editor, join, halves[width], f"freeu.{index}.{layer}.backbone")
            _filter(editor, join, share, modes, counts, f"freeu.{index}.{layer}.skip")
        channels, first = block.channels, first + block.resnets


def _one(place: Insertion) -> "ir.Value":
    return place.constant(np.float32(1.0))


def _factors(editor: GraphEditor, name: str, blocks: int, optional: bool) -> "ir.Value":
    """An input of one factor per sample and block."""
    import onnx_ir as ir

    if optional:  # no dimension is told, since the default has one sample
        return editor.input(name, ir.DataType.FLOAT, [None, None], np.ones((1, blocks), np.float32))
    return editor.input(name, ir.DataType.FLOAT, [BATCH, blocks])


def _modes(editor: GraphEditor, index: int, optional: bool) -> "ir.Value":
    """The input Φ (batch, modes, h · w) of a block."""
    import onnx_ir as ir

    default: Array = np.zeros((1, 1, 0), np.float32)
    name = freeu_modes(index)
    if optional:
        return editor.input(name, ir.DataType.FLOAT, [None] * 3, default)
    return editor.input(name, ir.DataType.FLOAT, [BATCH, "freeu_modes", f"freeu_places_{index}"])


def _counts(place: Insertion, share: "ir.Value", modes: "ir.Value") -> "ir.Value":
    """Whether a block filters anything for any sample: a factor other than 1, and modes."""
    most = place.add("ReduceMax", place.add("Abs", share), keepdims=0)
    given = place.add("Greater", place.add("Size", modes), place.constant(0))
    return place.add("And", place.add("Greater", most, place.constant(np.float32(0.0))), given)


def _half(place: Insertion, factor: "ir.Value", channels: int) -> "ir.Value":
    """A factor for each of so many channels (batch, channels, 1, 1): 1 for all but the first half."""
    half = np.arange(channels).reshape(1, -1, 1, 1) < channels // 2
    return place.add("Where", place.constant(half), place.add("Unsqueeze", factor, place.constant([2, 3])), _one(place))


def _scale(editor: GraphEditor, join: "ir.Node", factors: "ir.Value", stem: str) -> None:
    """Multiplies a block's own channels."""
    import onnx_ir as ir

    value = input_of(join, 0)
    place, dtype = editor.before(join, stem), dtype_of(value)
    each = factors if dtype == ir.DataType.FLOAT else place.add("Cast", factors, to=dtype)
    scaled = place.add("Mul", value, each)
    scaled.dtype, scaled.shape = dtype, value.shape
    join.replace_input_with(0, scaled)


def _filter(
    editor: GraphEditor,
    join: "ir.Node",
    share: "ir.Value",
    modes: "ir.Value",
    counts: "ir.Value | None",
    stem: str,
) -> None:
    """Adds to a skip its lowest frequencies times s − 1; an If gives −0 for what does not count, which adds nothing."""
    value = input_of(join, 1)
    place, dtype = editor.before(join, stem), dtype_of(value)
    if counts is None:
        addend = _low(place, value, share, modes, dtype)
    else:
        then, otherwise = editor.branch(f"{stem}.given"), editor.branch(f"{stem}.none")
        nothing = otherwise.add("Identity", editor.constant(np.full((1, 1, 1, 1), -0.0, dtype.numpy())))
        addend = place.add(
            "If",
            counts,
            then_branch=then.subgraph(_low(then, value, share, modes, dtype), dtype),
            else_branch=otherwise.subgraph(nothing, dtype),
        )
    total = place.add("Add", value, addend)
    total.dtype, total.shape = dtype, value.shape
    join.replace_input_with(1, total)


def _low(place: Insertion, value: "ir.Value", share: "ir.Value", modes: "ir.Value", dtype: "ir.DataType") -> "ir.Value":
    """A plane's lowest frequencies times s − 1, computed in float32 as the library does."""
    import onnx_ir as ir

    add = place.add
    x = value if dtype == ir.DataType.FLOAT else add("Cast", value, to=ir.DataType.FLOAT)
    places = add("Reshape", x, place.constant([0, 0, -1]))
    parts = add("MatMul", places, add("Transpose", modes, perm=(0, 2, 1)))
    low = add("MatMul", add("Mul", parts, add("Unsqueeze", share, place.constant([2]))), modes)
    shaped = add("Reshape", low, add("Shape", x))
    return shaped if dtype == ir.DataType.FLOAT else add("Cast", shaped, to=dtype)
