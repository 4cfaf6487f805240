"""PyTorch's profiler: every operator that ran, compiled graphs' among them, with the types of its inputs."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.arithmetic.products import told

# Those that others come down to, so that none is counted twice
_PRODUCTS = {
    "aten::_convolution", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu", "mkldnn::_convolution_pointwise", "mkldnn::_linear_pointwise",
}  # fmt: skip


def traced(work: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
    """What work gives, and the profiler's events of it."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        given = work()
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events: list[dict[str, Any]] = json.loads(trace.read_text("utf-8"))["traceEvents"]
    return given, events


def arithmetic_of_trace(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Products by the type of what they take first.

    Args:
        events: those of one call of the U-Net.
    """
    types = [event["args"]["Input type"][0] for event in events if event.get("name") in _PRODUCTS]
    return told(types, "PyTorch's profiler")
