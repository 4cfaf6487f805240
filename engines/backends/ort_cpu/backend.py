"""ONNX Runtime's CPU provider: compiled once with packed weights, then mapped.

Optimising a full-size U-Net takes 17 s and reads all of it; opening what that produced, with optimisation
off, takes about 1 s and maps the weights. The result is bound to the CPU's features and to the version of
ONNX Runtime, which is why both are in the engine's key.

Optimising takes about four times the memory of the weights in fp32. A component for which that is too much is saved as
it is: its weights are mapped, and run some percent slower. The engine's record says so, and the next build optimises it
if there is memory then.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.ort import CLOSED, ERRORS_ONLY, first_line, run_errors
from latentrt.engines.backends.ort_cpu.halves import REMEDY, HalvedEngine, Halves
from latentrt.engines.bundle.bundle import HASHED_AT_OPEN, Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.gate import measure
from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.bundle.manifest import ContentsRecord, EngineManifest, ParityRecord
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.graphs.attention import fuse_attention
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.graphs.group_norm import GroupNorm, replace_group_norms
from latentrt.engines.machine import available_memory, cpu_features, physical_cores
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array, EngineSpec

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
FLAGS = {"optimization": "all", "prepacked": "1", "attention": "fused", "group_norm": "expanded", "recipe": "4"}
_EXTERNAL_FROM = 65536  # bytes; smaller tensors, odd-sized masks among them, stay in the graph
_ALIGNMENT = 64  # bytes: one AVX-512 register, one cache line
_PACKING_PEAK = 4  # times the weights in fp32: SD 2.1's U-Net took 12.9 GB


def version() -> str:
    """ONNX Runtime's version.

    Raises:
        EngineError: it is not installed.
    """
    return str(_onnxruntime().__version__)


def memory_to_optimise(parameters: int) -> bool:
    """Whether enough memory is free to optimise a graph with so many weights."""
    return _PACKING_PEAK * 4 * parameters <= available_memory()


def compile_onnx(onnx: Path, folder: Path, parameters: int = 0, *, group_norm: GroupNorm = GroupNorm.FAST) -> bool:
    """Optimises ``onnx`` for this machine into ``folder``: a graph and one file of packed weights.

    Args:
        onnx: the graph.
        folder: exists and is empty.
        parameters: how many weights it has; with too many for the memory that is free, nothing is optimised.
        group_norm: how group norms are computed.

    Returns:
        Whether it was optimised.

    Raises:
        EngineError: ONNX Runtime refuses the graph or cannot write the result.
    """
    if not memory_to_optimise(parameters):
        _save_optimised(onnx, folder, group_norm, prepacked=False, optimised=False)
        return False
    _save_optimised(onnx, folder, group_norm, prepacked=True)
    if not _packing_aligned(folder / MODEL_FILE):
        _save_optimised(onnx, folder, group_norm, prepacked=False)
    return True


def _save_optimised(
    onnx: Path, folder: Path, group_norm: GroupNorm, *, prepacked: bool, optimised: bool = True
) -> None:
    levels = _onnxruntime().GraphOptimizationLevel
    options = _run_options(levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL, None, packs=optimised)
    options.optimized_model_filepath = str(folder / MODEL_FILE)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": DATA_FILE,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_EXTERNAL_FROM),
        "session.save_external_prepacked_constant_initializers": str(int(prepacked)),
    }.items():
        options.add_session_config_entry(key, value)
    graph = _rewritten(onnx, group_norm, fuses=True)
    _session(onnx, options, "compile", f"check that {str(folder.parent)!r} has space", graph=graph)
    (folder / DATA_FILE).touch()  # a graph without large weights writes none


def _rewritten(onnx: Path, group_norm: GroupNorm, *, fuses: bool) -> bytes | None:
    """The graph with what ONNX Runtime has better kernels for, its weights still in their file; None if it has nothing.

    Without onnx and onnx_ir, which drawing does not need, the graph stays as it is and runs some percent slower.
    """
    try:
        model = load_graph(onnx)
    except ImportError:
        return None
    replaced = replace_group_norms(model, group_norm)
    if fuses:
        replaced += fuse_attention(model)
    return serialized(model) if replaced else None


def group_norm_of(component: Component) -> GroupNorm:
    """How a component's group norms are computed."""
    return GroupNorm.EXACT if component.kind.planes is Planes.PICTURE else GroupNorm.FAST


def _packing_aligned(model: Path) -> bool:
    """Whether every packed weight lies where the kernels may load it.

    ONNX Runtime 1.31 writes tensors one behind the other without padding and maps packed weights as they
    lie; behind a tensor of odd size its aligned loads end the process. The graph stores each packed weight's
    place as text: ``kernel+hash|offset;length;…``.
    """
    places = re.findall(rb"\+\d+\|(\d+);\d+;", model.read_bytes())
    return all(int(offset) % _ALIGNMENT == 0 for offset in places)


class OrtCpuModel:
    """A compiled component, opened: one session that serves every profile of a bundle."""

    def __init__(self, session: Any) -> None:
        """Takes an open session, or the ``Halves`` of one; closing releases it."""
        self._session: Any = session

    @classmethod
    def of_compiled(cls, folder: Path, *, threads: int | None, trace: Path | None = None, halves: bool = False) -> Self:
        """Opens what was compiled: its weights are mapped.

        Args:
            folder: what ``compile_onnx`` filled.
            threads: threads of a call, its halves' together; None takes ONNX Runtime's choice, one per core.
            trace: how the file begins in which ONNX Runtime's profiler tells every operator's time; None: no profiler.
            halves: run the halves of a batch at once, where there are cores for both.

        Raises:
            EngineError: the session cannot be created.
        """
        level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        packs = 2 * (folder / DATA_FILE).stat().st_size < available_memory()  # what is packed already takes nothing

        def opened(threads: int | None) -> Any:
            options = _run_options(level, threads, packs=packs)
            if trace is not None:
                options.enable_profiling, options.profile_file_prefix = True, str(trace)
            return _session(folder / MODEL_FILE, options)

        cores = threads or physical_cores()
        if halves and cores > 1:
            return cls(Halves(opened(cores - 1), lambda: opened(threads)))
        return cls(opened(threads))

    @classmethod
    def of_onnx(cls, onnx: Path, group_norm: GroupNorm = GroupNorm.FAST) -> Self:
        """Opens a graph that was not compiled, for a few runs: its weights are mapped and not packed.

        Raises:
            EngineError: the session cannot be created.
        """
        level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        graph = _rewritten(onnx, group_norm, fuses=False)
        return cls(_session(onnx, _run_options(level, None, packs=False), graph=graph))

    @property
    def session(self) -> Any:
        """The open session; its ``run`` is thread-safe.

        Raises:
            EngineError: the model was closed.
        """
        if self._session is None:
            raise EngineError(CLOSED)
        return self._session

    def engine(self, spec: EngineSpec) -> Engine:
        """The component at the shapes of ``spec``.

        Raises:
            EngineError: the model was closed.
        """
        session = self.session
        return HalvedEngine(session, spec) if isinstance(session, Halves) else OrtCpuEngine(self, spec)

    def close(self) -> None:
        """Unmaps the weights."""
        session, self._session = self._session, None
        if isinstance(session, Halves):
            session.close()


class OrtCpuEngine(ClosesItself):
    """An ``Engine`` at one profile over a shared ``OrtCpuModel``."""

    def __init__(self, model: OrtCpuModel, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model
        self._outputs = list(spec.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back."""
        self.spec.check(inputs)
        with run_errors(REMEDY):
            return dict(zip(self._outputs, self._model.session.run(self._outputs, inputs), strict=True))

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()


class _OpenComponent:
    """A ``Model``: any shapes over one session."""

    def __init__(self, component: Component, model: OrtCpuModel) -> None:
        self._component = component
        self._model = model

    def engine(self, shapes: Shapes) -> Engine:
        """The component at these shapes; the profile need not be one of the bundle's."""
        return self._model.engine(self._component.spec_of_any_batch(shapes))

    def close(self) -> None:
        """Unmaps the weights."""
        self._model.close()


class OrtCpu:
    """The ``Compiler`` of ONNX Runtime's CPU provider."""

    backend = Backend.ORT_CPU
    maker = "ONNX Runtime"
    flags: Mapping[str, str] = FLAGS
    largest_hashed: int | None = HASHED_AT_OPEN
    opens_at_once = True

    def version(self) -> str:
        """ONNX Runtime's."""
        return version()

    def here(self) -> str:
        """The CPU's vector extensions, by which weights are packed."""
        return cpu_features()

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """This CPU."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which runs on the CPU; leave it out, or choose "
                "tensorrt-rtx"
            )
        refuse_workspace(self.backend, workspace_mb)
        return (Target(machine=self.here()),)

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """None: one graph takes every size."""
        return ()

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Optimises the graph and packs its weights; what comes back says that there was no memory for it."""
        optimised = compile_onnx(
            component.onnx, folder, _weights_to_optimise(component), group_norm=group_norm_of(component)
        )
        return None if optimised else ContentsRecord(shapes=(), layers={}, unoptimised=True)

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Where it was not optimised for want of memory that is there now."""
        unoptimised = engine.contents is not None and engine.contents.unoptimised
        return unoptimised and memory_to_optimise(_weights_to_optimise(component))

    def open(self, component: Component, folder: Path, *, threads: int | None) -> _OpenComponent:
        """Maps the weights."""
        model = OrtCpuModel.of_compiled(folder, threads=threads, halves=in_halves(component))
        return _OpenComponent(component, model)


def in_halves(component: Component) -> bool:
    """Whether the halves of a batch run at once: where a call has both halves of guidance."""
    return component.kind.halves and component.record.batch_per_picture > 1


def _weights_to_optimise(component: Component) -> int:
    """How many weights in fp32 would take as much memory: int8 stays int8, fp16 becomes fp32."""
    parameters, weights = component.record.parameters, component.record.weights
    if component.record.precision is not Precision.INT8 or weights is None:
        return parameters
    return component.manifest.files[weights].size // 4


def measure_onnx(component: Component, probes: Iterable[Probe]) -> ParityRecord:
    """Gates a component's ONNX itself, on the CPU: where its engines cannot run on the machine that builds them.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        ParityError: the gate is missed.
    """
    model = _OpenComponent(component, OrtCpuModel.of_onnx(component.onnx, group_norm_of(component)))
    try:
        return measure(component, model.engine, probes)
    finally:
        model.close()


def _run_options(level: Any, threads: int | None, *, packs: bool) -> Any:
    options = _onnxruntime().SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads or 0
    # Plans memory per shape beside what the first run took: a third more for a decoder, and no faster
    options.enable_mem_pattern = False
    # Else a session's threads spin for some 50 ms behind its last call, on the cores that the next component needs
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("backend ort-cpu needs the package onnxruntime; install latentrt[cpu]") from error
    return onnxruntime


def _session(
    path: Path,
    options: Any,
    verb: str = "open",
    remedy: str = "open the bundle again, or build it again",
    graph: bytes | None = None,
) -> Any:
    """A session of the graph at a path, or of one made of it, whose weights lie beside that."""
    if graph is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return _onnxruntime().InferenceSession(graph or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise EngineError(f"ONNX Runtime cannot {verb} {str(path)!r}: {first_line(error)}; {remedy}") from error
