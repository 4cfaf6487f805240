"""python -m latentrt.benchmarks.gpu run | list | stage NAME

What there is to find out on a machine with an NVIDIA GPU, stage by stage: nothing is fetched, each stage is a process
that ends within its limit, and every figure is on the disk as soon as it is measured. Run again, it goes on where it
was; stages that failed are tried again. ``--scale small --backend ort-cpu --device cpu`` rehearses all of it on a CPU.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from latentrt.benchmarks.gpu.environment import machine
from latentrt.benchmarks.gpu.models import Scale
from latentrt.benchmarks.gpu.plan import BACKENDS, all_stages, first_stages, working_backends
from latentrt.benchmarks.gpu.runner import Limits, in_a_process, in_process, print_rows, run_stages
from latentrt.benchmarks.gpu.stage import Settings, Stage
from latentrt.benchmarks.report.gpu.schema import SCHEMA, GpuResult, Row, read_gpu_result
from latentrt.benchmarks.report.gpu.tables import gpu_sentences, gpu_tables
from latentrt.cli.terminal import print_table, say, stderr
from latentrt.engines.errors import LatentrtError, RequestError
from latentrt.engines.precision import Backend

_LIMIT = 470.0  # seconds of a stage


def main() -> None:
    """Reads the arguments and does what they say."""
    parser = argparse.ArgumentParser(
        prog="python -m latentrt.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="runs what is left")
    run.add_argument("--json", type=Path, help="the result; WORK/gpu.json if left out")
    run.add_argument("--limit", type=float, default=_LIMIT, help="seconds that a stage may take")
    run.add_argument("--minutes", type=float, help="of the whole run, after which no stage begins")
    run.set_defaults(do=_run)
    listed = commands.add_parser("list", help="names the stages, as if all backends worked")
    listed.set_defaults(do=_list)
    stage = commands.add_parser("stage", help="runs one stage and prints its rows")
    stage.add_argument("name")
    stage.set_defaults(do=_stage)
    for command in (run, listed, stage):
        command.add_argument("--work", type=Path, default=Path("out/gpu"), help="a folder for what is made")
        command.add_argument("--scale", type=Scale, choices=list(Scale), default=Scale.FULL)
        command.add_argument("--backend", type=Backend, choices=list(Backend), action="append", help="repeatable")
        command.add_argument("--device", default="cuda", help="torch's, for peers and random weights")
        command.add_argument("--runs", type=int, default=5, help="timed calls of each case")
    for command in (run, listed):
        command.add_argument("--only", action="append", metavar="PATTERN", help="stages by name, such as *.sdxl.*")
        command.add_argument("--keep", action="store_true", help="checkpoints, bundles and engines stay")
    arguments = parser.parse_args()
    try:
        arguments.do(arguments)
    except LatentrtError as error:
        parser.exit(1, f"{error}\n")


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        work=arguments.work,
        scale=arguments.scale,
        backends=tuple(backend.value for backend in arguments.backend or BACKENDS),
        device=arguments.device,
        runs=arguments.runs,
    )


def _run(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    settings.work.mkdir(parents=True, exist_ok=True)
    path = arguments.json or settings.work / "gpu.json"
    end = None if arguments.minutes is None else monotonic() + 60 * arguments.minutes
    limits = Limits(stage=arguments.limit, end=end)
    result = _begun(settings, path)
    for stages in (first_stages(settings), None):
        if stages is None:
            stages = _chosen(all_stages(settings, working_backends(result), keep=arguments.keep), arguments.only)
        result = run_stages(stages, settings, result, path, limits, _launched, stderr.print)
    for table in gpu_tables(result):
        print_table(table.title, table.columns, list(table.rows.values()))
    for line in gpu_sentences(result):
        say(line)
    say(str(path))


def _launched(stage: Stage, settings: Settings, limit: float) -> Iterator[Row]:
    """Runs a stage in a process of its own, but one that removes files here."""
    return (in_process if stage.removes else in_a_process)(stage, settings, limit)


def _begun(settings: Settings, path: Path) -> GpuResult:
    """The result so far; a new one where it was measured with other packages, on another machine or scale."""
    here = machine()
    depends = {"machine": here.model_dump(mode="json"), "scale": settings.scale.value, "device": settings.device}
    made_of = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    if path.is_file():
        result = read_gpu_result(path)
        if result.made_of == made_of:
            return result
        stderr.print(f"{path} was measured with other packages, elsewhere, or at another scale: it is begun anew")
    return GpuResult(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scale=settings.scale.value,
        made_of=made_of,
        machine=here,
    )


def _chosen(stages: list[Stage], patterns: list[str] | None) -> list[Stage]:
    """Those whose names fit a pattern, and those that make what they need."""
    if not patterns:
        return stages
    needed: set[Path] = set()
    chosen = []
    for stage in reversed(stages):
        if any(fnmatch(stage.name, pattern) for pattern in patterns) or needed.intersection(stage.makes):
            chosen.append(stage)
            needed.update(stage.needs)
    if not chosen:
        raise RequestError(f"got --only {patterns[0]!r}, which fits no stage, expected one of those that list names")
    return chosen[::-1]


def _list(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    backends = [Backend(name) for name in settings.backends]
    for stage in _chosen(all_stages(settings, backends, keep=arguments.keep), arguments.only):
        say(stage.name)


def _stage(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    backends = [Backend(name) for name in settings.backends]
    found = [stage for stage in all_stages(settings, backends) if stage.name == arguments.name]
    if not found:
        raise RequestError(f"got stage {arguments.name!r}, expected one of those that list names; choose among these")
    print_rows(found[0], settings)


if __name__ == "__main__":
    main()
