"""What is in a TensorRT network and plan, and whether that is what was asked for."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.component import Component, StaticShape
from latentrt.engines.bundle.records.manifests.engine_manifest import ProfileShapesRecord, ShapeRecord
from latentrt.engines.bundle.records.named_weights import StoredWeight
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import TensorSpec

# TensorRT's names of element types, as NumPy has them
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_WITH_WEIGHTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_OF_OPENVINO = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_MOVES = ("SHUFFLE", "CAST", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
_HALVES = {"fp16": "float16", "bf16": "bfloat16"}
_PRODUCTS = 2  # of an attention: queries with keys, and what comes of these with values
# Of the layers that carry weights this share may be fp32 in an engine of sixteen bits: the declared islands
_ISLANDS = 0.5
# A plan holds its weights and code. Of full-size U-Nets it is 1.01 times the ONNX; widened weights are twice as large.
_PLAN_PER_ONNX = 1.5
_CODE_BYTES = 64 * 2**20


def dtype_name(dtype: Any) -> str:
    """A TensorRT element type as NumPy calls it."""
    name = str(dtype.name)
    return _DTYPES.get(name, name.lower())


def check_tensors(
    network: Any, component: str, shapes: Sequence[StaticShape], weights: Mapping[str, StoredWeight]
) -> None:
    """Compares a parsed network's inputs and outputs with the specs: names, dtypes, and dimensions that are fixed.

    Args:
        network: as it was parsed.
        component: its name, for messages.
        shapes: what it is compiled for.
        weights: what it takes as inputs beside those of the specs, by name.

    Raises:
        EngineError: naming every difference.
    """
    spec = shapes[0].spec
    faults = []
    sides = (
        ("input", spec.inputs, [network.get_input(index) for index in range(network.num_inputs)]),
        ("output", spec.outputs, [network.get_output(index) for index in range(network.num_outputs)]),
    )
    for side, expected, tensors in sides:
        found = {tensor.name: tensor for tensor in tensors}
        if side == "input":
            faults += _weight_faults(found, weights)
        faults += [f"no {side} {name}" for name in expected.keys() - found.keys()]
        faults += [f"an {side} {name} too many" for name in found.keys() - expected.keys()]
        for name in expected.keys() & found.keys():
            got, dtype = tuple(found[name].shape), dtype_name(found[name].dtype)
            for shape in shapes:
                tensor = (shape.spec.inputs if side == "input" else shape.spec.outputs)[name]
                sized = tensor.sized(shape.spec.batches[0])
                fits = len(got) == len(sized) and all(a in (-1, b) for a, b in zip(got, sized, strict=False))
                if not fits or dtype != tensor.dtype.name:
                    faults.append(f"{side} {name} is {got} {dtype} instead of {sized} {tensor.dtype}")
    if faults:
        raise EngineError(f"the ONNX of {component} has {'; '.join(sorted(faults))}; build the bundle again")


def _weight_faults(inputs: dict[str, Any], weights: Mapping[str, StoredWeight]) -> list[str]:
    """What is wrong with the inputs that are weights; they are taken out."""
    faults = []
    for name, weight in weights.items():
        tensor = inputs.pop(name, None)
        if tensor is None:
            faults.append(f"no input {name}")
        elif (tuple(tensor.shape), dtype_name(tensor.dtype)) != (weight.shape, weight.dtype):
            got = f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)}"
            faults.append(f"input {name} is {got} instead of {weight.shape} {weight.dtype}")
    return faults


def layers_of(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of each kind a network has, by the dtype of their first output."""
    counts: dict[str, dict[str, int]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        dtype = dtype_name(layer.get_output(0).dtype) if layer.num_outputs else "none"
        of_kind = counts.setdefault(layer.type.name, {})
        of_kind[dtype] = of_kind.get(dtype, 0) + 1
    return {kind: dict(sorted(of_kind.items())) for kind, of_kind in sorted(counts.items())}


def quantized_layers(network: Any) -> dict[str, int]:
    """How many convolutions and matrix products take both of their inputs dequantized from eight bits, by kind.

    Between a dequantization and the layer may stand what only moves numbers: a matrix's transposition.
    """
    made = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for number in range(layer.num_outputs):
            made[layer.get_output(number).name] = layer
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name in _WITH_WEIGHTS and layer.num_inputs > 1:
            sources = (_source(made, layer.get_input(number)) for number in (0, 1))
            if all(source == "DEQUANTIZE" for source in sources):
                counts[layer.type.name] = counts.get(layer.type.name, 0) + 1
    return counts


def _source(made: Mapping[str, Any], tensor: Any) -> str:
    """The kind of the layer that a tensor comes from, behind those that only move it."""
    layer = made.get(tensor.name)
    while layer is not None and layer.type.name in _MOVES:
        layer = made.get(layer.get_input(0).name)
    return "" if layer is None else str(layer.type.name)


def counts_with_weights(layers: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How many convolutions and matrix products there are of each dtype; ``layers`` as an engine's record has them."""
    counts: dict[str, int] = {}
    for kind in (*_WITH_WEIGHTS, *_OF_OPENVINO):
        for dtype, count in layers.get(kind, {}).items():
            counts[dtype] = counts.get(dtype, 0) + count
    return counts


def check_precision(
    component: Component,
    layers: Mapping[str, Mapping[str, int]],
    *,
    quantized: Mapping[str, int] | None = None,
    plan_bytes: int | None = None,
) -> None:
    """Fails a build whose precision is not the one asked for.

    A strongly typed network has its ONNX's types: an fp32 ONNX silently becomes an fp32 engine, twice as large and half
    as fast, whatever was asked for.

    Args:
        component: whose record says what was asked for.
        layers: as ``layers_of`` counts them.
        quantized: as ``quantized_layers`` counts them.
        plan_bytes: the plan's size, once there is one.

    Raises:
        EngineError: naming the component and every figure that is off.
    """
    precision, parameters, onnx_bytes = component.record.precision, component.record.parameters, component.onnx_bytes
    counts = counts_with_weights(layers)
    total = sum(counts.values())
    told = ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items()))
    faults = []
    if precision in _HALVES:
        if total - counts.get(_HALVES[precision], 0) > _ISLANDS * total:
            faults.append(f"its layers with weights are {told}")
        if onnx_bytes > 3 * parameters + _CODE_BYTES:
            faults.append(f"its ONNX has {onnx_bytes / parameters:.1f} bytes a parameter")
    elif precision == "fp32" and counts.get("float32", 0) < total:
        faults.append(f"its layers with weights are {told}")
    record = component.record.quantization
    if quantized is not None and record is not None:
        wanted = sum(node.rounded for node in record.nodes.values())
        if record.attention is not None and record.attention.rounded:
            wanted += _PRODUCTS * record.attention.attentions
        if sum(quantized.values()) != wanted:
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(quantized.items()))
            faults.append(f"Q/DQ stand around {told or 'no layer'} instead of {wanted} layers")
    if plan_bytes is not None and plan_bytes > _PLAN_PER_ONNX * onnx_bytes + _CODE_BYTES:
        faults.append(f"its plan has {_mb(plan_bytes)} MB for an ONNX of {_mb(onnx_bytes)} MB")
    if faults:
        raise EngineError(
            f"{component.name} was asked for in {precision} and did not come out so: {'; '.join(faults)}; build the "
            f"bundle again with --precision {precision}"
        )


def shapes_record(shapes: Sequence[StaticShape]) -> tuple[ProfileShapesRecord, ...]:
    """The specs of what is compiled, in numbers."""

    def sized(tensors: Mapping[str, TensorSpec], batch: int) -> dict[str, ShapeRecord]:
        return {
            name: ShapeRecord(shape=tensor.sized(batch), dtype=tensor.dtype.name) for name, tensor in tensors.items()
        }

    return tuple(
        ProfileShapesRecord(
            profiles=shape.profiles,
            inputs=sized(shape.spec.inputs, shape.spec.batches[0]),
            outputs=sized(shape.spec.outputs, shape.spec.batches[0]),
        )
        for shape in shapes
    )


def seen_by_inspector(trt: Any, plan: Path, maker: str) -> dict[str, Any]:
    """What the engine inspector tells of a plan, on the GPU that it is for: kernels by kind, scratch memory in bytes.

    Raises:
        EngineError: the plan cannot be opened.
    """
    from latentrt.engines.backends.tensorrt.plan import engine_from_plan

    runtime, engine = engine_from_plan(trt, plan, maker)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    memory = int(engine.device_memory_size_v2)
    del engine, runtime
    return {"kernels": kernels_from_inspection(text), "device_memory": memory}


def kernels_from_inspection(text: str) -> dict[str, int] | None:
    """Counts the inspector's layers by their type; None where it tells no types."""
    try:
        layers = json.loads(text)["Layers"]
        kinds = [str(layer["LayerType"]) for layer in layers]
    except (ValueError, KeyError, TypeError):
        return None
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _mb(size: int) -> int:
    return math.ceil(size / 2**20)
