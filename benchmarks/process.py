"""The near side of a worker: starts it, asks it, watches its memory and its processor time, and ends it."""

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import IO, Any

WORKER = Path(__file__).resolve().parent / "worker.py"
_TAIL = 400  # characters of a process's last words
_LAST_SECONDS = 20.0  # that one may take to end


class WorkerError(Exception):
    """A contender could not do what was asked of it; the text is the reason, for its row of the report.

    Of absolute paths the text keeps the last name: reports are for others.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(re.sub(r"(?<![\w.:/])(?:/[^/\s'\"]+)+/([^/\s'\"]*)", r"\1", reason))


# What the libraries below NumPy and PyTorch read as they are loaded
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def environment(threads: int | None = None) -> dict[str, str]:
    """What every worker finds in its environment: nothing is fetched, and nothing draws bars."""
    return {
        **os.environ,
        **({} if threads is None else dict.fromkeys(_THREADS, str(threads))),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def worker_command(python: Path, adapter: str) -> list[str]:
    """The command line of a worker; -P keeps its folder from standing before the packages."""
    return [str(python), "-P", str(WORKER), adapter]


class Worker:
    """A running worker. Not for several threads."""

    def __init__(self, python: Path, adapter: str, *, timeout: float, threads: int | None = None) -> None:
        """Starts it.

        Args:
            python: the interpreter of its environment.
            adapter: a module of ``peers``.
            timeout: seconds that one answer may take.
            threads: of the libraries that it loads, where its adapter does not say.

        Raises:
            WorkerError: the interpreter does not start.
        """
        self._timeout = timeout
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self._process = subprocess.Popen(
                worker_command(python, adapter),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment(threads),
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"cannot start {python.name}: {error.strerror}") from error

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            WorkerError: the worker says why it could not, has died, or does not answer in time.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = _line_within(stdout, self._timeout)
        except TimeoutError as error:  # which is an OSError, too
            self._process.kill()
            raise WorkerError(f"no answer within {self._timeout:.0f} s") from error
        except OSError:
            line = b""
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
        if self._process.stdin and not self._process.stdin.closed:
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


def _line_within(stream: IO[bytes], seconds: float) -> bytes:
    """The next line of an unbuffered-enough stream: a worker writes one whole line per answer.

    Raises:
        TimeoutError: none came.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(seconds):
            raise TimeoutError
    return stream.readline()


def cold_start(
    python: Path, adapter: str, request: Mapping[str, Any], *, timeout: float
) -> tuple[float, dict[str, Any]]:
    """A picture from a new process.

    Args:
        python: the interpreter.
        adapter: a module of ``peers``.
        request: what to open and what to draw, with ``output`` a .png.
        timeout: seconds that it may take.

    Returns:
        Seconds from the start of the process until the picture was on disk, and the worker's answer.

    Raises:
        WorkerError: no picture.
    """
    command = [*worker_command(python, adapter), "--once", json.dumps(request)]
    with tempfile.TemporaryFile() as errors:
        begin = perf_counter()
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        except OSError as error:
            raise WorkerError(f"cannot start {python.name}: {error.strerror}") from error
        assert process.stdout is not None
        try:
            line = _line_within(process.stdout, timeout)
            seconds = perf_counter() - begin
            process.wait(60)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise WorkerError(f"no picture within {timeout:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
        if not line:
            errors.seek(0)
            said = [text for text in errors.read().decode("utf-8", "replace").split("\n") if text.strip()]
            raise WorkerError(said[-1].strip()[:_TAIL] if said else f"status {process.returncode}")
    return seconds, json.loads(line)


def own_python() -> Path:
    """The interpreter that runs this."""
    return Path(sys.executable)


def total_processor_seconds(workers: Sequence[Worker]) -> float:
    """Processor time of several."""
    return sum(worker.processor_seconds for worker in workers)
