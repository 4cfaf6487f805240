"""Q/DQ in the graph: ONNX Runtime's quantizer places them, at the ranges that were chosen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range, Recipe
from latentrt.engines.graphs.quantization.smooth import SmoothedGraph

DATA_FILE = "model.onnx.data"
_EXTERNAL_FROM = 1024  # bytes


def write_quantized(
    weights: OnnxWeights,
    nodes: Sequence[QuantizableNode],
    inputs: Mapping[str, InputChoice],
    outputs: Mapping[str, Range],
    recipe: Recipe,
    folder: Path,
) -> None:
    """Writes a graph in which ``nodes`` compute in eight bits, as ``model.onnx`` with its weights beside it.

    Args:
        weights: the graph in fp32.
        nodes: of its quantizable nodes those that shall.
        inputs: how the tensors they take are rounded and smoothed.
        outputs: the ranges of results, where the recipe rounds them.
        recipe: the types.
        folder: where to write; created.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    smoothed = SmoothedGraph(weights, weights.quantizable(), inputs)
    _tell_types(smoothed.model)
    _load_weights(smoothed, weights)
    chosen = {node.input for node in nodes}
    ranges = {smoothed.renamed.get(name, name): choice.range for name, choice in inputs.items() if name in chosen}
    results = {node.output for node in nodes}
    ranges |= {name: span for name, span in outputs.items() if name in results and name not in ranges}
    data = {
        tensor: (np.array(span.lowest, np.float32), np.array(span.highest, np.float32))
        for tensor, span in ranges.items()
    }
    quantizer = QDQQuantizer(
        smoothed.model,
        per_channel=True,
        reduce_range=recipe is Recipe.U8S8_REDUCED,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={
            "ActivationSymmetric": recipe.symmetric,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": sorted({"Conv", "Gemm", "MatMul"} - recipe.quantizes_outputs),
            "QuantizeBias": not recipe.symmetric,
        },
    )
    quantized = quantizer.quantize_model()
    _leave_to_others(quantized, {node.name for node in nodes}, set(outputs) & results)
    del quantized.metadata_props[:]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATA_FILE).unlink(missing_ok=True)  # which onnx would append to
    onnx.save_model(
        quantized,
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location=DATA_FILE,
        size_threshold=_EXTERNAL_FROM,
    )


def _tell_types(model: Any) -> None:
    """Infers every tensor's type while the graph is small, and says so to the quantizer.

    It would find them out from copies of the whole graph with its weights, in memory and on disk.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx.infer", "onnxruntime.quant"


def _leave_to_others(model: Any, chosen: set[str], rounded_results: set[str]) -> None:
    """Gives every node that is not chosen the tensor itself: the quantizer rounds it for all that take it.

    Results that are rounded as such stay so for everyone: behind an int8 convolution there is no other tensor.
    """
    graph = model.graph
    made = {node.output[0]: node for node in graph.node}
    exact = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            quantize = made.get(node.input[0])
            if quantize is not None and quantize.input[0] not in rounded_results:
                exact[node.output[0]] = quantize.input[0]
    for node in graph.node:
        if node.name not in chosen:
            for index, name in enumerate(node.input):
                if name in exact:
                    node.input[index] = exact[name]


def _load_weights(smoothed: SmoothedGraph, weights: OnnxWeights) -> None:
    """Puts every weight into the graph: the quantizer reads them there."""
    from onnx import numpy_helper

    for tensor in smoothed.model.graph.initializer:
        if tensor.name in smoothed.arrays:
            tensor.CopyFrom(numpy_helper.from_array(smoothed.arrays.pop(tensor.name), tensor.name))
        elif tensor.external_data:
            tensor.CopyFrom(numpy_helper.from_array(np.array(weights.array(tensor.name)), tensor.name))
