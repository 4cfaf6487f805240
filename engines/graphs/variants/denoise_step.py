"""A step of a run around a U-Net: input scaling, guidance, the solver's update and what inpainting keeps, in one graph.

It is written around the graph as a file holds it, not as onnx_ir does: of what ONNX Runtime compiled, onnx_ir would
lose where packed weights are.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.bundle.unet.denoise_step import (
    CHANNELS,
    DENOISED,
    KEPT_CLEAN,
    KEPT_MASK,
    KEPT_NOISE,
    NEXT_SAMPLE,
    NEXT_STATE,
    NOISE,
    OTHER_PASSES,
    OUT_SAMPLE,
    RESULTS,
    ROW,
    ROW_PARTS,
    SAMPLE,
    STATE,
    TERMS,
    VECTORS,
)
from latentrt.engines.errors import EngineError

if TYPE_CHECKING:
    import onnx

_PREFIX = "denoise_step."
_LEAST_SPREAD = 1e-30  # rows that fill up a batch may be all alike
_BEFORE = f"""
    {", ".join(ROW_PARTS)} = Split <axis = 1> (row, row_sizes)
    x = Gather <axis = 1> (state, zero)
    scale = Unsqueeze (input_scale, planes)
    scaled = Mul (x, scale)
"""
_GUIDANCE = """
    row_shape = Shape (row)
    batch = Gather (row_shape, zero)
    own_rows = Range (zero, batch, one)
    own_places = Unsqueeze (own_rows, first)
    relative = Cast <to = 7> (passes)
    places = Add (own_places, relative)
    predictions = Gather <axis = 0> (prediction, places)
    base, others = Split <axis = 1> (predictions, pass_sizes)
    differences = Sub (others, base)
    weights_of = Unsqueeze (weights, planes_and_channels)
    weighed = Mul (differences, weights_of)
    total = ReduceSum <keepdims = 0> (weighed, first)
    away_from = Squeeze (base, first)
    combined = Add (away_from, total)
    conditional = Gather <axis = 1> (predictions, one)
    conditional_mean = ReduceMean (conditional, all_but_batch)
    conditional_rest = Sub (conditional, conditional_mean)
    conditional_spread = ReduceSumSquare (conditional_rest, all_but_batch)
    combined_mean = ReduceMean (combined, all_but_batch)
    combined_rest = Sub (combined, combined_mean)
    combined_spread = ReduceSumSquare (combined_rest, all_but_batch)
    some_spread = Max (combined_spread, least)
    spreads = Div (conditional_spread, some_spread)
    ratio = Sqrt (spreads)
    share = Unsqueeze (rescale, planes)
    scaled_ratio = Mul (share, ratio)
    rest = Sub (unit, share)
    factor = Add (scaled_ratio, rest)
    guided = Mul (combined, factor)
"""
_UPDATE = """
    guided_term = Unsqueeze (guided, first)
    noise_term = Unsqueeze (noise, first)
    terms = Concat <axis = 1> (state, guided_term, base, noise_term)
    flat_terms = Reshape (terms, term_sizes)
    matrix = Reshape (update, matrix_sizes)
    results = MatMul (matrix, flat_terms)
    new_x, new_vectors, clean = Split <axis = 1> (results, result_sizes)
    plane_sizes = Shape (x)
    solved = Reshape (new_x, plane_sizes)
    kept_shares = Unsqueeze (kept, planes)
    of_clean, of_noise = Split <axis = 1> (kept_shares, both)
    clean_part = Mul (of_clean, kept_clean)
    noise_part = Mul (of_noise, kept_noise)
    kept_part = Add (clean_part, noise_part)
    kept_where = Sub (unit, kept_mask)
    kept_there = Mul (kept_where, kept_part)
    solved_there = Mul (kept_mask, solved)
    next_x = Add (kept_there, solved_there)
    flat_x = Reshape (next_x, vector_sizes)
    next_vectors = Concat <axis = 1> (flat_x, new_vectors)
    state_sizes = Shape (state)
    next_state = Reshape (next_vectors, state_sizes)
    denoised = Reshape (clean, plane_sizes)
    next_scale = Unsqueeze (next_input_scale, planes)
    next_sample = Mul (next_x, next_scale)
"""


def add_denoise_step(graph: "onnx.GraphProto") -> None:
    """Puts the step around a U-Net's graph, in place: ``engines/bundle/unet/denoise_step.py`` has its tensors.

    Raises:
        EngineError: a graph that does not take latents, and give a prediction, of four dimensions.
    """
    from onnx import TensorProto, helper

    sample, out = _value(graph.input, SAMPLE), _value(graph.output, OUT_SAMPLE)
    (batch, seen, *sides), (_, latents, *_) = _sizes(sample), _sizes(out)
    more = seen - latents
    before = _nodes(_BEFORE)
    if more:
        before.append(helper.make_node("Concat", ["scaled", CHANNELS], ["seen"], axis=1))
    before.append(
        helper.make_node("Cast", ["seen" if more else "scaled"], [SAMPLE], to=sample.type.tensor_type.elem_type)
    )
    cast = helper.make_node("Cast", [OUT_SAMPLE], ["prediction"], to=TensorProto.FLOAT)
    after = [cast, *_nodes(_GUIDANCE + _UPDATE)]
    plane = [batch, latents, *sides]
    taken = {
        STATE: [batch, VECTORS, *plane[1:]],
        ROW: [batch, sum(ROW_PARTS.values())],
        **({CHANNELS: [batch, more, *sides]} if more else {}),
        NOISE: plane,
        KEPT_MASK: [batch, 1, *sides],
        KEPT_CLEAN: plane,
        KEPT_NOISE: plane,
    }
    given = {NEXT_STATE: taken[STATE], DENOISED: plane, NEXT_SAMPLE: plane}
    outside = {SAMPLE, OUT_SAMPLE, *taken, *given}
    constants = _constants()
    for names in (names for node in (*before, *after) for names in (node.input, node.output)):
        names[:] = [name if name in outside else _PREFIX + name for name in names]
    inner = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *inner, *after])
    graph.initializer.extend(constants)
    graph.input.remove(sample)
    del graph.output[:]
    for values, tensors in ((graph.input, taken), (graph.output, given)):
        values.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in tensors.items())


def steps_of(content: bytes) -> bytes:
    """A U-Net's graph as a file holds it, with the step around it.

    Raises:
        EngineError: as ``add_denoise_step``.
    """
    from onnx import ModelProto

    model = ModelProto.FromString(content)
    add_denoise_step(model.graph)
    return bytes(model.SerializeToString())


def _value(values: Iterable["onnx.ValueInfoProto"], name: str) -> "onnx.ValueInfoProto":
    found = next((value for value in values if value.name == name), None)
    if found is None or len(found.type.tensor_type.shape.dim) != 4:
        raise EngineError(
            f"got a U-Net's graph without {name!r} of four dimensions, expected one that draws pictures; draw with the "
            "loop on the host"
        )
    return found


def _sizes(value: "onnx.ValueInfoProto") -> list[Any]:
    """Its dimensions: names, or numbers."""
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _nodes(text: str) -> list["onnx.NodeProto"]:
    """The nodes of a text in ONNX's own notation."""
    from onnx import parser

    return list(parser.parse_graph(f"step () => () {{ {text} }}").node)


def _constants() -> list["onnx.TensorProto"]:
    """The numbers that the nodes take."""
    from onnx import numpy_helper

    whole: dict[str, Any] = {
        "row_sizes": list(ROW_PARTS.values()),
        "pass_sizes": [1, OTHER_PASSES],
        "result_sizes": [1, VECTORS - 1, 1],
        "matrix_sizes": [0, RESULTS, TERMS],
        "term_sizes": [0, TERMS, -1],
        "vector_sizes": [0, 1, -1],
        "both": [1, 1],
        "first": [1],
        "planes": [2, 3],
        "planes_and_channels": [2, 3, 4],
        "all_but_batch": [1, 2, 3],
        "zero": 0,
        "one": 1,
    }
    arrays = {name: np.asarray(numbers, np.int64) for name, numbers in whole.items()}
    arrays |= {"unit": np.asarray(1.0, np.float32), "least": np.asarray(_LEAST_SPREAD, np.float32)}
    return [numpy_helper.from_array(array, _PREFIX + name) for name, array in arrays.items()]
