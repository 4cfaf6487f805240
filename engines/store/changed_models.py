"""Models with changed weights that stay open, so that a set of LoRAs that was used before is there at once."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from latentrt.engines.backends.compiler import Model
from latentrt.engines.errors import RequestError


class _Slot:
    """One model, once it is made; its lock is held by the thread that makes it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.model: Model | None = None


class ChangedModels:
    """Of each component the changed models that were used last. Thread-safe.

    A model that is put out goes on serving the calls that have it, and is freed with the last of them.
    """

    def __init__(self, size: int) -> None:
        """Keeps none yet.

        Args:
            size: how many models of each component stay.

        Raises:
            RequestError: less than 0.
        """
        self._lock = Lock()
        self._slots: OrderedDict[tuple[str, str], _Slot] = OrderedDict()
        self._size = 0
        self.size = size

    @property
    def size(self) -> int:
        """How many sets of LoRAs stay ready: changed models of each component. Setting it puts out what is too much."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise RequestError(f"got {size!r} sets of LoRAs to keep, expected a whole number from 0 on; correct it")
        with self._lock:
            self._size = size
            for component in {component for component, _ in self._slots}:
                self._put_out(component, size)

    @property
    def bytes(self) -> int:
        """Memory that the models take beside the ones that they were made of."""
        with self._lock:
            models = [slot.model for slot in self._slots.values()]
        return sum(model.own_bytes for model in models if model is not None)

    def model(self, component: str, key: str, make: Callable[[], Model]) -> Model:
        """A component's model with changes of some key; made by the first who asks, while others wait.

        Args:
            component: its name.
            key: of the changes.
            make: makes it.
        """
        with self._lock:
            slot = self._slots.pop((component, key), None)
            if slot is None:
                slot = _Slot()
                self._put_out(component, self._size - 1)  # before the new one takes memory
            if self._size:
                self._slots[component, key] = slot
        with slot.lock:
            if slot.model is None:
                try:
                    slot.model = make()
                except BaseException:
                    with self._lock:
                        if self._slots.get((component, key)) is slot:
                            del self._slots[component, key]
                    raise
            return slot.model

    def clear(self) -> None:
        """Puts out all."""
        with self._lock:
            self._slots.clear()

    def close(self) -> None:
        """Closes all, those in use, too."""
        with self._lock:
            models = [slot.model for slot in self._slots.values()]
            self._slots.clear()
        for model in models:
            if model is not None:
                model.close()

    def _put_out(self, component: str, left: int) -> None:
        """Keeps the last few of a component; the lock is held."""
        of_component = [key for key in self._slots if key[0] == component]
        for key in of_component[: max(len(of_component) - max(left, 0), 0)]:
            del self._slots[key]
