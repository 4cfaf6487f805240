"""The server under test: the real command in a process of its own, and what the system tells of it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic, perf_counter

_COMMAND = (sys.executable, "-m", "latentrt", "serve")
_START_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LAST_WORDS = 600  # characters


class ServerFailedError(Exception):
    """The server did not start, or did not end as it should."""


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a process holds at a moment."""

    bytes: int
    threads: int
    files: int


class Server:
    """``latentrt serve``, started and ready; a context that ends it."""

    def __init__(self, bundle: Path, *options: str, environment: Sequence[tuple[str, str]] = ()) -> None:
        """Starts it on a free port of the loopback interface, and waits until it is ready.

        Args:
            bundle: what it serves.
            *options: of the command, beside host and port.
            environment: variables on top of this process's.

        Raises:
            ServerFailedError: it ends, or is not ready in time.
        """
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self.process = subprocess.Popen(
            [*_COMMAND, str(bundle), "--port", str(self.port), *options],
            stdout=self._said,
            stderr=self._said,
            env={**os.environ, **dict(environment)},
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            self._said.close()
            raise

    def _wait_until_ready(self) -> None:
        import httpx

        end = monotonic() + _START_SECONDS
        while monotonic() < end:
            if self.process.poll() is not None:
                raise ServerFailedError(f"the server ended with status {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            Event().wait(_POLL_SECONDS)
        raise ServerFailedError(f"the server was not ready in {_START_SECONDS:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it said."""
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")[-_LAST_WORDS:]

    def vitals(self) -> Vitals:
        """What it holds now."""
        import psutil

        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return Vitals(bytes=process.memory_info().rss, threads=process.num_threads(), files=process.num_fds())

    @property
    def processor_seconds(self) -> float:
        """Processor time of all its threads so far."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def terminate(self, seconds: float) -> int:
        """Asks it to end, and waits for that; its exit status.

        Raises:
            ServerFailedError: it has not ended in so many seconds.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerFailedError(f"the server had not ended {seconds:.0f} s after SIGTERM") from None

    def close(self) -> None:
        """Ends it, by force where it does not end."""
        if self.process.poll() is None:
            try:
                self.terminate(30)
            except ServerFailedError:
                self.process.kill()
                self.process.wait()
        self._said.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryWatch:
    """Reads a server's resident size several times a second, from a thread of its own."""

    def __init__(self, server: Server, every: float = 0.25) -> None:
        """Begins to read."""
        self.seconds: list[float] = []
        self.bytes: list[int] = []
        self._server, self._every, self._ended = server, every, Event()
        self._begin = perf_counter()
        self._thread = Thread(target=self._read, name="memory-watch")
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.wait(self._every):
            self.bytes.append(self._server.vitals().bytes)
            self.seconds.append(perf_counter() - self._begin)

    def close(self) -> None:
        """Stops reading."""
        self._ended.set()
        self._thread.join()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
