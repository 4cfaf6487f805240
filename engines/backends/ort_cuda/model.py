"""A component's ONNX on a CUDA device: sessions, and the engines over them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from latentrt.engines.backends.cuda import Driver, cuda_device
from latentrt.engines.backends.ort import CLOSED, ERRORS_ONLY, first_line, run_errors
from latentrt.engines.backends.ort_cuda.bound_run import NO_GRAPH, BoundRun, Copies, OrtDeviceArray
from latentrt.engines.backends.ort_cuda.bound_steps import BoundSteps
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.added_inputs import added_text
from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import AddedInputs, Loop, Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor

if TYPE_CHECKING:
    from latentrt.engines.bundle.changed_weights import ChangedInitializer
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

Changed = Callable[[], Iterable["ChangedInitializer"]]

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, kw_only=True)
class Device:
    """An ONNX Runtime provider, the name of its memory, and what copies there."""

    provider: str = "CUDAExecutionProvider"
    memory: str = "cuda"
    driver: Callable[[], Driver] = cuda_device


STEPS_WITH = (frozenset[AddedInputs](), frozenset({AddedInputs.CONTROL}), frozenset(AddedInputs))
"""The added inputs that there are graphs of whole steps with: a call takes the first that has those it gives."""


def graph_file(added: frozenset[AddedInputs], loop: Loop = Loop.HOST) -> str:
    """The name of a graph with added inputs, or of whole steps, in an engine's folder."""
    return f"{','.join(filter(None, (added_text(added), 'steps' * (loop is Loop.DEVICE))))}.onnx"


class OrtCudaModel:
    """A component's ONNX on a device: one session for all shapes, and one for each combination of added inputs.

    So there is one for whole steps; in a model that begins with that one, the plain session is opened when it is asked
    for.
    """

    def __init__(
        self,
        component: Component,
        device: Device,
        folder: Path,
        changed: "Changed | None" = None,
        graph_refused: str | None = None,
        added: frozenset[AddedInputs] = frozenset(),
        loop: Loop = Loop.HOST,
    ) -> None:
        """Opens the session.

        Where the provider cannot take every node (CUDA graphs need that), or fails as it records the first of them,
        the session is opened without them and ``graph_refused`` says why.

        Args:
            component: whose ONNX.
            device: where it runs.
            folder: of the engine.
            changed: gives initializers with other numbers than the bundle's, as often as a session is opened.
            graph_refused: why CUDA graphs are not tried, if they are not.
            added: the inputs that the graph takes beside its own.
            loop: whether it makes whole steps.

        Raises:
            RequestError: numbers that the component cannot take.
            EngineError: ONNX Runtime refuses the graph, or there is none with these inputs.
        """
        import onnxruntime

        self.ort: Any = onnxruntime
        self.device = device
        self.lock = RLock()
        self.graph_refused = graph_refused
        self._component = component
        self.added, self.loop = added, loop
        self._folder = folder
        self._variants: dict[tuple[frozenset[AddedInputs], Loop], OrtCudaModel] = {}
        self._changed = changed
        self._shapes: dict[tuple[object, ...], BoundRun | BoundSteps] = {}
        self._graphs = 0
        self._session: Any = None
        try:
            if graph_refused is None:
                self._session = self._open({"enable_cuda_graph": "1", "use_tf32": "0"})
        except EngineError as error:
            self.graph_refused = str(error)
        self._session = self._session or self._open({"use_tf32": "0"})

    @property
    def session(self) -> Any:
        """The open session.

        Raises:
            EngineError: the model was closed.
        """
        if self._session is None:
            raise EngineError(CLOSED)
        return self._session

    @property
    def own_bytes(self) -> int:
        """All weights, as sessions share none; 0 for the one that was opened."""
        return 0 if self._changed is None else (1 + len(self._variants)) * self._component.onnx_bytes

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "OrtCudaModel":
        """The same component with other weights: a session of its own.

        Raises:
            RequestError: weights that the component cannot take.
            EngineError: closed, or ONNX Runtime cannot open it.
        """
        from latentrt.engines.bundle.changed_weights import changed_initializers

        _ = self.session
        changed = partial(changed_initializers, weights, changes)
        return OrtCudaModel(
            self._component, self.device, self._folder, changed, self.graph_refused, self.added, self.loop
        )

    def engine(self, shapes: Shapes) -> "OrtCudaEngine":
        """The component at these shapes; the bundle's profiles keep buffers and are recorded as CUDA graphs.

        Raises:
            EngineError: closed, or what is added takes another session, which cannot be opened.
        """
        kept = shapes.profile in self._component.manifest.profiles and shapes.chunks == 1
        _ = self.session
        model = self._with(shapes.added, shapes.loop)
        asked, taken = (
            self._component.spec_of_any_batch(each) for each in (shapes, replace(shapes, added=model.added))
        )
        return OrtCudaEngine(model, asked, taken, kept=kept)

    def _with(self, added: frozenset[AddedInputs], loop: Loop) -> "OrtCudaModel":
        """The session with inputs added, or of whole steps; an open one that takes more serves, too."""
        if loop is Loop.DEVICE:
            added = next(more for more in STEPS_WITH if more >= added)
        if (added, loop) == (self.added, self.loop):
            return self
        with self.lock:
            open_ones = (
                model for (more, its_loop), model in self._variants.items() if more >= added and its_loop is loop
            )
            holding = next(open_ones, None)
            if holding is None:
                holding = OrtCudaModel(
                    self._component, self.device, self._folder, self._changed, self.graph_refused, added, loop
                )
                self._variants[added, loop] = holding
            return holding

    @cached_property
    def copies(self) -> "Copies":
        """What copies on the device."""
        return Copies(self.device.driver())

    def copied(self, array: OrtDeviceArray) -> Any:
        """A value of its own with an array's numbers, on the device."""
        value = self.ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, self.device.memory, 0)
        self.copies.copy([value], [array.value])
        return value

    def run(self, spec: EngineSpec, inputs: Mapping[str, Tensor], *, kept: bool) -> BoundRun | BoundSteps:
        """One run; the lock is held, and what comes back has the results until the next one.

        Where its recording fails, it runs again on a session without CUDA graphs.
        """
        bound = self.bound(spec, inputs, kept=kept)
        try:
            bound.run(inputs)
            return bound
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            if bound.recorded is not False:
                raise
            reason = first_line(error)
        # Behind the handler, so that nothing holds the old session while the new one is opened
        del bound
        self._shapes.clear()
        self._session = None
        self._session = self._open({"use_tf32": "0"})
        self.graph_refused = reason
        bound = self.bound(spec, inputs, kept=kept)
        bound.run(inputs)
        return bound

    def bound(self, spec: EngineSpec, inputs: Mapping[str, Tensor], *, kept: bool) -> BoundRun | BoundSteps:
        """The buffers for inputs of these shapes, made once if they are kept; the lock is held.

        Calls that leave out other inputs have buffers and CUDA graphs of their own.
        """
        batched = (tensor.shape[0] for name, tensor in inputs.items() if spec.inputs[name].shape[0] == BATCH)
        batch = next(batched, spec.batches[0])
        if not kept:
            return BoundRun(self, spec, batch, inputs, NO_GRAPH)
        key = tuple((name, array.shape) for name, array in sorted(inputs.items()))
        if key not in self._shapes:
            if self.loop is Loop.DEVICE:
                graphs = self._next_graph(), self._next_graph()
                self._shapes[key] = BoundSteps(self, spec, batch, inputs, graphs)
            else:
                self._shapes[key] = BoundRun(self, spec, batch, inputs, self._next_graph())
        return self._shapes[key]

    def _next_graph(self) -> int:
        self._graphs += 1
        return self._graphs if self.graph_refused is None else NO_GRAPH

    def close(self) -> None:
        """Releases the buffers, the graphs and the weights; may be called twice."""
        with self.lock, ExitStack() as rest:
            for model in self._variants.values():
                rest.callback(model.close)
            self._shapes.clear()
            self._session = None

    def _open(self, options: dict[str, str]) -> Any:
        session_options = self.ort.SessionOptions()
        session_options.log_severity_level = ERRORS_ONLY
        if self._changed is not None:
            # They take their places before the graph is optimised, which merges and renames initializers; a plain
            # add_initializer comes behind that, and is ignored where its name is gone. The session copies them
            contents = dict(self._changed())
            values = [self.ort.OrtValue.ortvalue_from_numpy(content) for content in contents.values()]
            if values:
                session_options.add_external_initializers(list(contents), values)
        path, onnx = self._graph(), self._component.onnx
        if path != onnx:
            session_options.add_session_config_entry(_WEIGHTS_FOLDER, str(onnx.parent))
        graph = str(path) if path == onnx else path.read_bytes()
        providers = [(self.device.provider, options if self.device.memory == "cuda" else {})]
        try:
            session = self.ort.InferenceSession(graph, session_options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise EngineError(f"ONNX Runtime cannot open {str(path)!r}: {first_line(error)}; build it again") from error
        # A provider whose libraries cannot be loaded is replaced by the CPU's with a warning alone
        if self.device.provider not in session.get_providers():
            raise EngineError(
                f"ONNX Runtime runs {str(path)!r} on {', '.join(session.get_providers())}, expected "
                f"{self.device.provider}; check that the CUDA libraries that onnxruntime-gpu needs are installed"
            )
        return session

    def _graph(self) -> Path:
        """The file of the graph: the bundle's, or with added inputs one of the engine's."""
        if not self.added and self.loop is Loop.HOST:
            return self._component.onnx
        path = self._folder / graph_file(self.added, self.loop)
        if not path.is_file():
            lacks = "inputs for" if self.loop is Loop.HOST else "whole steps with"
            raise EngineError(
                f"got an engine of {self._component.name} that was made without {lacks} "
                f"{added_text(self.added) or 'nothing added'}, expected one with them; install latentrt[export] and "
                "run latentrt build on the bundle"
            )
        return path


class OrtCudaEngine(ClosesItself):
    """An ``Engine`` at one profile over a shared ``OrtCudaModel``."""

    def __init__(self, model: OrtCudaModel, asked: EngineSpec, taken: EngineSpec, *, kept: bool) -> None:
        """Takes the tensors of calls, and those that the model's graph takes, which may be more."""
        self.spec = asked
        self._taken = taken
        self._model = model
        self._kept = kept

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component on tensors that match ``spec``; new arrays come back. Threads take turns."""
        with self._ran(inputs) as bound:
            return bound.results()

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Runs it with results that stay on the device."""
        with self._ran(inputs) as bound:
            return bound.results_on_device()

    @contextmanager
    def _ran(self, inputs: Mapping[str, Tensor]) -> Iterator[BoundRun | BoundSteps]:
        self.spec.check(inputs)
        with self._model.lock, run_errors("close what else uses the GPU or report it"):
            yield self._model.run(self._taken, inputs, kept=self._kept)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()
