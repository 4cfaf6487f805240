"""A TensorRT plan on the device: what all models of it share."""

import mmap
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Any

from latentrt.engines.backends.cuda import Driver, require_memory
from latentrt.engines.backends.tensorrt.kernel_cache import KernelCache
from latentrt.engines.backends.tensorrt.logger import first_error, tensorrt_logger
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError

CLOSED = "the engine is closed; open the bundle again"
"""What is said to those who run one that was closed."""


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


class OpenPlan:
    """A plan, opened: its constants, one stream, and scratch memory that all runs share, because one runs at a time.

    Attributes:
        name: what sentences call the component.
        shapes: what it was compiled for.
        weight_inputs: the inputs that are weights: all but the component's own.
        lock: held by whoever runs.
        bytes: of device memory, about: the plan's size and the scratch memory.
    """

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
        self.driver = driver
        self.name = component.label
        self.shapes = component.static_shapes
        self.lock = RLock()
        self._trt = trt
        self._kernels = KernelCache(plan, driver)
        with ExitStack() as taken:
            size = plan.stat().st_size
            require_memory(driver, size, f"the weights of {self.name}")
            runtime, engine = engine_from_plan(trt, plan, maker)
            self._owned: list[Any] = [engine, runtime]
            taken.callback(self._release)
            self.weight_inputs = self._check()
            scratch = int(engine.device_memory_size_v2)
            require_memory(driver, scratch, f"a run of {self.name}")
            self.scratch_bytes = max(scratch, 1)
            self.scratch = driver.malloc(self.scratch_bytes)
            taken.callback(driver.free, self.scratch)
            self.stream = driver.stream_create()
            taken.callback(driver.stream_destroy, self.stream)
            self.bytes = size + scratch
            self._taken = taken.pop_all()

    @property
    def engine(self) -> Any:
        """TensorRT's engine.

        Raises:
            EngineError: the plan was closed.
        """
        if not self._owned:
            raise EngineError(CLOSED)
        return self._owned[0]

    def context(self) -> Any:
        """An execution context that brings no memory of its own.

        Raises:
            EngineError: closed, or TensorRT refuses it.
        """
        trt, engine = self._trt, self.engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):  # TensorRT-RTX
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            # A graph would hold on to the fallback kernels that it runs until its own are compiled
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._kernels.use(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError("TensorRT cannot create an execution context; close what else uses the GPU or report it")
        return context

    def keep_kernels(self) -> None:
        """Keeps what contexts compiled for the next process; the lock is held, and a run is done."""
        self._kernels.keep()

    def wait(self) -> None:
        """Returns when all runs are done; at once where the plan was closed, which waits for them."""
        with self.lock:
            if self._owned:
                self.driver.stream_synchronize(self.stream)

    def close(self) -> None:
        """Frees everything on the device; may be called twice."""
        self._taken.close()

    def _release(self) -> None:
        self._kernels.close()
        while self._owned:
            self._owned.pop(0)  # the engine before the runtime

    def _check(self) -> tuple[str, ...]:
        """The inputs that are weights. Refuses a plan whose profiles are not those that the bundle asks for."""
        engine, shapes = self.engine, self.shapes
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        expected = {*shapes[0].spec.inputs, *shapes[0].spec.outputs}
        fits = expected <= set(names) and engine.num_optimization_profiles == len(shapes)
        for index, shape in enumerate(shapes):
            for name, tensor in shape.spec.inputs.items():
                sized = tensor.sized(shape.spec.batches[0])
                fits = fits and all(tuple(dims) == sized for dims in engine.get_tensor_profile_shape(name, index))
        if not fits:
            raise EngineError(
                f"the plan of {self.name} has other inputs, outputs or profiles than the bundle; build the engine "
                "again with latentrt build"
            )
        return tuple(name for name in names if name not in expected)
