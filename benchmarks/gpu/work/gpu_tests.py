"""The tests that need a GPU, as a stage runs them: what becomes of each is known as soon as it ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep

from latentrt.benchmarks.gpu import outcomes
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.gpu.schema import GpuTestRow, Row
from latentrt.engines.json_lines import JsonLines

_HOUSE = Path(__file__).resolve().parents[3]
_FINE = (0, 1, 5)  # pytest's statuses: all passed, some failed, none collected
_MARK = "pytest.mark.gpu"
_LOOKS = 0.5  # seconds between two


def run_tests(settings: Settings, stage: str, chosen: str) -> Iterator[Row]:
    """Runs the tests marked ``gpu`` whose names fit pytest's expression ``chosen``."""
    file = (settings.work / f"{stage}.jsonl").resolve()
    file.write_bytes(b"")
    files = [str(path) for path in sorted(_HOUSE.glob("tests/**/test_*.py")) if _MARK in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", chosen, "-p", "no:xdist", "-p", outcomes.__name__]
    command += files  # reading all others takes longer than the tests
    seen, lines = 0, JsonLines(file)
    with subprocess.Popen(
        command, cwd=_HOUSE, stdout=sys.stderr, env={**os.environ, outcomes.FILE: str(file)}
    ) as process:
        while True:
            ended = process.poll() is not None
            rows = lines.rows()
            for row in rows[seen:]:
                yield GpuTestRow(stage=stage, **row)
            seen = len(rows)
            if ended:
                break
            sleep(_LOOKS)
    if process.returncode not in _FINE:
        raise RuntimeError(f"pytest ended with status {process.returncode}")
