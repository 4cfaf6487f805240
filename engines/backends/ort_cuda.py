"""ONNX Runtime's CUDA provider: inputs and outputs bound to device memory once per shape, runs replayed as CUDA graphs.

Nothing is compiled. The provider optimises the bundle's ONNX as it opens it; the result could be saved, but only where
the provider is, and what it saves is bound to the provider's choices for that GPU. So an engine is a record: that this
GPU architecture and version passed the gate. A U-Net's has graphs with added inputs, too, over the bundle's weights.
Each is a session of its own, opened when a call needs it: in one that held them all, an If would skip what is left out,
and such a graph cannot be recorded.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.cuda import CudaPython, Driver, architecture
from latentrt.engines.backends.ort import CLOSED, ERRORS_ONLY, first_line, run_errors
from latentrt.engines.bundle.added_inputs import added_text
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN, check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.engine_manifest import EngineManifest
from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, TensorSpec, host_arrays

if TYPE_CHECKING:
    from latentrt.engines.bundle.changed_weights import ChangedInitializer
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

Changed = Callable[[], Iterable["ChangedInitializer"]]

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_GRAPH = -1  # gpu_graph_id of a run that is neither recorded nor replayed


@dataclass(frozen=True, kw_only=True)
class Device:
    """An ONNX Runtime provider, the name of its memory, and what copies there."""

    provider: str = "CUDAExecutionProvider"
    memory: str = "cuda"
    driver: Callable[[], Driver] = CudaPython


class OrtCuda:
    """The ``Compiler`` of ONNX Runtime's CUDA provider."""

    backend = Backend.ORT_CUDA
    maker = "ONNX Runtime"
    flags: Mapping[str, str] = {"recipe": "2", "tf32": "off"}
    lora_ready = False
    added_apart = False
    largest_hashed: int | None = HASHED_AT_OPEN
    opens_at_once = False
    opens_after_fork = False

    def version(self) -> str:
        """ONNX Runtime's.

        Raises:
            EngineError: it is not installed, or without its CUDA provider.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("backend ort-cuda needs the package onnxruntime-gpu; install latentrt[cuda]") from error
        found = onnxruntime.get_available_providers()
        if Device().provider not in found:
            raise EngineError(
                f"the installed onnxruntime has the providers {', '.join(found)}, expected {Device().provider} for "
                f"backend {self.backend}; install onnxruntime-gpu in its place"
            )
        return str(onnxruntime.__version__)

    def here(self) -> str:
        """The platform and the architecture of the GPU that is present."""
        return gpu_machine(architecture(CudaPython()))

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """The GPU that is present."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which takes the GPU that is present alone; "
                "leave it out, or choose tensorrt-rtx"
            )
        refuse_workspace(self.backend, workspace_mb)
        return (Target(machine=self.here()),)

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """None: one graph takes every size."""
        return ()

    def compile(self, component: Component, target: Target, folder: Path, progress: Progress | None) -> None:
        """Writes a U-Net's graphs with added inputs; else the bundle's ONNX is opened as it is."""
        if not component.kind.added_inputs or find_spec("onnx_ir") is None:
            return
        from latentrt.engines.graphs.editor import load_graph, serialized
        from latentrt.engines.graphs.variants.variant import add_inputs

        for added in combinations_of_added():
            model = load_graph(component.onnx)
            add_inputs(model, component.structure, added, optional=False)
            (folder / _graph_file(added)).write_bytes(serialized(model))

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Where a U-Net's lacks the graphs with added inputs, which can be made now."""
        return component.kind.added_inputs and not engine.files and find_spec("onnx_ir") is not None

    def open(self, component: Component, folder: Path, *, threads: int | None) -> "OrtCudaModel":
        """Opens the bundle's ONNX on the GPU."""
        check_files(component.root, component.onnx_files, largest_hashed=self.largest_hashed)
        return OrtCudaModel(component, Device(), folder)


def combinations_of_added() -> Iterator[frozenset[AddedInputs]]:
    """All but none."""
    for count in range(len(AddedInputs)):
        yield from (frozenset(added) for added in combinations(AddedInputs, count + 1))


def _graph_file(added: frozenset[AddedInputs]) -> str:
    return f"{added_text(added)}.onnx"


class OrtCudaModel:
    """A component's ONNX on a device: one session for all shapes, and one for each combination of added inputs."""

    def __init__(
        self,
        component: Component,
        device: Device,
        folder: Path,
        changed: "Changed | None" = None,
        graph_refused: str | None = None,
        added: frozenset[AddedInputs] = frozenset(),
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
        self.added = added
        self._folder = folder
        self._variants: dict[frozenset[AddedInputs], OrtCudaModel] = {}
        self._changed = changed
        self._shapes: dict[tuple[object, ...], BoundRun] = {}
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
        return OrtCudaModel(self._component, self.device, self._folder, changed, self.graph_refused)

    def engine(self, shapes: Shapes) -> "OrtCudaEngine":
        """The component at these shapes; the bundle's profiles keep buffers and are recorded as CUDA graphs.

        Raises:
            EngineError: closed, or what is added takes another session, which cannot be opened.
        """
        kept = shapes.profile in self._component.manifest.profiles and shapes.chunks == 1
        _ = self.session
        model = self._with(shapes.added) if shapes.added else self
        asked, taken = (
            self._component.spec_of_any_batch(each) for each in (shapes, replace(shapes, added=model.added))
        )
        return OrtCudaEngine(model, asked, taken, kept=kept)

    def _with(self, added: frozenset[AddedInputs]) -> "OrtCudaModel":
        """The session with inputs added; an open one that takes more serves, too."""
        with self.lock:
            holding = next((model for more, model in self._variants.items() if more >= added), None)
            if holding is None:
                holding = OrtCudaModel(
                    self._component, self.device, self._folder, self._changed, self.graph_refused, added
                )
                self._variants[added] = holding
            return holding

    @cached_property
    def copies(self) -> "Copies":
        """What copies on the device."""
        return Copies(self.device.driver())

    def run(self, spec: EngineSpec, inputs: Mapping[str, Tensor], *, kept: bool) -> "BoundRun":
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

    def bound(self, spec: EngineSpec, inputs: Mapping[str, Tensor], *, kept: bool) -> "BoundRun":
        """The buffers for inputs of these shapes, made once if they are kept; the lock is held.

        Calls that leave out other inputs have buffers and CUDA graphs of their own.
        """
        batched = (tensor.shape[0] for name, tensor in inputs.items() if spec.inputs[name].shape[0] == BATCH)
        batch = next(batched, spec.batches[0])
        if not kept:
            return BoundRun(self, spec, batch, inputs, _NO_GRAPH)
        key = tuple((name, array.shape) for name, array in sorted(inputs.items()))
        if key not in self._shapes:
            self._graphs += 1
            graph = self._graphs if self.graph_refused is None else _NO_GRAPH
            self._shapes[key] = BoundRun(self, spec, batch, inputs, graph)
        return self._shapes[key]

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
        if not self.added:
            return self._component.onnx
        path = self._folder / _graph_file(self.added)
        if not path.is_file():
            raise EngineError(
                f"got an engine of {self._component.name} that was made without inputs for {added_text(self.added)}, "
                "expected one with them; install latentrt[export] and run latentrt build on the bundle"
            )
        return path


class OrtDeviceArray:
    """A ``DeviceArray`` in memory that ONNX Runtime allocated, and frees with it."""

    def __init__(self, value: Any, tensor: TensorSpec, batch: int) -> None:
        """Takes ONNX Runtime's value."""
        self.value = value
        self.shape, self.dtype = tensor.sized(batch), tensor.dtype

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def numpy(self) -> Array:
        """A copy in the host's memory."""
        return np.array(self.value.numpy())


class Copies:
    """Copies between values of ONNX Runtime that are on the device; sessions wait for their runs, and this for its own.

    ONNX Runtime's ``copy_tensors`` does not know the memory of this provider.
    """

    def __init__(self, driver: Driver) -> None:
        """Takes the device."""
        self._driver, self._stream = driver, driver.stream_create()
        weakref.finalize(self, driver.stream_destroy, self._stream).atexit = False

    def copy(self, targets: Iterable[Any], sources: Iterable[Any]) -> None:
        """Copies each source, and waits until all are there."""
        for target, source in zip(targets, sources, strict=True):
            size = target.tensor_size_in_bytes()
            self._driver.copy_on_device(target.data_ptr(), source.data_ptr(), size, self._stream)
        self._driver.stream_synchronize(self._stream)


class BoundRun:
    """Inputs and outputs of one shape in device memory, bound to the session."""

    def __init__(
        self, model: OrtCudaModel, spec: EngineSpec, batch: int, inputs: Mapping[str, Tensor], graph: int
    ) -> None:
        """Allocates and binds."""
        self.recorded = None if graph == _NO_GRAPH else False
        """Whether the graph was recorded, where there is to be one."""
        self._model, self._spec, self._batch = model, spec, batch
        self._session = model.session
        self._binding = self._session.io_binding()
        self._inputs = {name: self._value(spec.inputs[name]) for name in inputs}
        self._left_out = {
            name: self._neutral(spec.inputs[name])
            for name in (tensor.name for tensor in self._session.get_inputs())  # others have defaults in the graph
            if name not in inputs
        }
        self._outputs = {name: self._value(tensor) for name, tensor in spec.outputs.items()}
        for name, tensor in (*self._inputs.items(), *self._left_out.items()):
            self._binding.bind_ortvalue_input(name, tensor)
        for name, tensor in self._outputs.items():
            self._binding.bind_ortvalue_output(name, tensor)
        self._options = model.ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Copies the inputs in, and runs or replays."""
        on_device = {name: tensor.value for name, tensor in inputs.items() if isinstance(tensor, OrtDeviceArray)}
        if on_device:
            self._model.copies.copy((self._inputs[name] for name in on_device), on_device.values())
        for name, array in host_arrays({name: inputs[name] for name in inputs if name not in on_device}).items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        self.recorded = None if self.recorded is None else True

    def results(self) -> dict[str, Array]:
        """Copies of the outputs in the host's memory."""
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def results_on_device(self) -> dict[str, OrtDeviceArray]:
        """Copies of the outputs on the device: the bound ones are written to by the next run."""
        made = {name: self._value(tensor) for name, tensor in self._spec.outputs.items()}
        self._model.copies.copy(made.values(), self._outputs.values())
        return {name: OrtDeviceArray(made[name], tensor, self._batch) for name, tensor in self._spec.outputs.items()}

    def _neutral(self, tensor: TensorSpec) -> Any:
        """Memory on the device that is full of what changes nothing."""
        content = np.full(tensor.sized(self._batch), tensor.neutral, tensor.dtype)
        return self._model.ort.OrtValue.ortvalue_from_numpy(content, self._model.device.memory, 0)

    def _value(self, tensor: TensorSpec) -> Any:
        """Memory on the device."""
        shape, memory = tensor.sized(self._batch), self._model.device.memory
        return self._model.ort.OrtValue.ortvalue_from_shape_and_type(shape, tensor.dtype.type, memory, 0)


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
    def _ran(self, inputs: Mapping[str, Tensor]) -> Iterator[BoundRun]:
        self.spec.check(inputs)
        with self._model.lock, run_errors("close what else uses the GPU or report it"):
            yield self._model.run(self._taken, inputs, kept=self._kept)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()
