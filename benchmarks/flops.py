"""The work of one call of a component: FLOP (2 · multiply-adds) of its graph's products, from the shapes alone.

Counted are convolutions, matrix products and attention's two products; additions, norms and activations are not, as in
PyTorch's FlopCounterMode.
"""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Profile, Shapes

Shape = tuple[int, ...]
TensorShapes = Mapping[str, Shape]


def flops_of_graph(onnx_file: Path, inputs: TensorShapes) -> int:
    """FLOP of one run.

    Args:
        onnx_file: the graph; its weights are not read.
        inputs: the shape of every input.

    Raises:
        EngineError: the package onnx is missing, or a shape stays unknown.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError("counting FLOP needs the package onnx; install latentrt[bench]") from error
    model = onnx.load(str(onnx_file), load_external_data=False)
    for tensor in model.graph.input:
        if tensor.name in inputs:
            shape = tensor.type.tensor_type.shape
            del shape.dim[:]
            for size in inputs[tensor.name]:
                shape.dim.add().dim_value = size
    shapes = _shapes(onnx, model)
    total = 0
    for node in model.graph.node:
        count = _COUNTS.get(node.op_type)
        if count is None:
            continue
        work = count(node, shapes)
        if work <= 0:
            raise EngineError(f"the shapes around {node.name or node.op_type!r} are unknown, so its FLOP are too")
        total += work
    return total


def _shapes(onnx: Any, model: Any) -> TensorShapes:
    """Every tensor's shape, from those of the inputs.

    Inference alone stops at shapes that the graph computes from others, so these are computed as far as they are
    known, and it runs again.
    """
    graph = model.graph
    for node in graph.node:
        if node.op_type == "GroupNormalization":  # a function, where inference stops too; it keeps its input's shape
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    for tensor in graph.output:
        tensor.type.tensor_type.ClearField("shape")
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and not tensor.external_data
    }
    while True:
        del graph.value_info[:]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
        if not _computed(onnx, graph, shapes, constants):
            return shapes


def _computed(onnx: Any, graph: Any, shapes: TensorShapes, constants: dict[str, Any]) -> bool:
    """Replaces whatever only computes with whole numbers, and whose inputs are known, by its result."""
    from onnx.reference import ReferenceEvaluator

    left, found = [], 0
    for node in graph.node:
        value = None
        if node.op_type == "Shape" and shapes.get(node.input[0]) and all(shapes[node.input[0]]):
            value = _shape_value(node, shapes[node.input[0]])
        elif node.op_type != "Shape" and node.input and all(name in constants for name in node.input):
            feeds = {name: constants[name] for name in node.input}
            (value,) = ReferenceEvaluator(node).run(None, feeds)
        if value is None:
            left.append(node)
            continue
        constants[node.output[0]], found = value, found + 1
        graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    if found:
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in left]
        del graph.node[:]
        graph.node.extend(kept)
    return bool(found)


def _shape_value(node: Any, shape: Shape) -> Any:
    import numpy as np

    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end")], np.int64)


def flops_of_component(component: Component, profile: Profile, batch: int) -> int:
    """FLOP of one call with so many samples at a profile's size, for prompts of one chunk."""
    spec = component.manifest.spec(component.name, Shapes(profile=profile), (batch,))
    return flops_of_graph(component.onnx, {name: tensor.sized(batch) for name, tensor in spec.inputs.items()})


def _matmul(node: Any, shapes: TensorShapes) -> int:
    """Every element of the output sums over the inner dimension."""
    return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: Any, shapes: TensorShapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]


def _conv(weight: int) -> Callable[[Any, TensorShapes], int]:
    """A convolution whose weights (out, in / groups, *kernel) are that input."""

    def count(node: Any, shapes: TensorShapes) -> int:
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])

    return count


def _attention(node: Any, shapes: TensorShapes) -> int:
    """Scores and their product with the values; four-dimensional (batch, heads, length, size)."""
    query, key, value = (shapes[node.input[place]] for place in range(3))
    if len(query) == 3:  # (batch, length, heads · size)
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "q_num_heads")
        query, key, value = ((one[0], heads, one[1], one[2] // heads) for one in (query, key, value))
    batch, heads, length, size = query
    return 2 * batch * heads * length * key[2] * (size + value[3])


_COUNTS: Mapping[str, Callable[[Any, TensorShapes], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "Attention": _attention,
}
