"""Stages, one after the other: what is kept, what is done again, and what becomes of one that does not end."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from latentrt.benchmarks.gpu import runner
from latentrt.benchmarks.gpu.models import Scale
from latentrt.benchmarks.gpu.runner import CutOffError, Limits, StageFailedError, in_a_process, in_process, run_stages
from latentrt.benchmarks.gpu.stage import Settings, Stage
from latentrt.benchmarks.report.gpu.schema import (
    SCHEMA,
    GpuMachine,
    GpuResult,
    MadeRow,
    Row,
    State,
    read_gpu_result,
)

MACHINE = GpuMachine(gpu=None, gpu_bytes=None, driver=None, cores=2, system="Linux", packages={})
EMPTY = GpuResult(schema_version=SCHEMA, latentrt="0.1.0", created="now", scale="small", made_of="abc", machine=MACHINE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work=tmp_path / "work", scale=Scale.SMALL, backends=("ort-cpu",), device="cpu", runs=1)


def row(stage: str, what: str = "thing") -> MadeRow:
    return MadeRow(stage=stage, model="tiny", what=what, seconds=1.0, bytes=2)


class Workshop:
    """Stages that say how often they ran; ``faults`` are raised behind their first row."""

    def __init__(self, folder: Path) -> None:
        self.ran: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.folder = folder
        self.product = folder / "product"

    def stage(self, name: str, **fields: object) -> Stage:
        def work(settings: Settings) -> Iterator[Row]:
            self.ran.append(name)
            yield row(name, "first")
            if name in self.faults:
                raise self.faults[name]
            for path in stage.makes:
                path.touch()
            yield row(name, "second")

        stage = Stage(name=name, work=work, **fields)  # type: ignore[arg-type]
        return stage


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Callable[..., tuple[GpuResult, list[str]]]:
    """Runs stages on what the file holds, and reads it again."""
    path = tmp_path / "gpu.json"

    def runs(stages: list[Stage], *, limits: Limits | None = None) -> tuple[GpuResult, list[str]]:
        told: list[str] = []
        before = read_gpu_result(path) if path.exists() else EMPTY
        run_stages(stages, settings, before, path, limits or Limits(stage=9.0), in_process, told.append)
        return read_gpu_result(path), told

    return runs


def test_a_run_goes_on_where_it_was(workshop: Workshop, run: Callable[..., tuple[GpuResult, list[str]]]) -> None:
    """What is done is left alone; what failed is tried again, and nothing of its first try stays."""
    stages = [workshop.stage(name) for name in ("a", "b", "c")]
    workshop.faults["b"] = ValueError("a broken thing")
    result, told = run(stages)
    assert [(record.name, record.state) for record in result.stages] == [
        ("a", State.DONE),
        ("b", State.FAILED),
        ("c", State.DONE),
    ]
    assert result.stages[1].reason == "ValueError: a broken thing"
    assert "failed" in "".join(told)
    workshop.faults.clear()
    result, _ = run(stages)
    assert workshop.ran == ["a", "b", "c", "b"]
    assert [found.stage for found in result.rows] == ["a", "a", "c", "c", "b", "b"]
    assert all(result.done(name) for name in "abc")
    run(stages)
    assert len(workshop.ran) == 4


def test_every_row_is_on_the_disk_at_once(
    workshop: Workshop, settings: Settings, tmp_path: Path, run: Callable[..., tuple[GpuResult, list[str]]]
) -> None:
    """Ctrl-C, or the end of the machine, in the middle of a stage."""
    workshop.faults["b"] = KeyboardInterrupt()
    stages = [workshop.stage("a"), workshop.stage("b")]
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, settings, EMPTY, tmp_path / "gpu.json", Limits(stage=9.0), in_process, lambda line: None)
    result = read_gpu_result(tmp_path / "gpu.json")
    assert [found.stage for found in result.rows] == ["a", "a", "b"]
    assert result.done("a")
    assert not result.done("b")
    workshop.faults.clear()
    assert [found.stage for found in run(stages)[0].rows] == ["a", "a", "b", "b"]


def test_what_others_need_is_made_again_where_it_was_lost(
    workshop: Workshop, run: Callable[..., tuple[GpuResult, list[str]]]
) -> None:
    """On a fresh machine with an old result: what is made for stages that are left, and nothing else."""
    made, other = workshop.product, workshop.folder / "other"
    stages = [
        workshop.stage("make", makes=(made,)),
        workshop.stage("make other", makes=(other,)),
        workshop.stage("use", needs=(made,)),
        workshop.stage("use other", needs=(other,)),
        workshop.stage("clean", removes=(workshop.folder,)),
    ]
    workshop.faults["use"] = ValueError()
    run(stages)
    made.unlink()
    other.unlink()
    workshop.faults.clear()
    workshop.ran.clear()
    result, _ = run(stages)
    assert workshop.ran == ["make", "use", "clean"]
    assert result.done("use")


def test_nothing_is_removed_where_nothing_is(
    workshop: Workshop, run: Callable[..., tuple[GpuResult, list[str]]]
) -> None:
    """A stage that removes files is left out where there are none and no stage is left that makes some."""
    made = workshop.folder / "models" / "product"
    made.parent.mkdir()
    stages = [
        workshop.stage("make", makes=(made,)),
        workshop.stage("clean", removes=(made.parent,)),
        workshop.stage("clean other", removes=(workshop.folder / "other",)),
    ]
    _, told = run(stages)
    assert workshop.ran == ["make", "clean"]
    assert told[0] == "[1/2] make"
    made.unlink()
    made.parent.rmdir()
    _, told = run(stages)
    assert workshop.ran == ["make", "clean"]
    assert told == ["going on: 1 of 1 stages are done"]


def test_a_stage_whose_parts_were_not_made(workshop: Workshop, run: Callable[..., tuple[GpuResult, list[str]]]) -> None:
    """It says what it lacks, and does not begin."""
    stages = [workshop.stage("make", makes=(workshop.product,)), workshop.stage("use", needs=(workshop.product,))]
    workshop.faults["make"] = ValueError("no")
    result, _ = run(stages)
    assert workshop.ran == ["make"]
    assert result.stages[1].state is State.LACKING
    assert result.stages[1].reason == "product was not made"


def test_a_run_ends_in_time(workshop: Workshop, settings: Settings, tmp_path: Path) -> None:
    """No stage begins when little is left of the whole run's time."""
    told: list[str] = []
    limits = Limits(stage=9.0, end=monotonic() + 10)
    run_stages([workshop.stage("a")], settings, EMPTY, tmp_path / "gpu.json", limits, in_process, told.append)
    assert told == ["the time is over: run it again to go on"]
    assert workshop.ran == []


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in place of Python as a stage's process."""

    def write(text: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(runner.sys, "executable", str(path))

    return write


def test_a_stage_that_does_not_end(script: Callable[[str], None], settings: Settings, tmp_path: Path) -> None:
    """It is ended with all that it started; its rows so far are kept."""
    script(f"echo '{row('slow').model_dump_json()}'\nsleep 60 & echo $! > {tmp_path}/pid\nwait")
    found = in_a_process(_stage("slow"), settings, 1.5)
    assert next(found) == row("slow")
    with pytest.raises(CutOffError):
        next(found)
    started = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _runs(started):
            break
        sleep(0.05)
    assert not _runs(started)


def _runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def _stage(name: str) -> Stage:
    return Stage(name=name, work=lambda settings: iter(()))


def test_a_stage_that_fails(script: Callable[[str], None], settings: Settings) -> None:
    """Its last words are the reason, and all of them are in its log; it is told the settings."""
    script('echo "$@" >&2\necho "no device" >&2\nexit 3')
    with pytest.raises(StageFailedError, match="status 3: no device"):
        list(in_a_process(_stage("broken"), settings, 9.0))
    log = (settings.work / "logs" / "broken.log").read_text()
    assert log.startswith("-m latentrt.benchmarks.gpu stage broken --work ")
    assert "--scale small --device cpu --runs 1 --backend ort-cpu" in log
    script("echo nonsense")
    with pytest.raises(StageFailedError, match="what is no row"):
        list(in_a_process(_stage("other"), settings, 9.0))
    script("kill -9 $$")
    with pytest.raises(StageFailedError, match="signal 9"):
        list(in_a_process(_stage("killed"), settings, 9.0))


def test_a_stage_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its standard input ends as the run's process does, however that ended."""
    read, write = os.pipe()
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(runner.os, "killpg", lambda *arguments: killed.append(arguments))
    monkeypatch.setattr(runner.os, "read", lambda _, size, real=os.read: real(read, size))
    os.write(write, b"not the end")
    os.close(write)
    runner._end_with_parent()
    os.close(read)
    assert killed == [(0, 9)]
