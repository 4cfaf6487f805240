"""A TensorRT plan from a component's ONNX: parsed, typed by its ONNX alone, one static profile per shape."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from latentrt.engines.backends.tensorrt.contents import (
    check_precision,
    check_tensors,
    layers_of,
    quantized_layers,
    shapes_record,
)
from latentrt.engines.backends.tensorrt.logger import first_error, tensorrt_logger
from latentrt.engines.backends.tensorrt.sparse_layers import sparse_layers
from latentrt.engines.bundle.component import Component, StaticShape
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord
from latentrt.engines.bundle.records.named_weights import StoredWeight
from latentrt.engines.errors import EngineError, OutputError
from latentrt.engines.files import user_cache, write_file
from latentrt.engines.progress import Progress

_MEGABYTE = 2**20


def user_timing_cache(backend: str, version: str, machine: str) -> Path:
    """Where the measured times of kernels are kept for later builds: the user's cache folder."""
    return user_cache() / f"{backend}-{version}-{machine.replace(' ', '-')}.timing"


@dataclass(frozen=True, kw_only=True)
class PlanGraph:
    """The graph that a plan is built of.

    Attributes:
        path: the component's ONNX, or where it would lie: weights are in the same folder.
        content: None for the file itself, or else a graph that was made of it.
        weight_inputs: where the bundle holds what the graph takes as inputs beside the component's own, by name.
    """

    path: Path
    content: bytes | None = None
    weight_inputs: Mapping[str, StoredWeight] = field(default_factory=dict)


class PlanBuilder:
    """Builds plans with one of the two modules."""

    def __init__(self, trt: Any, *, maker: str, workspace_mb: int | None, progress: Progress | None) -> None:
        """Takes the module, its name for people, and the builder's limits."""
        self._trt = trt
        self._maker = maker
        self._workspace_mb = workspace_mb
        self._progress = progress

    def build(
        self,
        component: Component,
        plan: Path,
        compute_capability: Any | None,
        timing_cache: Path | None,
        graph: PlanGraph | None = None,
    ) -> ContentsRecord:
        """Writes the plan and tells what went into it.

        Args:
            component: what to build.
            plan: the file to write.
            compute_capability: of the GPU to build for, where the module lets one choose.
            timing_cache: a file that holds and receives the times of kernels, where the module has that.
            graph: what it is built of; None takes the component's ONNX.

        Raises:
            EngineError: the parser or the builder refuses, with the first reason that it gave; or the precision is not
                the one asked for.
            OSError: the plan cannot be written.
        """
        trt, log = self._trt, tensorrt_logger(self._trt)
        graph = graph or PlanGraph(path=component.onnx)
        builder = trt.Builder(log)
        # Where the flag is gone (TensorRT 11) every network is strongly typed
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        self._parse(component.label, graph, network, log)
        allow_decomposition(trt, network)
        shapes = component.static_shapes
        check_tensors(network, component.label, shapes, graph.weight_inputs)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector has something to tell
        if component.record.sparsity is not None:
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)  # it looks at the weights, and may leave zeros out
        if self._workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace_mb * _MEGABYTE)
        if compute_capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(compute_capability, 0)
        for shape in shapes:
            config.add_optimization_profile(_optimization_profile(builder, shape))
        # Read before the build, which may change the network
        contents = ContentsRecord(
            shapes=shapes_record(shapes),
            layers=layers_of(network),
            quantized=quantized_layers(network),
            weight_inputs=tuple(graph.weight_inputs),
            sparse={} if component.record.sparsity is None else sparse_layers(trt, network),
        )
        check_precision(
            component, contents.layers, quantized=contents.quantized
        )  # before the minutes that a build may take
        cache = _read_timing_cache(config, timing_cache)
        self._serialize(builder, network, config, plan, component.label, log)
        check_precision(component, contents.layers, plan_bytes=plan.stat().st_size)
        if timing_cache is not None and cache is not None:
            _write_timing_cache(config, timing_cache)
        return contents

    def _parse(self, name: str, graph: PlanGraph, network: Any, log: Any) -> None:
        parser, path = self._trt.OnnxParser(network, log), str(graph.path)
        if parser.parse_from_file(path) if graph.content is None else parser.parse(graph.content, path=path):
            return
        faults = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
            faults.append(node + error.desc())
        reason = "; ".join(" ".join(fault.split()) for fault in faults[:3]) or first_error(log, "no reason given")
        raise EngineError(
            f"{self._maker} cannot parse the ONNX of {name}: {reason}; build the bundle again, or choose "
            "another backend"
        )

    def _serialize(self, builder: Any, network: Any, config: Any, plan: Path, name: str, log: Any) -> None:
        monitor = _monitor(self._trt, self._progress)
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if serialized is None:
            raise EngineError(
                f"{self._maker} cannot build {name}: {first_error(log, 'no reason given')}; build for fewer pictures "
                "at once, allow more workspace, or choose another backend"
            )
        with plan.open("wb") as file:
            file.write(memoryview(serialized))


def allow_decomposition(trt: Any, network: Any) -> None:
    """Lets TensorRT compute an attention in several kernels where it has no fused one.

    That is the text encoder's, whose mask is an input; an attention that has a fused kernel still gets it.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # the bindings return this kind as a plain ILayer
            layer.attention.decomposable = True


def _optimization_profile(builder: Any, shape: StaticShape) -> Any:
    profile = builder.create_optimization_profile()
    batch = shape.spec.batches[0]
    for name, tensor in shape.spec.inputs.items():
        size = tensor.sized(batch)
        profile.set_shape(name, size, size, size)
    return profile


def _monitor(trt: Any, progress: Progress | None) -> Any:
    """Passes the builder's phases on to ``progress``.

    TensorRT calls it from its own threads. An exception must not pass through its C++ code: the first one (Ctrl-C
    among them) is kept in ``failure`` and ends the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is known at run time alone
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._lock = Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                steps = self._steps.get(phase_name, 1)
            self._tell(phase_name, steps)

        def _tell(self, name: str, done: int) -> None:
            try:
                if progress is not None and self.failure is None:
                    progress.phase(name, done, self._steps.get(name, 1))
            except BaseException as error:
                self.failure = self.failure or error

    return Monitor()


def _read_timing_cache(config: Any, path: Path | None) -> Any | None:
    if path is None:
        return None
    content = b""
    with suppress(OSError):
        content = path.read_bytes()
    for attempt in (content, b""):  # one that is damaged or of another device is begun anew
        cache = config.create_timing_cache(attempt)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _write_timing_cache(config: Any, path: Path) -> None:
    content = memoryview(config.get_timing_cache().serialize())

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    with suppress(OSError, OutputError):  # the next build is slower, nothing more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write)
