"""Results that stay in device memory, for other engines on the same device."""

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from latentrt.engines.backends.cuda import Driver, require_memory
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array, EngineSpec, TensorSpec

_ALIGNMENT = 256  # bytes, as cudaMalloc


class Block:
    """Device memory for all results of one run. What nobody has any more goes back to where it came from."""

    def __init__(self, address: int) -> None:
        self.address = address


class CudaArray:
    """A ``DeviceArray`` in a block that it keeps, never written to again.

    Complete when it is handed out; or, of an engine that does not wait for its runs, once ``complete`` returns.
    """

    def __init__(
        self, driver: Driver, block: Block, offset: int, tensor: TensorSpec, batch: int, wait: Callable[[], None]
    ) -> None:
        self.driver = driver
        self.shape, self.dtype = tensor.sized(batch), tensor.dtype
        self.complete = wait
        self._block, self._offset, self._tensor = block, offset, tensor

    @property
    def address(self) -> int:
        """Where it is, for as long as this lives."""
        return self._block.address + self._offset

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def numpy(self) -> Array:
        """A copy in the host's memory.

        Raises:
            EngineError: CUDA refuses it.
        """
        driver = self.driver
        self.complete()
        with ExitStack() as meanwhile:
            pinned = driver.host_alloc(self.nbytes)
            meanwhile.callback(driver.host_free, pinned)
            stream = driver.stream_create()
            meanwhile.callback(driver.stream_destroy, stream)
            driver.copy_to_host(pinned, self.address, self.nbytes, stream)
            driver.stream_synchronize(stream)
            return view(pinned, self.shape, self.dtype).copy()

    def rows(self, start: int, stop: int) -> "CudaArray":
        """Some of its rows, in the same block."""
        offset = self._offset + start * (self.nbytes // self.shape[0])
        return CudaArray(self.driver, self._block, offset, self._tensor, stop - start, self.complete)


class Blocks:
    """The blocks of one kind of run: allocated as they are needed, and used again.

    Arrays are freed by whichever thread lets go of them last, perhaps in the middle of another engine's run, so that
    must not wait for a lock; taking a block is for who holds the plan's.
    """

    def __init__(self, driver: Driver, spec: EngineSpec, batch: int, name: str) -> None:
        """Allocates nothing yet.

        Args:
            driver: the device.
            spec: whose outputs they hold.
            batch: of a run.
            name: of the component, for messages.
        """
        self.bytes = 0
        self._driver, self._outputs, self._batch, self._name = driver, spec.outputs, batch, name
        self._offsets: dict[str, int] = {}
        self._size = 0
        for output, tensor in spec.outputs.items():
            self._offsets[output] = self._size
            self._size += -(-bytes_of(tensor, batch) // _ALIGNMENT) * _ALIGNMENT
        self._free: deque[int] = deque()
        self._addresses: set[int] = set()
        self._closed = False

    def arrays(self, wait: Callable[[], None] = lambda: None) -> Mapping[str, CudaArray]:
        """Arrays for the results of a run, to be filled.

        Args:
            wait: returns when they are; nothing where whoever fills them waits.

        Raises:
            EngineError: the device's memory does not hold them.
        """
        try:
            address = self._free.pop()
        except IndexError:
            require_memory(self._driver, self._size, f"{self._name}'s results")
            address = self._driver.malloc(self._size)
            self.bytes += self._size
            self._addresses.add(address)
        block = Block(address)
        weakref.finalize(block, self._give_back, address).atexit = False  # the process takes its memory with it
        return {
            name: CudaArray(self._driver, block, self._offsets[name], tensor, self._batch, wait)
            for name, tensor in self._outputs.items()
        }

    def begins(self, array: CudaArray, output: str) -> bool:
        """Whether an array begins where one of these blocks has an output."""
        return array.driver is self._driver and array.address - self._offsets[output] in self._addresses

    def close(self) -> None:
        """Frees what nobody has; the rest is freed as its arrays go."""
        self._closed = True
        self._drain()

    def _give_back(self, address: int) -> None:
        self._free.append(address)
        if self._closed:
            with suppress(EngineError):
                self._drain()

    def _drain(self) -> None:
        while True:
            try:
                address = self._free.pop()  # which one thread alone gets
            except IndexError:
                return
            self._driver.free(address)


def bytes_of(tensor: TensorSpec, batch: int) -> int:
    """A tensor's size at a batch."""
    return int(np.prod(tensor.sized(batch))) * tensor.dtype.itemsize


def view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Memory of the host as an array."""
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return content.view(dtype).reshape(shape)
