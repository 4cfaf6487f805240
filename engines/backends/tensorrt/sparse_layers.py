"""Which layers of a TensorRT network have weights with the pattern 2:4."""

from typing import Any

import numpy as np

from latentrt.engines.pruning.two_of_four import is_two_of_four
from latentrt.engines.spec import Array

# Between a product and its constant may stand what only moves or dequantizes numbers
_PASSING = ("SHUFFLE", "CAST", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "QUANTIZE", "DEQUANTIZE")


def sparse_layers(trt: Any, network: Any) -> dict[str, int]:
    """How many convolutions and matrix products have such weights, by kind.

    Types that NumPy lacks (bf16, fp8) are not looked at.

    Args:
        trt: the module.
        network: as it was parsed.
    """
    made = {}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    for layer in layers:
        for number in range(layer.num_outputs):
            made[layer.get_output(number).name] = layer
    counts: dict[str, int] = {}
    for layer in layers:
        kind = str(layer.type.name)
        if kind == "CONVOLUTION":
            weight = _kernel(trt, layer, made)
            sparse = weight is not None and is_two_of_four(weight)
        elif kind == "MATRIX_MULTIPLY":
            # Along either axis: whether the parser or the layer transposes it, two of four are zero along one alone
            weight = _constant(trt, layer.get_input(1), made)
            sparse = weight is not None and any(is_two_of_four(weight, axis) for axis in (-2, -1))
        else:
            continue
        if sparse:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _kernel(trt: Any, layer: Any, made: dict[str, Any]) -> Array | None:
    """A convolution's weights (outputs, inputs, …), which are its own or a constant."""
    if layer.num_inputs > 1:
        return _constant(trt, layer.get_input(1), made)
    layer.__class__ = trt.IConvolutionLayer  # the bindings return this kind as a plain ILayer
    kernel, window = layer.kernel, tuple(layer.kernel_size_nd)
    return None if not isinstance(kernel, np.ndarray) else kernel.reshape(layer.num_output_maps, -1, *window)


def _constant(trt: Any, tensor: Any, made: dict[str, Any]) -> Array | None:
    """The numbers that a tensor is made of; None where it is no constant, or of a type that NumPy lacks."""
    layer = made.get(tensor.name)
    while layer is not None and layer.type.name in _PASSING:
        layer = made.get(layer.get_input(0).name)
    if layer is None or layer.type.name != "CONSTANT":
        return None
    layer.__class__ = trt.IConstantLayer
    numbers = layer.weights
    return None if not isinstance(numbers, np.ndarray) else numbers.reshape(tuple(layer.shape))
