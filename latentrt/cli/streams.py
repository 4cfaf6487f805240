"""Standard output and standard error, whatever they lead to: any encoding, a reader that has gone, or nothing."""

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

_ESCAPES = "latentrt.escapes"
# A reader that has gone, as ``head`` does; Windows says EINVAL; a terminal that was closed
_GONE = frozenset({errno.EPIPE, errno.EINVAL, errno.ESHUTDOWN, errno.EIO, errno.EBADF})


class LastingStream:
    """A stream that takes every text: what its encoding lacks is escaped, and what nobody reads any more is dropped."""

    def __init__(self, stream: TextIO, name: str) -> None:
        """Takes the stream, and what messages call it."""
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes.

        Raises:
            OutputError: the disk is full.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flushes.

        Raises:
            OutputError: the disk is full.
        """
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Leads the stream to nowhere, so that what is buffered fails no more, not even as the process ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if error.errno not in _GONE:
            from latentrt.engines.files import output_error

            raise output_error(Path(self._name), error) from error


@contextmanager
def lasting_streams() -> Iterator[None]:
    """``sys.stdout`` and ``sys.stderr`` as ``LastingStream`` while it lasts."""
    _open_closed()
    codecs.register_error(_ESCAPES, _escaped)
    before = sys.stdout, sys.stderr
    errors = [(stream, stream.errors) for stream in before if hasattr(stream, "reconfigure")]
    for stream, _ in errors:
        stream.reconfigure(errors=_ESCAPES)
    sys.stdout = LastingStream(before[0], "standard output")
    sys.stderr = LastingStream(before[1], "standard error")
    try:
        yield
    finally:
        for lasting in (sys.stdout, sys.stderr):
            with suppress(OSError):
                lasting.flush()
        sys.stdout, sys.stderr = before
        for stream, kept in errors:
            stream.reconfigure(errors=kept)


def _open_closed() -> None:
    """Leads to nowhere what the shell has closed (``>&-``); a picture could get its number otherwise."""
    if sys.stdout is not None and sys.stderr is not None:
        return
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoding lacks, as Python writes it; bytes of a file's name that are no text, as they are."""
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff":
        return bytes([ord(error.object[error.start]) - 0xDC00]), error.start + 1
    return codecs.backslashreplace_errors(error)
