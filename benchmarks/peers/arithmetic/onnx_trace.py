"""ONNX Runtime's profiler: every kernel that ran, with the types of its inputs."""

from collections.abc import Iterable, Mapping
from typing import Any

from latentrt.benchmarks.peers.arithmetic.products import told

PRODUCTS = frozenset(
    {"Conv", "FusedConv", "ConvInteger", "QLinearConv", "MatMul", "FusedMatMul", "MatMulInteger",
     "MatMulIntegerToFloat", "QLinearMatMul", "Gemm", "FusedGemm", "QGemm", "Attention", "MultiHeadAttention"}
)  # fmt: skip
"""The operators whose FLOP are counted, under the names they have once ONNX Runtime has optimised a graph."""


def arithmetic_of_trace(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Products by the type of what they take first, each node once however often it ran.

    Args:
        events: what a session's ``end_profiling`` wrote.
    """
    nodes = {
        event["name"]: next(iter(event["args"]["input_type_shape"][0]))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and _is_product(event["args"])
    }
    return told(nodes.values(), "ONNX Runtime's profiler")


def _is_product(node: Mapping[str, Any]) -> bool:
    return node["op_name"] in PRODUCTS and bool(node.get("input_type_shape"))
