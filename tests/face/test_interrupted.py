"""Ctrl-C in a build of hours: no half bundle at its place, and the next build goes on and clears up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.quantization.settings import Effort
from latentrt.verifying import verify

# What is built, beside the wish for a quality that tiny random models reach
BUILDS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fastest": {"fastest": True},
}
LITTLE = Effort(steps=2, pictures=2, calls=1)
QUALITY = 10.0


class Interrupted:
    """Ctrl-C in the stage of a number, as it begins or as it ends."""

    def __init__(self, at: int, *, ends: bool) -> None:
        self._at, self._ends, self.count = at, ends, 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.count += 1
        here = self.count == self._at
        if here and not self._ends:
            raise KeyboardInterrupt
        yield
        if here:
            raise KeyboardInterrupt

    def phase(self, name: str, done: int, total: int) -> None:
        pass


def hidden(folder: Path) -> set[str]:
    """What lies beside bundles and is none."""
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.parametrize("what", BUILDS)
def test_in_some_stage(
    what: str, tiny_copy: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages are stopped as they begin and as they end; the source stays as it was."""
    pytest.importorskip("openvino")
    for settings in ("bf16", "quantization"):
        monkeypatch.setattr(f"latentrt.{settings}.settings.EFFORT", LITTLE)
    output, before = tmp_path / "made.bundle", open_bundle(tiny_copy).manifest
    wishes = {**BUILDS[what], "prompts": int8_prompts, "quality": QUALITY}
    stopped = 0
    for at in accumulate(range(1, 20)):  # every stage takes as long as a build
        try:
            latentrt.build(tiny_copy, output, progress=Interrupted(at, ends=stopped % 2 == 1), **wishes)
            break
        except KeyboardInterrupt:
            stopped += 1
        assert not output.exists()
        assert not [name for name in hidden(tmp_path) if name.endswith((".building", ".lock", ".retired"))]
        assert len(hidden(tmp_path)) <= 1  # what the next one goes on with
    assert stopped >= 3
    assert hidden(tmp_path) == set()
    open_bundle(output).check_all()
    verify(output)
    assert open_bundle(tiny_copy).manifest == before
    open_bundle(tiny_copy).check_all()


CODE = """
import sys
from latentrt.cli.app import main
from latentrt.quantization.settings import Effort
import latentrt.bf16.settings, latentrt.quantization.settings
latentrt.bf16.settings.EFFORT = latentrt.quantization.settings.EFFORT = Effort(steps=2, pictures=2, calls=1)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", BUILDS)
def test_at_any_moment(what: str, tiny_copy: Path, int8_prompts: Path, tmp_path: Path) -> None:
    """SIGINT in the middle of whatever it is: status 130, one sentence, no traceback; the next one makes it whole."""
    pytest.importorskip("openvino")
    output = tmp_path / "made.bundle"
    wish = [f"--{name}" if value is True else f"--{name}={value}" for name, value in BUILDS[what].items()]
    arguments = ["build", tiny_copy, "-o", output, *wish, "--prompts", int8_prompts, "--quality", QUALITY]
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    length = time.perf_counter() - begin
    shutil.rmtree(output)
    for share in (0.5, 0.65, 0.8, 0.9):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        time.sleep(share * length)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
        if process.returncode == 0:  # it was faster than the first, or went on from where the last one was stopped
            shutil.rmtree(output)
            continue
        assert process.returncode == 130, told
        assert "Traceback" not in told
        (said,) = [line for line in told.splitlines() if "interrupted" in line]
        assert said.startswith(f"latentrt: interrupted; {str(output)!r} is not written")
        begun = [repr(str(tmp_path / name)) for name in sorted(hidden(tmp_path)) if (tmp_path / name).is_dir()]
        assert said.endswith("the same command goes on" if begun else "the same command begins anew")
        assert all(folder in said for folder in begun)
        assert not output.exists()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    open_bundle(output).check_all()
    assert hidden(tmp_path) == set()


def test_what_is_told(tiny_bundle: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept, and what the same command does."""

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentrt.building.build.build", stopped)
    output = tmp_path / "made.bundle"

    def told(*arguments: Any) -> str:
        ran = command("build", tiny_bundle, *arguments)
        assert ran.status == 130
        return str(ran.stderr)

    assert told().endswith("engines that are finished are kept in the bundle, and the same command makes the others\n")
    anew = f"latentrt: interrupted; {str(output)!r} is not written, and the same command begins anew\n"
    assert told("-o", output) == anew
    for name in ("building", "fastest"):
        (tmp_path / f".made.bundle.{name}").mkdir()
    (tmp_path / ".made.bundle.lock").touch()
    output.mkdir()
    folder = str(tmp_path / ".made.bundle.fastest")
    assert told("-o", output) == (
        f"latentrt: interrupted; {str(output)!r} is as it was; what was made for it is kept in {folder!r}, and the "
        "same command goes on\n"
    )
