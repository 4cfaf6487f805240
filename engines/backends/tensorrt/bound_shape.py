"""One shape of a plan with its buffers: what feeds them, and the CUDA graphs of its runs."""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np

from latentrt.engines.backends.cuda import require_memory
from latentrt.engines.backends.device_arrays import Blocks, CudaArray, bytes_of, view
from latentrt.engines.backends.fixed_shapes import fill
from latentrt.engines.backends.tensorrt.plan import OpenPlan
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array, Tensor


@dataclass(frozen=True, kw_only=True)
class Course:
    """What of a run is the same each time, so that it can be recorded.

    ``uploads`` are the inputs that come from the host and change with every run; ``to_host``: the results go there.
    """

    uploads: tuple[str, ...]
    to_host: bool


class _Neutral:
    """What a buffer holds that is full of its input's neutral number."""


_NEUTRAL = _Neutral()


class BoundShape:
    """One shape of a plan: a context, a device buffer per tensor, a pinned one for what passes the host, and graphs.

    A graph holds the copies of inputs that change, the run, and the copies of results to the host. What stays as it is
    over many runs is copied in front of it, when another takes its place: arrays on the device, and arrays that cannot
    be written to. Inputs that are left out are neutral: filled once, and again behind a run that gave them.
    """

    def __init__(self, plan: OpenPlan, index: int, weights: Mapping[str, int]) -> None:
        """Allocates and binds; the plan's lock is held. Weights are bound where they are."""
        self.spec = spec = plan.shapes[index].spec
        self.graph_refused: str | None = None
        self._ran = False
        self._batch = batch = spec.batches[0]
        self._plan = plan
        self._graphs: dict[object, int] = {}
        self._held: dict[str, weakref.ref[Any] | _Neutral] = {}  # what inputs' buffers are known to hold
        self._staging: dict[tuple[str, int], tuple[int, Array]] = {}  # pinned memory, as an address and an array
        self._side = 0  # of several sets of pinned memory the one that is staged into
        self._tensors = {**spec.inputs, **spec.outputs}
        self._sizes = {name: bytes_of(tensor, batch) for name, tensor in self._tensors.items()}
        self._places: dict[str, int] = {}  # device addresses
        self._blocks = Blocks(plan.driver, spec, batch, plan.name)
        driver = plan.driver
        with ExitStack() as taken:
            taken.callback(self._blocks.close)
            require_memory(driver, sum(self._sizes.values()), f"{plan.name}'s inputs and outputs")
            self._context: Any = plan.context()
            taken.callback(self._drop_context)
            self._context.set_device_memory(plan.scratch, plan.scratch_bytes)
            self._require(self._context.set_optimization_profile_async(index, plan.stream), "select a profile")
            for name, size in self._sizes.items():
                self._places[name] = driver.malloc(size)
                taken.callback(driver.free, self._places[name])
                self._require(self._context.set_tensor_address(name, self._places[name]), f"bind {name}")
            for name, address in weights.items():  # their shapes are the network's own
                self._require(self._context.set_tensor_address(name, address), f"bind {name}")
            for name, tensor in spec.inputs.items():
                self._require(self._context.set_input_shape(name, tensor.sized(batch)), f"size {name}")
            driver.stream_synchronize(plan.stream)
            self._taken = taken.pop_all()

    @property
    def bytes(self) -> int:
        """Device memory of inputs, outputs and results that were kept."""
        return sum(self._sizes.values()) + self._blocks.bytes

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """One run with its results in the host's memory; the plan's lock is held."""
        self._run(inputs, {}, to_host=True)
        return {name: self._staged(name).copy() for name in self.spec.outputs}

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, CudaArray]:
        """One run with its results on the device, complete; the plan's lock is held."""
        results = self._blocks.arrays()
        self._run(inputs, results, to_host=False)
        return results

    def close(self) -> None:
        """Frees the buffers, the context and the graphs."""
        with ExitStack() as taken:
            taken.enter_context(self._taken.pop_all())
            for _, graph in self._graphs.items():
                taken.callback(self._plan.driver.graph_destroy, graph)
            self._graphs, self._staging, self._places, self._held = {}, {}, {}, {}

    def _run(self, inputs: Mapping[str, Tensor], results: Mapping[str, CudaArray], *, to_host: bool) -> None:
        """Feeds, runs or replays, and waits. The first run of a course warms up, and is recorded behind it.

        Whoever takes a result finds it complete, whatever stream it is taken on, and what was taken may go.
        """
        driver, stream = self._plan.driver, self._plan.stream
        try:
            course = Course(uploads=self._fed(inputs), to_host=to_host)
            graph = self._graphs.get(course)
            if graph is None:
                self._enqueue(course)
            else:
                driver.launch(graph, stream)
            for name, array in results.items():
                driver.copy_on_device(array.address, self._places[name], array.nbytes, stream)
            driver.stream_synchronize(stream)
        except BaseException:  # Ctrl-C, too
            self._held = {}  # nobody knows how far it came
            with suppress(EngineError):
                driver.stream_synchronize(stream)
            raise
        if graph is None and self.graph_refused is None:
            self._capture(course, course)
        self._keep_kernels()

    def _keep_kernels(self) -> None:
        """Behind the first run all kernels are compiled."""
        if not self._ran:
            self._ran = True
            self._plan.keep_kernels()

    def _fed(self, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Puts inputs where they are taken from; returns those whose pinned memory is still to be copied."""
        uploads = []
        for name in self._fed_names:
            tensor = inputs.get(name)
            held = self._held.pop(name, None)
            if tensor is None:
                if held is not _NEUTRAL:
                    self._neutralise(name)
                self._held[name] = _NEUTRAL
            elif _changes(tensor):
                self._stage(name, tensor)
                uploads.append(name)
            else:
                if not isinstance(held, weakref.ref) or held() is not tensor:
                    self._place(name, tensor)
                self._held[name] = weakref.ref(tensor)
        return tuple(uploads)

    def _place(self, name: str, tensor: Tensor) -> None:
        """Copies what stays as it is."""
        driver, stream, size = self._plan.driver, self._plan.stream, self._sizes[name]
        if isinstance(tensor, CudaArray) and tensor.driver is driver and tensor.nbytes == size:
            tensor.complete()
            driver.copy_on_device(self._places[name], tensor.address, size, stream)
            return
        self._stage(name, tensor if isinstance(tensor, np.ndarray) else tensor.numpy())
        self._upload(name)

    def _neutralise(self, name: str) -> None:
        """Fills a buffer with what changes nothing."""
        number = self.spec.inputs[name].neutral
        if number:
            self._staged(name)[...] = number
            self._upload(name)
        else:
            self._plan.driver.clear(self._places[name], self._sizes[name], self._plan.stream)

    def _stage(self, name: str, array: Array) -> None:
        """Puts an array into an input's pinned memory."""
        fill(self._staged(name), array, self.spec.inputs[name].neutral)

    @cached_property
    def _fed_names(self) -> tuple[str, ...]:
        """The inputs that a run is fed."""
        return tuple(self.spec.inputs)

    def _staged(self, name: str) -> Array:
        """A tensor's pinned memory, which is taken when it first passes the host."""
        key = name, self._side
        if key not in self._staging:
            driver, tensor = self._plan.driver, self._tensors[name]
            pinned = driver.host_alloc(self._sizes[name])
            self._taken.callback(driver.host_free, pinned)
            self._staging[key] = pinned, view(pinned, tensor.sized(self._batch), tensor.dtype)
        return self._staging[key][1]

    def _upload(self, name: str) -> None:
        pinned, _ = self._staging[name, self._side]
        self._plan.driver.copy_to_device(self._places[name], pinned, self._sizes[name], self._plan.stream)

    def _enqueue(self, course: Course) -> None:
        driver, stream = self._plan.driver, self._plan.stream
        for name in course.uploads:
            self._upload(name)
        self._require(self._context.execute_async_v3(stream), "run")
        for name in self.spec.outputs if course.to_host else ():
            self._staged(name)
            driver.copy_to_host(self._staging[name, self._side][0], self._places[name], self._sizes[name], stream)

    def _capture(self, course: Course, key: object) -> None:
        """Records a run, to be found by a key.

        A plan that cannot be recorded goes on without: slower by its launches, nothing else.
        """
        driver, stream = self._plan.driver, self._plan.stream
        try:
            driver.begin_capture(stream)
            try:
                self._enqueue(course)
            except BaseException:  # Ctrl-C, too
                with suppress(EngineError):
                    driver.graph_destroy(driver.end_capture(stream))  # the stream must leave its recording
                raise
            self._graphs[key] = driver.end_capture(stream)
        except EngineError as error:
            self.graph_refused = str(error)

    def _require(self, done: Any, what: str) -> None:
        if not done:
            raise EngineError(f"TensorRT cannot {what} for {self._plan.name}; open the bundle again or report it")

    def _drop_context(self) -> None:
        self._context = None


def _changes(tensor: Tensor) -> TypeGuard[Array]:
    """Whether a tensor may hold other numbers in the next run: arrays do that can be written to, or their owner can."""
    return isinstance(tensor, np.ndarray) and (tensor.flags.writeable or tensor.base is not None)
