"""The two halves of a batch at once, instead of every operator shared among the cores.

A guided step is a batch of two. Sharing an operator costs handing parts of it to other cores, and waiting for the
slowest of them; so each half runs through the whole graph on cores of its own instead. Pictures of the embedded model,
whose operators take microseconds, take 15 % less time (two cores), a step of SD 1.5's U-Net 4 to 5 % less.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

import numpy as np

from latentrt.engines.errors import EngineError
from latentrt.engines.ort import CLOSED
from latentrt.engines.spec import BATCH, Array


class Halves:
    """In place of ONNX Runtime's session: ``run`` takes what that does and returns the same.

    But for the last bits: some products round by the size of the batch.
    """

    def __init__(self, narrow: Any, whole: Callable[[], Any]) -> None:
        """Starts no thread yet.

        Args:
            narrow: a session for two callers at once: each brings a thread, so it has one less than there are cores.
            whole: opens a session for one caller, once there is a batch of one.
        """
        self._narrow, self._open_whole, self._whole = narrow, whole, None
        self._batched = {tensor.name for tensor in narrow.get_inputs() if tensor.shape and tensor.shape[0] == BATCH}
        self._other = ThreadPoolExecutor(1, thread_name_prefix="latentrt-half")
        self._lock = Lock()

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs of those names; thread-safe.

        Raises:
            EngineError: it was closed.
        """
        with self._lock:
            narrow = self._narrow
            if narrow is None:
                raise EngineError(CLOSED)
        batch = max((len(inputs[name]) for name in self._batched), default=1)
        if batch < 2:
            return list(self._for_one().run(names, inputs))
        middle = (batch + 1) // 2
        first, second = self._part(inputs, 0, middle), self._part(inputs, middle, batch)
        try:
            other: Future[list[Array]] = self._other.submit(narrow.run, names, second)
        except RuntimeError:  # closed meanwhile, or the interpreter ends and this thread is left
            return list(narrow.run(names, inputs))
        try:
            found = narrow.run(names, first)
            # Behind another caller's half it may still wait
            rest = narrow.run(names, second) if other.cancel() else other.result()
        finally:
            if not other.cancel():
                wait([other])
        return [np.concatenate(pair) for pair in zip(found, rest, strict=True)]

    def end_profiling(self) -> str:
        """Where the profiler wrote what it saw of both halves."""
        return str(self._narrow.end_profiling())

    def close(self) -> None:
        """Ends the thread and gives up the sessions; runs under way end."""
        with self._lock:
            self._narrow = self._whole = None
        self._other.shutdown()

    def _part(self, inputs: Mapping[str, Array], begin: int, end: int) -> dict[str, Array]:
        return {name: value[begin:end] if name in self._batched else value for name, value in inputs.items()}

    def _for_one(self) -> Any:
        with self._lock:
            if self._narrow is None:
                raise EngineError(CLOSED)
            if self._whole is None:
                self._whole = self._open_whole()
            return self._whole
