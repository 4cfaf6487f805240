"""A compiled component, opened: one session of ONNX Runtime, mapped weights, and the engines over it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self

from latentrt.engines.backends.ort import CLOSED, ERRORS_ONLY, first_line, run_errors
from latentrt.engines.backends.ort_cpu.halves import REMEDY, HalvedEngine, Halves
from latentrt.engines.bundle.unet.added_inputs import added_of
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.machine import available_memory, physical_cores
from latentrt.engines.spec import Array, EngineSpec, Tensor, host_arrays

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
KEEPING_FILE = "keeping.onnx"
"""What a graph that keeps features has beside the engine's: nodes and outputs, to be put behind it."""
STEP_FILE = "whole-step.onnx"
"""The graph that makes whole steps."""


def version() -> str:
    """ONNX Runtime's version.

    Raises:
        EngineError: it is not installed.
    """
    return str(onnxruntime_module().__version__)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How the sessions of a compiled component are opened.

    Attributes:
        folder: what ``compile_onnx`` filled.
        threads: of a call, its halves' together; None takes ONNX Runtime's choice, one per core.
        trace: how the file begins in which ONNX Runtime's profiler tells every operator's time; None: no profiler.
        halves: run the halves of a batch at once, where there are cores for both; whole steps combine them.
        graph: the name of its file: another one of the folder is over the same weights.
    """

    folder: Path
    threads: int | None
    trace: Path | None = None
    halves: bool = False
    graph: str = MODEL_FILE

    def sessions(self, replaced: Mapping[str, Any], *, packs: bool) -> Any:
        """A session, or the ``Halves`` of one.

        Args:
            replaced: ONNX Runtime's values in the place of initializers, by name.
            packs: whether ONNX Runtime packs weights as it opens; what was packed as it was compiled takes no memory.

        Raises:
            EngineError: a session cannot be created.
        """
        cores = self.threads or physical_cores()
        if self.halves and self.graph != STEP_FILE and cores > 1:
            return Halves(
                self._session(cores - 1, replaced, packs), lambda: self._session(self.threads, replaced, packs)
            )
        return self._session(self.threads, replaced, packs)

    def _session(self, threads: int | None, replaced: Mapping[str, Any], packs: bool) -> Any:
        options = session_options(onnxruntime_module().GraphOptimizationLevel.ORT_DISABLE_ALL, threads, packs=packs)
        if self.trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(self.trace)
        for name, value in replaced.items():
            options.add_initializer(name, value)
        session = open_session(self.folder / self.graph, options, graph=self._completed())
        session.replaced = replaced  # it has their addresses alone, and a run may outlast the model
        return session

    def _completed(self) -> bytes | None:
        """The graph where its file has a part of it; None where it has all."""
        if self.graph != KEEPING_FILE:
            return None
        # Two messages of protobuf one behind the other are one: lists of the second follow those of the first
        return (self.folder / MODEL_FILE).read_bytes() + (self.folder / KEEPING_FILE).read_bytes()


Sessions = Callable[[Opening], Any]


class OrtCpuModel:
    """A compiled component, opened: one session that serves every profile of a bundle."""

    def __init__(
        self, session: Any, opening: Opening | None = None, own_bytes: int = 0, sessions: "Sessions | None" = None
    ) -> None:
        """Takes an open session, or the ``Halves`` of one; closing releases it.

        Args:
            session: it.
            opening: how it was opened; None: not from a compiled component.
            own_bytes: what the initializers take that were replaced.
            sessions: opens another graph of the engine in the same way; None where there is but one.
        """
        self._session: Any = session
        self._opening, self.own_bytes, self._sessions = opening, own_bytes, sessions
        self._others: dict[str, OrtCpuModel] = {}
        self._lock = Lock()
        watch_forks(self)

    @classmethod
    def of_compiled(
        cls,
        folder: Path,
        *,
        threads: int | None,
        trace: Path | None = None,
        halves: bool = False,
        graph: str = MODEL_FILE,
    ) -> Self:
        """Opens what was compiled: its weights are mapped. The arguments are those of ``Opening``.

        Raises:
            EngineError: the session cannot be created.
        """
        opening = Opening(folder=folder, threads=threads, trace=trace, halves=halves, graph=graph)
        packs = 2 * (folder / DATA_FILE).stat().st_size < available_memory()
        sessions = partial(Opening.sessions, replaced={}, packs=packs)
        return cls(sessions(opening), opening, sessions=sessions)

    def with_weights(self, replaced: Mapping[str, Array], *, packs: bool) -> "OrtCpuModel":
        """The component with some initializers replaced; everything else is mapped from the same file.

        Args:
            replaced: new content by name, in the shape and type of the initializer; the model keeps it as it is.
            packs: whether ONNX Runtime packs weights as it opens.

        Raises:
            EngineError: the session cannot be created.
        """
        value = onnxruntime_module().OrtValue
        values = {name: value.ortvalue_from_numpy(content) for name, content in replaced.items()}
        own_bytes = (1 + packs) * sum(content.nbytes for content in replaced.values())  # packed ones lie beside them
        sessions = partial(Opening.sessions, replaced=values, packs=packs)
        return OrtCpuModel(sessions(self.opening), self.opening, own_bytes, sessions)

    def of_graph(self, name: str) -> "OrtCpuModel":
        """Another graph over the same weights; opened when it is first asked for, and closed with this one.

        Args:
            name: of its file; that of this one's graph gives this one.

        Raises:
            EngineError: the model was closed, or was compiled without that graph.
        """
        if name == (MODEL_FILE if self._opening is None else self._opening.graph):
            return self
        opening = replace(self.opening, graph=name)
        with self._lock:
            if self._session is None or self._sessions is None:
                raise EngineError(CLOSED)
            if name not in self._others:
                if not (opening.folder / name).is_file():
                    raise EngineError(
                        f"got an engine that was compiled without its graph {name}, which deep_cache or the loop on "
                        "the device takes, expected one with it; install latentrt[export] and run latentrt build on "
                        "the bundle"
                    )
                self._others[name] = OrtCpuModel(self._sessions(opening), opening)
            return self._others[name]

    @property
    def taken(self) -> Mapping[str, str]:
        """ONNX Runtime's types of the inputs by name, those with defaults among them."""
        session = self.session.narrow if isinstance(self.session, Halves) else self.session
        return {one.name: one.type for one in (*session.get_inputs(), *session.get_overridable_initializers())}

    @property
    def given(self) -> Mapping[str, str]:
        """Those of the outputs."""
        session = self.session.narrow if isinstance(self.session, Halves) else self.session
        return {one.name: one.type for one in session.get_outputs()}

    @property
    def opening(self) -> Opening:
        """How it was opened.

        Raises:
            EngineError: it was not compiled.
        """
        if self._opening is None:
            raise EngineError("got a graph that was not compiled, expected an engine; build the bundle again")
        return self._opening

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
            EngineError: the model was closed, or was compiled without inputs that the spec has.
        """
        session = self.session
        optional = [name for name, tensor in spec.inputs.items() if tensor.neutral is not None]
        if optional:
            self._check_added(optional)
        return HalvedEngine(session, spec) if isinstance(session, Halves) else OrtCpuEngine(self, spec)

    def _check_added(self, names: Sequence[str]) -> None:
        taken = self.taken
        lacking = [name for name in names if name not in taken]
        if lacking:
            raise EngineError(
                f"got an engine that was compiled without inputs for {', '.join(sorted(added_of(lacking)))}, expected "
                "one with them; install latentrt[export] and run latentrt build on the bundle"
            )

    def after_fork(self) -> None:
        """Closes what the parent opened, without a word to its threads."""
        session, self._session = self._session, None
        keep_for_ever((session, self._others))
        self._lock, self._others = Lock(), {}
        if isinstance(session, Halves):
            session.after_fork()

    def close(self) -> None:
        """Unmaps the weights."""
        with self._lock:
            session, self._session = self._session, None
            others, self._others = self._others, {}
        for other in others.values():
            other.close()
        if isinstance(session, Halves):
            session.close()


class OrtCpuEngine(ClosesItself):
    """An ``Engine`` at one profile over a shared ``OrtCpuModel``."""

    def __init__(self, model: OrtCpuModel, spec: EngineSpec) -> None:
        self.spec = spec
        self._model = model
        self._outputs = list(spec.outputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back."""
        self.spec.check(inputs)
        with run_errors(REMEDY):
            return dict(zip(self._outputs, self._model.session.run(self._outputs, self._arrays(inputs)), strict=True))

    def _arrays(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """What the session is given."""
        return host_arrays(inputs)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()


def session_options(level: Any, threads: int | None, *, packs: bool) -> Any:
    options = onnxruntime_module().SessionOptions()
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


def onnxruntime_module() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("backend ort-cpu needs the package onnxruntime; install latentrt[cpu]") from error
    return onnxruntime


def open_session(
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
        return onnxruntime_module().InferenceSession(graph or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise EngineError(f"ONNX Runtime cannot {verb} {str(path)!r}: {first_line(error)}; {remedy}") from error
