"""Running a TensorRT plan: everything is allocated and bound once, and a run is one launch of a CUDA graph."""

import ctypes
import mmap
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from latentrt.engines.backends.cuda import Driver, require_memory
from latentrt.engines.backends.tensorrt.logger import first_error, tensorrt_logger
from latentrt.engines.bundle.component import Component, StaticShape
from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec, TensorSpec

_CLOSED = "the engine is closed; open the bundle again"


def engine_from_plan(trt: Any, plan: Path, maker: str) -> tuple[Any, Any]:
    """The runtime and the engine of a plan: its weights are on the device then. The runtime must outlive the engine.

    Raises:
        EngineError: TensorRT refuses the plan.
    """
    log = tensorrt_logger(trt)
    runtime = trt.Runtime(log)
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"{maker} cannot open {str(plan)!r}: {first_error(log, 'no reason given')}; build the engine again with "
            "latentrt build"
        )
    return runtime, engine


class TensorRTModel:
    """A plan, opened: weights, one stream, and scratch memory that all shapes share, because one runs at a time."""

    def __init__(self, trt: Any, driver: Driver, component: Component, plan: Path, *, maker: str) -> None:
        """Reads the plan onto the device.

        Args:
            trt: the module ``tensorrt`` or ``tensorrt_rtx``.
            driver: the device.
            component: whose plan it is.
            plan: the file.
            maker: the module's name for people.

        Raises:
            EngineError: the device's memory does not hold it, or TensorRT refuses it; nothing stays allocated.
        """
        self.trt = trt
        self.driver = driver
        self.name = component.name
        self.lock = RLock()
        self._shapes = component.static_shapes
        self._bound: dict[int, BoundShape] = {}
        self._holds_less = component.kind.planes is Planes.PICTURE
        with ExitStack() as taken:
            require_memory(driver, plan.stat().st_size, f"the weights of {self.name}")
            runtime, engine = engine_from_plan(trt, plan, maker)
            self._owned: list[Any] = [engine, runtime]
            taken.callback(self._release)
            _check_plan(engine, self.name, self._shapes)
            scratch = int(engine.device_memory_size_v2)
            require_memory(driver, scratch, f"a run of {self.name}")
            self.scratch_bytes = max(scratch, 1)
            self.scratch = driver.malloc(self.scratch_bytes)
            taken.callback(driver.free, self.scratch)
            self.stream = driver.stream_create()
            taken.callback(driver.stream_destroy, self.stream)
            self._taken = taken.pop_all()

    @property
    def plan(self) -> Any:
        """TensorRT's engine.

        Raises:
            EngineError: the model was closed.
        """
        if not self._owned:
            raise EngineError(_CLOSED)
        return self._owned[0]

    def engine(self, shapes: Shapes) -> "TensorRTEngine":
        """The component at one of the profiles; where tiles may come, the smallest that holds another size.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: closed, or no memory for the profile's buffers.
        """
        index = self._index(shapes)
        with self.lock:
            plan = self.plan
            if index not in self._bound:
                self._bound[index] = BoundShape(self, plan, index, self._shapes[index].spec)
            return TensorRTEngine(self, self._bound[index])

    def close(self) -> None:
        """Frees everything on the device; may be called twice, and waits for a run that is under way."""
        with self.lock:
            bound, self._bound = self._bound, {}
            with ExitStack() as rest:
                rest.enter_context(self._taken.pop_all())
                for shape in bound.values():
                    rest.callback(shape.close)

    def _release(self) -> None:
        while self._owned:
            self._owned.pop(0)  # the engine before the runtime

    def _index(self, shapes: Shapes) -> int:
        profile = shapes.profile
        known = [str(served) for shape in self._shapes for served in shape.profiles]
        if shapes.chunks > 1:
            raise RequestError(
                f"got a prompt of {shapes.chunks} chunks, but the engine of {self.name} was compiled for prompts of "
                "one; shorten the prompt, or open the bundle with the backend ort-cpu"
            )
        for index, shape in enumerate(self._shapes):
            if profile in shape.profiles:
                return index
        # Tiles have sizes that are no profile's
        holding = [
            (served.width * served.height, index)
            for index, shape in enumerate(self._shapes)
            for served in shape.profiles
            if served.width >= profile.width and served.height >= profile.height and self._holds_less
        ]
        if not holding:
            raise RequestError(
                f"got size {profile.width}x{profile.height}, but the engine of {self.name} was compiled for "
                f"{', '.join(known)}; ask for one of these, or build again with --profile "
                f"{profile.width}x{profile.height}"
            )
        return min(holding)[1]


class BoundShape:
    """One shape of a plan: a context, a device buffer and a pinned one per tensor, and the graph of a run."""

    def __init__(self, model: TensorRTModel, plan: Any, index: int, spec: EngineSpec) -> None:
        """Allocates and binds; the model's lock is held."""
        self.spec = spec
        self.graph: int | None = None
        self.graph_refused: str | None = None
        self._model = model
        self._staging: dict[str, Array] = {}
        self._places: dict[str, tuple[int, int, int]] = {}  # device address, pinned address, bytes
        driver = model.driver
        tensors = {**spec.inputs, **spec.outputs}
        sizes = {name: _bytes(tensor, spec.batches[0]) for name, tensor in tensors.items()}
        with ExitStack() as taken:
            require_memory(driver, sum(sizes.values()), f"{model.name}'s inputs and outputs")
            self._context: Any = _context(model.trt, plan)
            taken.callback(self._drop_context)
            self._context.set_device_memory(model.scratch, model.scratch_bytes)
            self._require(self._context.set_optimization_profile_async(index, model.stream), "select a profile")
            for name, tensor in tensors.items():
                size = sizes[name]
                device = driver.malloc(size)
                taken.callback(driver.free, device)
                pinned = driver.host_alloc(size)
                taken.callback(driver.host_free, pinned)
                self._places[name] = device, pinned, size
                self._staging[name] = _view(pinned, tensor, spec.batches[0])
                self._require(self._context.set_tensor_address(name, device), f"bind {name}")
            for name, tensor in spec.inputs.items():
                self._require(self._context.set_input_shape(name, tensor.sized(spec.batches[0])), f"size {name}")
            driver.stream_synchronize(model.stream)
            self._taken = taken.pop_all()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run; the model's lock is held. The first one warms up and is recorded behind it."""
        driver, stream = self._model.driver, self._model.stream
        for name in self.spec.inputs:
            self._staging[name][...] = inputs[name]
        if self.graph is None:
            self._enqueue()
        else:
            driver.launch(self.graph, stream)
        driver.stream_synchronize(stream)
        outputs = {name: self._staging[name].copy() for name in self.spec.outputs}
        if self.graph is None and self.graph_refused is None:
            self._capture()
        return outputs

    def close(self) -> None:
        """Frees the buffers, the context and the graph."""
        with ExitStack() as taken:
            taken.enter_context(self._taken.pop_all())
            if self.graph is not None:
                taken.callback(self._model.driver.graph_destroy, self.graph)
            self.graph, self._staging, self._places = None, {}, {}

    def _enqueue(self) -> None:
        driver, stream = self._model.driver, self._model.stream
        for name in self.spec.inputs:
            device, pinned, size = self._places[name]
            driver.copy_to_device(device, pinned, size, stream)
        self._require(self._context.execute_async_v3(stream), "run")
        for name in self.spec.outputs:
            device, pinned, size = self._places[name]
            driver.copy_to_host(pinned, device, size, stream)

    def _capture(self) -> None:
        """Records a run. A plan that cannot be recorded goes on without: slower by its launches, nothing else."""
        driver, stream = self._model.driver, self._model.stream
        try:
            driver.begin_capture(stream)
            try:
                self._enqueue()
            except BaseException:  # Ctrl-C, too
                with suppress(EngineError):
                    driver.graph_destroy(driver.end_capture(stream))  # the stream must leave its recording
                raise
            self.graph = driver.end_capture(stream)
        except EngineError as error:
            self.graph_refused = str(error)

    def _require(self, done: Any, what: str) -> None:
        if not done:
            raise EngineError(f"TensorRT cannot {what} for {self._model.name}; open the bundle again or report it")

    def _drop_context(self) -> None:
        self._context = None


class TensorRTEngine(ClosesItself):
    """An ``Engine`` at one shape of a shared ``TensorRTModel``."""

    def __init__(self, model: TensorRTModel, shape: BoundShape) -> None:
        self.spec = shape.spec
        self._model = model
        self._shape = shape

    @property
    def graph_refused(self) -> str | None:
        """Why runs are not launched as a CUDA graph, if they are not."""
        return self._shape.graph_refused

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the component on arrays that match ``spec``; new arrays come back. Threads take turns."""
        self.spec.check(inputs)
        with self._model.lock:
            _ = self._model.plan  # refuses where it was closed
            return self._shape.run(inputs)

    def close(self) -> None:
        """Closes the shared model."""
        self._model.close()


def _check_plan(engine: Any, component: str, shapes: tuple[StaticShape, ...]) -> None:
    """Refuses a plan whose profiles are not those that the bundle's manifest asks for."""
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    expected = {*shapes[0].spec.inputs, *shapes[0].spec.outputs}
    fits = names == expected and engine.num_optimization_profiles == len(shapes)
    for index, shape in enumerate(shapes):
        for name, tensor in shape.spec.inputs.items():
            sized = tensor.sized(shape.spec.batches[0])
            fits = fits and all(tuple(dims) == sized for dims in engine.get_tensor_profile_shape(name, index))
    if not fits:
        raise EngineError(
            f"the plan of {component} has other inputs, outputs or profiles than the bundle; build the engine again "
            "with latentrt build"
        )


def _context(trt: Any, engine: Any) -> Any:
    """An execution context that brings no memory of its own."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        # TensorRT-RTX: a graph would hold on to the fallback kernels that it runs until its own are compiled
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        context = engine.create_execution_context(config)
    else:
        context = engine.create_execution_context(strategy)
    if context is None:
        raise EngineError("TensorRT cannot create an execution context; close what else uses the GPU or report it")
    return context


def _bytes(tensor: TensorSpec, batch: int) -> int:
    return int(np.prod(tensor.sized(batch))) * tensor.dtype.itemsize


def _view(address: int, tensor: TensorSpec, batch: int) -> Array:
    """Memory as an array."""
    content = np.ctypeslib.as_array((ctypes.c_uint8 * _bytes(tensor, batch)).from_address(address))
    return content.view(tensor.dtype).reshape(tensor.sized(batch))
