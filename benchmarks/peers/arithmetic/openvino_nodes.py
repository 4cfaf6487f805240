"""OpenVINO's own account of a compiled model: the kernel that each node has got, whose name ends in its type.

A node's ``runtimePrecision`` is not that: of a matrix product in float32 whose weights are stored in half of that it
says f16. What a node does not tell is the type of attention, which OpenVINO fuses with what is around it.
"""

from typing import Any

from latentrt.benchmarks.peers.arithmetic.products import told

_PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention"}


def arithmetic_of_compiled(compiled: Any) -> dict[str, Any]:
    """Products by type.

    Args:
        compiled: a ``CompiledModel``.
    """
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [_text(info, "primitiveType") for info in infos if _text(info, "layerType") in _PRODUCTS]
    return told((kernel.rpartition("_")[2] for kernel in kernels), "OpenVINO's compiled model")


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else "unknown"
