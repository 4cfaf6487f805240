"""One shape of a plan that makes whole steps: state is read and written where it is, in turn in two sets of buffers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

import numpy as np

from latentrt.engines.backends.device_arrays import CudaArray
from latentrt.engines.backends.tensorrt.bound_shape import BoundShape, Course
from latentrt.engines.backends.tensorrt.plan import OpenPlan
from latentrt.engines.bundle.unet.denoise_step import NEXT_STATE, STATE
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array, StackedArray, Tensor

_MOST_GRAPHS = 32
"""Pairs of buffers whose runs are recorded. One run alternates between two; several runs share what is free."""


class BoundSteps(BoundShape):
    """A ``BoundShape`` of whole steps, of any number of rows up to its batch.

    A step's results are a block of their own, which the plan writes to and the next step reads from: nothing is copied.
    The block that a run let go of takes the results of the next step, so a run alternates between two, and each
    direction is recorded once. Numbers of the host have pinned memory for each block: those of a step are written while
    the step before it runs. No step is waited for but by who takes its results, and by the next one.
    """

    def __init__(self, plan: OpenPlan, index: int, weights: Mapping[str, int]) -> None:
        """Allocates and binds; the plan's lock is held."""
        super().__init__(plan, index, weights)
        self.spec = replace(self.spec, batches=tuple(range(1, self._batch + 1)), filled=(self._batch,), stacks=True)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """One step with its results in the host's memory; the plan's lock is held."""
        return {name: array.numpy() for name, array in self.run_kept(inputs).items()}

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, CudaArray]:
        """One step with its results on the device, complete once they say so; the plan's lock is held."""
        driver, stream = self._plan.driver, self._plan.stream
        results = self._blocks.arrays(self._plan.wait)
        self._side = results[NEXT_STATE].address
        try:
            source = self._source(inputs[STATE])
            course = Course(uploads=self._fed(inputs), to_host=False)
            driver.stream_synchronize(stream)
            self._step(course, source, results)
        except BaseException:  # Ctrl-C, too
            self._held = {}  # nobody knows how far it came
            with suppress(EngineError):
                driver.stream_synchronize(stream)
            raise
        rows = inputs[STATE].shape[0]
        return results if rows == self._batch else {name: array.rows(0, rows) for name, array in results.items()}

    def close(self) -> None:
        """Frees the buffers, the context and the graphs, once nothing runs."""
        with suppress(EngineError):
            self._plan.driver.stream_synchronize(self._plan.stream)
        super().close()

    @cached_property
    def _fed_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.spec.inputs if name != STATE)

    def _stage(self, name: str, array: Array) -> None:
        """Puts an array into an input's pinned memory; rows below it count nothing."""
        if len(array) == self._batch:
            super()._stage(name, array)
        else:
            staged = self._staged(name)
            staged[: len(array)], staged[len(array) :] = array, 0

    def _place(self, name: str, tensor: Tensor) -> None:
        """Copies what stays as it is, or is on the device, perhaps in parts."""
        if isinstance(tensor, np.ndarray):
            super()._place(name, tensor)
        else:
            self._assemble(name, _parts(tensor), self._places[name])

    def _source(self, state: Tensor) -> CudaArray:
        """A block whose first rows are a state: the one that it is in, or another to which it is copied."""
        parts = _parts(state)
        first = parts[0]
        if isinstance(first, CudaArray) and self._blocks.begins(first, NEXT_STATE) and _one_below_the_other(parts):
            return first
        block = self._blocks.arrays(self._plan.wait)[NEXT_STATE]
        self._assemble(STATE, parts, block.address)
        return block

    def _assemble(self, name: str, parts: Sequence[Tensor], address: int) -> None:
        """Copies arrays one below the other, with zeros below them."""
        driver, stream, size = self._plan.driver, self._plan.stream, self._sizes[name]
        row_size, row = size // self._batch, 0
        rows = sum(part.shape[0] for part in parts)
        if rows < self._batch:
            driver.clear(address, size, stream)
        for part in parts:
            place, stop = address + row * row_size, row + part.shape[0]
            if isinstance(part, CudaArray) and part.driver is driver:
                if not self._blocks.begins(part, NEXT_STATE):  # of another plan, on a stream of its own
                    part.complete()
                driver.copy_on_device(place, part.address, part.nbytes, stream)
            else:
                self._staged(name)[row:stop] = part if isinstance(part, np.ndarray) else part.numpy()
                pinned = self._staging[name, self._side][0] + row * row_size
                driver.copy_to_device(place, pinned, part.shape[0] * row_size, stream)
            row = stop

    def _step(self, course: Course, source: CudaArray, results: Mapping[str, CudaArray]) -> None:
        """Replays the step from one block to another, or makes it and records it."""
        driver, stream = self._plan.driver, self._plan.stream
        key = course, source.address, self._side
        graph = self._graphs.get(key)
        if graph is not None:
            driver.launch(graph, stream)
            return
        for name, array in {STATE: source, **results}.items():
            self._require(self._context.set_tensor_address(name, array.address), f"bind {name}")
        self._enqueue(course)
        if self.graph_refused is None and len(self._graphs) < _MOST_GRAPHS:
            self._capture(course, key)
        self._keep_kernels()


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.parts if isinstance(tensor, StackedArray) else (tensor,)


def _one_below_the_other(parts: Sequence[Tensor]) -> bool:
    """Whether each part begins where the one before it ends."""
    ends = [part.address + part.nbytes if isinstance(part, CudaArray) else None for part in parts]
    begins = [part.address if isinstance(part, CudaArray) else -1 for part in parts]
    return ends[:-1] == begins[1:]
