"""Runs stages one after the other, each in a process of its own, and keeps every row as it comes."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISFIFO
from threading import Thread
from time import monotonic
from typing import IO

from pydantic import TypeAdapter, ValidationError

from latentrt.benchmarks.gpu.stage import LackingError, Settings, Stage, Told
from latentrt.benchmarks.report.gpu.schema import GpuResult, Row, StageRecord, State
from latentrt.engines.documents import write_document

_ROW: TypeAdapter[Row] = TypeAdapter(Row)
_LAST_WORDS = 300  # characters
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_LAST_SECONDS = 20.0  # that a stage may take to end behind its last row
_LEAST_SECONDS = 30.0  # that are left for a stage to begin

Launch = Callable[[Stage, Settings, float], Iterator[Row]]
"""Gives a stage's rows as they come; the number is the seconds that it may take."""


class CutOffError(Exception):
    """A stage took longer than it may."""


class StageFailedError(Exception):
    """A stage ended with an error; the text is its last words."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds that a stage may take, and when the run ends (by ``monotonic``); None sets no end."""

    stage: float
    end: float | None = None


def pending(stages: Sequence[Stage], result: GpuResult) -> list[Stage]:
    """The stages that are left: those not done, those that make what these lack, and those with something to remove."""
    needed: set[Path] = set()
    left = []
    for stage in reversed(stages):
        lost = any(path in needed and not path.exists() for path in stage.makes)
        if lost or stage.removes or not result.done(stage.name):
            left.append(stage)
            needed.update(stage.needs)
    return list(_with_something_to_remove(left[::-1]))


def _with_something_to_remove(stages: Sequence[Stage]) -> Iterator[Stage]:
    """The stages but those that would remove nothing."""
    made: set[Path] = set()
    for stage in stages:
        made.update(stage.makes)
        if not stage.removes or any(
            folder.exists() or any(folder in path.parents for path in made) for folder in stage.removes
        ):
            yield stage


def run_stages(
    stages: Sequence[Stage],
    settings: Settings,
    result: GpuResult,
    path: Path,
    limits: Limits,
    launch: Launch,
    told: Told,
) -> GpuResult:
    """Runs what is left; the result is on the disk after every row.

    A stage that fails is told and left; those that need what it makes are told to lack it.

    Raises:
        OutputError: the result cannot be written.
    """
    left = pending(stages, result)
    done = sum(stage not in left for stage in stages if not stage.removes)
    total = done + len(left)
    if done:
        told(f"going on: {done} of {total} stages are done")
    for number, stage in enumerate(left, done + 1):
        seconds = limits.stage
        if limits.end is not None:
            seconds = min(seconds, limits.end - monotonic())
            if seconds < _LEAST_SECONDS:
                told("the time is over: run it again to go on")
                break
        told(f"[{number}/{total}] {stage.name}")
        result = _run(stage, settings, result.begun(stage.name), path, seconds, launch, told)
        write_document(path, result)
    return result


def _run(
    stage: Stage, settings: Settings, result: GpuResult, path: Path, limit: float, launch: Launch, told: Told
) -> GpuResult:
    begin, state, reason = monotonic(), State.DONE, None
    try:
        missing = [needed.name for needed in stage.needs if not needed.exists()]
        if missing:
            raise LackingError(f"{', '.join(missing)} {'were' if len(missing) > 1 else 'was'} not made")
        for row in launch(stage, settings, limit):
            result = result.with_row(row)
            write_document(path, result)
    except LackingError as error:
        state, reason = State.LACKING, str(error)
    except CutOffError:
        state, reason = State.CUT_OFF, f"it took longer than {limit:.0f} s"
    except StageFailedError as error:
        state, reason = State.FAILED, str(error)
    seconds = monotonic() - begin
    told(f"    {state.value}, {seconds:.0f} s" + ("" if reason is None else f": {reason}"))
    return result.ended(StageRecord(name=stage.name, state=state, seconds=seconds, reason=reason))


def in_process(stage: Stage, settings: Settings, limit: float) -> Iterator[Row]:
    """Runs a stage here, without a limit: for rehearsals with stand-ins."""
    try:
        yield from stage.work(settings)
    except LackingError:
        raise
    except Exception as error:
        raise StageFailedError(f"{type(error).__name__}: {error}"[:_LAST_WORDS]) from error


def in_a_process(stage: Stage, settings: Settings, limit: float) -> Iterator[Row]:
    """Runs a stage in a process of its own, which is ended at its limit; what it prints goes into ``work/logs``."""
    logs = settings.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "latentrt.benchmarks.gpu", "stage", stage.name, *arguments_of(settings)]
    with (logs / f"{stage.name}.log").open("w+b") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # whose end tells it that nobody waits for it
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **_OFFLINE},
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                yield from _rows(process.stdout, monotonic() + limit)
                status = process.wait(_LAST_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise CutOffError from error
            finally:
                with suppress(ProcessLookupError):  # with all that it started
                    os.killpg(process.pid, signal.SIGKILL)
        if status:
            raise StageFailedError(_last_words(log, status))


def arguments_of(settings: Settings) -> list[str]:
    """The settings as arguments of the command."""
    return [
        *("--work", str(settings.work), "--scale", settings.scale.value),
        *("--device", settings.device, "--runs", str(settings.runs)),
        *(word for backend in settings.backends for word in ("--backend", backend)),
    ]


def _rows(output: IO[bytes], end: float) -> Iterator[Row]:
    """Rows from a process's lines until it closes its output.

    Raises:
        CutOffError: it did not by the end.
    """
    unread = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(max(end - monotonic(), 0.0)):
                raise CutOffError
            piece = os.read(output.fileno(), 65536)
            if not piece:
                return
            *lines, unread = (unread + piece).split(b"\n")
            for line in lines:
                try:
                    yield _ROW.validate_json(line)
                except ValidationError as error:
                    raise StageFailedError(f"it printed what is no row: {line[:80]!r}") from error


def _last_words(log: IO[bytes], status: int) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    return f"{ended}: {lines[-1][-_LAST_WORDS:]}" if lines else ended


def print_rows(stage: Stage, settings: Settings) -> None:
    """The far side of ``in_a_process``: rows go to standard output, and all else that is printed to standard error.

    Begun by another process it ends when standard input does: with that process, however that came to its end.
    """
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if os.getpgrp() == os.getpid() and S_ISFIFO(os.fstat(0).st_mode):  # and not by hand
        Thread(target=_end_with_parent, daemon=True).start()
    for row in stage.work(settings):
        print(json.dumps(row.model_dump(mode="json")), file=rows, flush=True)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
