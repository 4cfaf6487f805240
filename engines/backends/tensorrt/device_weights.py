"""Weights in device memory, for plans that take them as inputs."""

import ctypes
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np

from latentrt.engines.backends.cuda import Driver, require_memory
from latentrt.engines.spec import Array

_PIECE = 16 * 2**20  # bytes that are copied at a time: all that is pinned


class DeviceWeights:
    """A device buffer per weight, by the name of the input that takes it.

    Attributes:
        addresses: of the buffers.
        bytes: that they take.
    """

    def __init__(self, driver: Driver, contents: Iterable[tuple[str, Array]], component: str) -> None:
        """Allocates, and copies one weight at a time. A stream of its own does that: others go on meanwhile.

        Args:
            driver: the device.
            contents: names and numbers; of one that comes twice the last counts.
            component: its name, for messages.

        Raises:
            EngineError: the device's memory does not hold them; nothing stays allocated.
        """
        self.addresses: dict[str, int] = {}
        self.bytes = 0
        with ExitStack() as taken:
            with ExitStack() as meanwhile:
                stream = driver.stream_create()
                meanwhile.callback(driver.stream_destroy, stream)
                pinned = driver.host_alloc(_PIECE)
                meanwhile.callback(driver.host_free, pinned)
                for name, content in contents:
                    if name not in self.addresses:
                        require_memory(driver, content.nbytes, f"a weight of {component}")
                        self.addresses[name] = driver.malloc(max(content.nbytes, 1))
                        taken.callback(driver.free, self.addresses[name])
                        self.bytes += content.nbytes
                    _copy(driver, content, self.addresses[name], pinned, stream)
            self._taken = taken.pop_all()

    def close(self) -> None:
        """Frees the buffers; may be called twice."""
        self.addresses = {}
        self._taken.close()


def _copy(driver: Driver, content: Array, device: int, pinned: int, stream: int) -> None:
    numbers = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
    for start in range(0, len(numbers), _PIECE):
        piece = numbers[start : start + _PIECE]
        ctypes.memmove(pinned, piece.ctypes.data, len(piece))
        driver.copy_to_device(device + start, pinned, len(piece), stream)
        driver.stream_synchronize(stream)
