"""The work of one call of a component: FLOP (2 · multiply-adds) of its graph's products, from the shapes alone.

Counted are convolutions, matrix products and attention's two products; additions, norms and activations are not, as in
PyTorch's FlopCounterMode.
"""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from latentrt.benchmarks.report.schema import Work
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Profile, Shapes

Shape = tuple[int, ...]


def work_of(bundle: Bundle, profile: Profile, told: Callable[[str], None], *, guided: bool) -> Work | None:
    """FLOP of a step and of the other components, for one picture; None where they cannot be counted."""
    parts = {
        name: Component(root=bundle.root, manifest=bundle.manifest, name=name) for name in bundle.manifest.components
    }
    encoders = [encoder.component for encoder in bundle.manifest.conditioning.text_encoders]
    halves = parts[UNET].record.batch_per_picture if guided else 1
    try:
        return Work(
            text_encoder=sum(flops_of_component(parts[name], profile, halves) for name in encoders),
            unet=flops_of_component(parts[UNET], profile, halves),
            vae_decoder=flops_of_component(parts[VAE_DECODER], profile, 1),
        )
    except Exception as error:  # onnx raises what it likes; a share of the peak is not worth a run
        told(f"FLOP are not counted: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None


def flops_of_component(component: Component, profile: Profile, batch: int) -> int:
    """FLOP of one call with so many samples at a profile's size, for prompts of one chunk."""
    spec = component.manifest.spec(component.name, Shapes(profile=profile), (batch,))
    return flops_of_graph(component.onnx, {name: tensor.sized(batch) for name, tensor in spec.inputs.items()})


def flops_of_graph(onnx_file: Path, inputs: Mapping[str, Shape]) -> int:
    """FLOP of one run.

    Args:
        onnx_file: the graph; its weights are not read.
        inputs: the shape of every input.

    Raises:
        EngineError: the package onnxscript is missing, or a shape stays unknown.
    """
    try:
        import onnx_ir
        from onnxscript.optimizer import fold_constants
    except ImportError as error:
        raise EngineError("counting FLOP needs the package onnxscript; install latentrt[bench]") from error
    model = onnx_ir.load(onnx_file)
    for tensor in model.graph.inputs:
        tensor.shape = onnx_ir.Shape(inputs[str(tensor.name)])
    for node in model.graph:
        for output in node.outputs:
            output.shape = None  # those of every size
        if node.op_type == "GroupNormalization":  # a function, where inference stops; it keeps its input's shape
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.attributes.clear()
    fold_constants(model, onnx_shape_inference=True)  # shapes that the graph computes from others become constants
    total = 0
    for node in model.graph:
        count = _COUNTS.get(node.op_type)
        if count is None:
            continue
        work = count(node)
        if work <= 0:
            raise EngineError(f"the shapes around {node.name or node.op_type!r} are unknown, so its FLOP are too")
        total += work
    return total


def _shape(value: Any) -> Shape:
    """A tensor's shape; zeros stand for sizes that are unknown."""
    return (0,) if value.shape is None else tuple(size if isinstance(size, int) else 0 for size in value.shape)


def _matmul(node: Any) -> int:
    """Every element of the output sums over the inner dimension."""
    return 2 * prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[-1]


def _gemm(node: Any) -> int:
    transposed = node.attributes.get_int("transA", 0)
    return 2 * prod(_shape(node.outputs[0])) * _shape(node.inputs[0])[0 if transposed else -1]


def _conv(weight: int) -> Callable[[Any], int]:
    """A convolution whose weights (out, in / groups, *kernel) are that input."""
    return lambda node: 2 * prod(_shape(node.outputs[0])) * prod(_shape(node.inputs[weight])[1:])


def _attention(node: Any) -> int:
    """Scores and their product with the values; four-dimensional (batch, heads, length, size)."""
    query, key, value = (_shape(tensor) for tensor in node.inputs[:3])
    if len(query) == 3:  # (batch, length, heads · size)
        heads = node.attributes.get_int("q_num_heads")
        query, key, value = ((one[0], heads, one[1], one[2] // heads) for one in (query, key, value))
    batch, heads, length, size = query
    return 2 * batch * heads * length * key[2] * (size + value[3])


_COUNTS: Mapping[str, Callable[[Any], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "Attention": _attention,
}
