"""The near side of a worker: starts it, asks it, watches its memory and its processor time, and ends it."""

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

OWN_PYTHON = Path(sys.executable)
_WORKER = Path(__file__).resolve().parent / "worker.py"
_TAIL = 400  # characters of a process's last words
_LAST_SECONDS = 20.0  # that one may take to end
# What the libraries below NumPy and PyTorch read as they are loaded
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Nothing is fetched, and nothing draws bars
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
}


class WorkerError(Exception):
    """A contender could not do what was asked of it; the text is the reason, for its row of the report.

    Of absolute paths the text keeps the last name: reports are for others.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(re.sub(r"(?<![\w.:/])(?:/[^/\s'\"]+)+/([^/\s'\"]*)", r"\1", reason))


def worker_command(python: Path, adapter: str) -> list[str]:
    """The command line of a worker; -P keeps its folder from standing before the packages."""
    return [str(python), "-P", str(_WORKER), adapter]


class Worker:
    """A running worker. Not for several threads."""

    def __init__(
        self,
        python: Path,
        adapter: str,
        *,
        timeout: float,
        threads: int | None = None,
        once: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts it; a request given as ``once`` is answered unasked, and the process ends.

        Args:
            python: the interpreter of its environment.
            adapter: a module of ``peers``.
            timeout: seconds that one answer may take.
            threads: of the libraries that it loads, where its adapter does not say.
            once: what to open and what to draw.

        Raises:
            WorkerError: the interpreter does not start.
        """
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        limits = {} if threads is None else dict.fromkeys(_THREADS, str(threads))
        try:
            self._process = subprocess.Popen(
                [*worker_command(python, adapter), *([] if once is None else ["--once", json.dumps(once)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **limits, **_ENVIRONMENT},
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"cannot start {python.name}: {error.strerror}") from error

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            WorkerError: the worker says why it could not, has died, or does not answer in time.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died: its answer says why
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Waits for an answer, one whole line.

        Raises:
            WorkerError: as ``ask``.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                self._process.kill()
                raise WorkerError(f"no answer within {self._timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._why_it_ended())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _why_it_ended(self) -> str:
        try:
            status = self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return "the process closed its output"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        reason = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the process ended with {reason}" + (f": {said[-1][:_TAIL]}" if said else "")

    @property
    def peak_bytes(self) -> int | None:
        """Its largest resident size so far; None where the system does not tell."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text("ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            return None

    @property
    def processor_seconds(self) -> float:
        """Processor time of all its threads so far; 0 where the system does not tell."""
        import psutil

        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def close(self) -> None:
        """Ends it; later calls do nothing."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cold_start(
    python: Path, adapter: str, request: Mapping[str, Any], *, timeout: float
) -> tuple[float, dict[str, Any]]:
    """Seconds from the start of a new process until its picture is on disk, and the worker's answer.

    Raises:
        WorkerError: no picture.
    """
    begin = perf_counter()
    with Worker(python, adapter, timeout=timeout, once=request) as worker:
        answer = worker.answer()
        return perf_counter() - begin, answer
