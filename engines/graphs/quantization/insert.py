"""A component's graph in eight bits, at the ranges that were chosen; for CPUs ONNX Runtime's quantizer writes it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import GraphEditor, input_of, save_with_weights
from latentrt.engines.graphs.quantization.attention import RoundedAttention
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.pairs import Pairs
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.graphs.quantization.smooth import SmoothedGraph

if TYPE_CHECKING:
    import onnx_ir as ir


def write_quantized(
    weights: OnnxWeights,
    nodes: Sequence[QuantizableNode],
    inputs: Mapping[str, InputChoice],
    outputs: Mapping[str, Range],
    recipe: Recipe,
    folder: Path,
    attentions: Sequence[RoundedAttention] = (),
) -> None:
    """Writes a graph in which ``nodes`` compute in eight bits, as ``model.onnx`` with its weights beside it.

    Args:
        weights: the graph in fp32.
        nodes: of its quantizable nodes those that shall.
        inputs: how the tensors they take are rounded and smoothed.
        outputs: the ranges of results, where the recipe rounds them.
        recipe: the types.
        folder: where to write; created.
        attentions: those that are rounded, too, where the recipe can.
    """
    smoothed = SmoothedGraph(weights, weights.quantizable(), inputs)
    chosen = {node.input for node in nodes}
    ranges = {name: choice.range for name, choice in inputs.items() if name in chosen}
    if recipe.symmetric:
        model = _with_pairs(smoothed, nodes, ranges, recipe, attentions)
        weights.write_into(model)
    else:
        weights.write_into(smoothed.model)
        renamed = {smoothed.renamed.get(name, name): span for name, span in ranges.items()}
        model = _quantized_by_onnxruntime(smoothed.model, nodes, renamed, outputs, recipe)
    model.metadata_props.clear()
    folder.mkdir(parents=True, exist_ok=True)
    save_with_weights(model, folder / "model.onnx")


def _with_pairs(
    smoothed: SmoothedGraph,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    recipe: Recipe,
    attentions: Sequence[RoundedAttention],
) -> "ir.Model":
    """Inputs and weights rounded; biases and results stay in floating point, as TensorRT wants it."""
    pairs = Pairs(smoothed.model, recipe)
    for node in nodes:
        pairs.round_input(node, ranges[node.input])
        pairs.round_weight(node)
    for attention in attentions:
        pairs.round_attention(attention)
    pairs.done()
    return smoothed.model


def _quantized_by_onnxruntime(
    model: "ir.Model",
    nodes: Sequence[QuantizableNode],
    inputs: Mapping[str, Range],
    outputs: Mapping[str, Range],
    recipe: Recipe,
) -> "ir.Model":
    """What ONNX Runtime's quantizer makes of a graph: what its kernels for CPUs take.

    Args:
        model: the graph, its weights written into it.
        nodes: what is quantized.
        inputs: the ranges of tensors that they take, by name.
        outputs: those of results, where the recipe rounds them.
        recipe: the types.
    """
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    _tell_types(model)
    results = {node.output for node in nodes}
    ranges = {**inputs, **{name: span for name, span in outputs.items() if name in results and name not in inputs}}
    data = {
        tensor: (np.array(span.lowest, np.float32), np.array(span.highest, np.float32))
        for tensor, span in ranges.items()
    }
    quantizer = QDQQuantizer(
        ir.to_proto(model),
        per_channel=True,
        reduce_range=recipe is Recipe.U8S8_REDUCED,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": sorted({"Conv", "Gemm", "MatMul"} - recipe.quantizes_outputs),
            "QuantizeBias": True,
        },
    )
    quantized: ir.Model = ir.from_proto(quantizer.quantize_model())
    _leave_to_others(quantized, {node.name for node in nodes}, set(outputs) & results)
    return quantized


def _tell_types(model: "ir.Model") -> None:
    """Infers every tensor's type while the weights are elsewhere, and says so to the quantizer.

    It would find them out from copies of the whole graph with its weights, in memory and on disk.
    """
    from onnx_ir.passes.common import ShapeInferencePass

    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    model.metadata_props["onnx.infer"] = "onnxruntime.quant"


def _leave_to_others(model: "ir.Model", chosen: set[str], rounded_results: Collection[str | None]) -> None:
    """Gives every node that is not chosen the tensor itself: the quantizer rounds it for all that take it.

    Results that are rounded as such stay so for everyone: behind an int8 convolution there is no other tensor.
    """
    editor = GraphEditor(model.graph)
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            continue
        rounded, quantize = node.outputs[0], input_of(node, 0).producer()
        if quantize is not None and input_of(quantize, 0).name not in rounded_results:
            takers = [taker for taker, _ in rounded.uses() if taker.name in chosen]
            editor.rewire(rounded, input_of(quantize, 0), but=takers)
