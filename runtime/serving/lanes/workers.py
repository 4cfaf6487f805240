"""Threads that draw what was submitted to a pipeline, first come, first served."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

from latentrt.engines.errors import EngineError
from latentrt.engines.forks import watch_forks
from latentrt.runtime.serving.lanes.future import DrawnFuture

_NAME = "latentrt-draw"
_Drawn = TypeVar("_Drawn")


class Workers:
    """The threads of one pipeline. Each begins when it is first needed; they end as it is closed."""

    def __init__(self, count: int) -> None:
        """Starts none yet.

        Args:
            count: how many calls are drawn at once; others wait.
        """
        self._count = count
        self._closed = False
        self._begin()
        watch_forks(self)

    def submit(self, future: DrawnFuture[_Drawn], draw: Callable[[], _Drawn]) -> None:
        """Has a future drawn when it is its turn.

        Raises:
            EngineError: closed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the pipeline is closed; open the bundle again")
            self._futures.add(future)
            self._pool.submit(future.draw, draw)

    def close(self) -> None:
        """Cancels all: what waits is not drawn, and what runs has ended at its next step when this returns."""
        with self._lock:
            self._closed = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()
        # A callback may close the pipeline that calls it
        self._pool.shutdown(wait=not threading.current_thread().name.startswith(_NAME))

    def after_fork(self) -> None:
        """Called in a forked process, where the threads are not there: what was submitted is the parent's."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._futures: WeakSet[DrawnFuture[Any]] = WeakSet()
        self._pool = ThreadPoolExecutor(self._count, _NAME)
