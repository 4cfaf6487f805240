"""Where a call of the U-Net spends its time: seconds by operator, as ONNX Runtime's profiler tells them."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from latentrt.engines.backends.ort_cpu.backend import in_halves
from latentrt.engines.backends.ort_cpu.model import OrtCpuModel
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.store.store import compiled_folder

_CALLS = 5  # but for the first, which is not counted


def operator_seconds(
    bundle: Bundle, profile: Profile, batch: int, *, threads: int | None, calls: int = _CALLS
) -> dict[str, float]:
    """Seconds of one call of the U-Net on ``ort-cpu`` by operator, the longest first; of each node the median.

    Where the halves of a batch run at once, it is the seconds of one. The profiler itself takes a microsecond or two
    per node.

    Raises:
        BundleError: the engine is damaged.
        EngineError: there is no engine, it does not run, or its trace cannot be written.
    """
    seconds = seconds_of_trace(unet_trace(bundle, profile, batch, threads=threads, calls=calls), calls)
    if not seconds:
        raise EngineError("ONNX Runtime's profiler names no operator; report it")
    return seconds


def unet_trace(
    bundle: Bundle, profile: Profile, batch: int, *, threads: int | None, calls: int
) -> list[dict[str, Any]]:
    """Events by ONNX Runtime's profiler of calls of the U-Net on ``ort-cpu``, and of one before those that count.

    The U-Net is opened beside whatever is open, and runs as it does when it draws. ``threads`` of None takes one per
    core.

    Raises:
        BundleError: the engine is damaged.
        EngineError: there is no engine, it does not run, or its trace cannot be written.
    """
    component = Component(root=bundle.root, manifest=bundle.manifest, name="unet")
    spec = bundle.manifest.spec("unet", Shapes(profile=profile), (batch,))
    random = np.random.default_rng(0)
    inputs = {
        name: random.standard_normal(tensor.sized(batch)).astype(tensor.dtype) for name, tensor in spec.inputs.items()
    }
    with tempfile.TemporaryDirectory(prefix="latentrt-operators-") as temporary:
        folder = compiled_folder(component, Backend.ORT_CPU)
        trace = Path(temporary) / "trace"
        model = OrtCpuModel.of_compiled(folder, threads=threads, trace=trace, halves=batch > 1 and in_halves(component))
        try:
            engine = model.engine(spec)
            for _ in range(calls + 1):
                engine.run(inputs)
            written = Path(model.session.end_profiling())
        finally:
            model.close()
        try:
            events: list[dict[str, Any]] = json.loads(written.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(f"the profiler's {written.name} cannot be read; make space on the disk") from error
    return events


def seconds_of_trace(events: Iterable[Mapping[str, Any]], calls: int) -> dict[str, float]:
    """Seconds by operator, the longest first, of events by ONNX Runtime's profiler.

    A node has an event per call, or one per half of it; the call before those that count is left out.
    """
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e6)
    seconds: dict[str, float] = defaultdict(float)
    for (operator, _), durations in nodes.items():
        seconds[operator] += median(durations[len(durations) // (calls + 1) :])
    return dict(sorted(seconds.items(), key=lambda item: (-item[1], item[0])))
