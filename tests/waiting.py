"""Waiting for what another thread does."""

import threading
from collections.abc import Callable

SOON = 60.0
"""Seconds that nothing here takes."""


def until(true: Callable[[], bool]) -> None:
    """Waits for something that another thread does."""
    pause = threading.Event()
    for _ in range(int(SOON / 0.001)):
        if true():
            return
        pause.wait(0.001)
    raise AssertionError("it never came")
