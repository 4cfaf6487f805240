"""Weights in device memory once for all plans that take them, such as a U-Net's with and without added inputs."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from threading import Lock, RLock

from latentrt.engines.backends.tensorrt.device_weights import DeviceWeights


class _Entry:
    """Weights with those who have them; its lock is held by the thread that copies them to the device."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0
        self.weights: DeviceWeights | None = None


class SharedWeights:
    """One user's hold on weights that others may have, too; the last one who lets go frees them.

    Attributes:
        addresses: of the buffers, by the name of the input that takes them.
        bytes: that this user added to the device's memory: 0 where they were there.
    """

    def __init__(self, addresses: Mapping[str, int], added_bytes: int, release: Callable[[], None]) -> None:
        self.addresses, self.bytes = addresses, added_bytes
        self._release: Callable[[], None] | None = release

    def close(self) -> None:
        """Lets go; may be called twice."""
        release, self._release = self._release, None
        if release is not None:
            release()


class WeightsPool:
    """Weights by what they are. Thread-safe; a collected owner may let go in the middle of any call."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._entries: dict[Hashable, _Entry] = {}

    def take(self, key: Hashable, make: Callable[[], DeviceWeights]) -> SharedWeights:
        """The weights of a key; made by the first who asks, while others wait.

        Args:
            key: weights of equal keys are equal, and on one device.
            make: copies them there.
        """
        with self._lock:
            while True:
                entry = self._entries.setdefault(key, _Entry())
                entry.users += 1
                if self._entries.get(key) is entry:  # else its last user was collected between these lines
                    break
        added_bytes = 0
        try:
            with entry.lock:
                if entry.weights is None:
                    entry.weights = make()
                    added_bytes = entry.weights.bytes
                addresses = entry.weights.addresses
        except BaseException:
            self._leave(key, entry)
            raise
        return SharedWeights(addresses, added_bytes, lambda: self._leave(key, entry))

    def _leave(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.users:
                return
            with suppress(KeyError):
                del self._entries[key]
        if entry.weights is not None:
            entry.weights.close()


ON_DEVICES = WeightsPool()
"""Those of this process."""
