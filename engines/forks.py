"""Objects that a forked process must not use as they are: the threads that they rely on are the parent's alone."""

import ctypes
import os
from contextlib import suppress
from functools import cache
from typing import Any, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What wants to know that it lives in a forked process now."""

    def after_fork(self) -> None:
        """Called in the child, which has one thread; locks may be held by threads that are not there."""
        ...


_watched: "WeakSet[Any]" = WeakSet()


def watch_forks(one: Forkable) -> None:
    """Tells ``one`` of forks for as long as it lives."""
    _watched.add(one)


def keep_for_ever(one: Any) -> None:
    """Never releases what was opened before the fork in the child, not even as the process ends.

    A pool of threads joins them as it goes. In the child they are not there, and the join never ends: neither where
    Python lets go of ``one``, nor where C++ destroys what is the library's own as the process exits.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
    _end_without_destructors()


@cache
def _end_without_destructors() -> None:
    """Ends the process behind Python's own end, before the destructors of C++; its exit status is kept.

    ``on_exit`` is glibc's: what was registered last is called first, with the status as first argument.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        for function in (library._exit, library.fcloseall):  # the second flushes what C has buffered
            library.on_exit(ctypes.cast(function, ctypes.c_void_p), None)


def _tell_child() -> None:
    for one in list(_watched):
        one.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_tell_child)
