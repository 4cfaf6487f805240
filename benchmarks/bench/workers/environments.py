"""Environments of peers whose pins clash with ours: made when they are first asked for, kept, pinned, without CUDA."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from latentrt.benchmarks.bench.workers.process import WorkerError
from latentrt.engines.files import locked

# What a looser range would bring, some gigabytes of it
_UNWANTED = ("nvidia-", "nvidia_", "cuda-", "triton", "pytorch-triton")
_STAMP = "requirements.sha256"
_MINUTES = 60.0


def environment_python(name: str, folder: Path, requirements: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """The interpreter of a peer's environment below ``folder``, made if it is missing or has other requirements.

    ``requirements`` are pip's; packages that are ``alone`` are installed without what they ask for.

    Raises:
        WorkerError: it cannot be made, or would bring packages for GPUs.
    """
    home = folder / name
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    digest = hashlib.sha256(json.dumps([sys.version, *requirements, "--", *alone]).encode()).hexdigest()
    stamp = home / _STAMP
    with locked(home):
        if stamp.is_file() and stamp.read_text("ascii") == digest:
            return python
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], "no virtual environment")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "install", "--upgrade", "pip"], "no newer pip")  # 23.2 backtracks for minutes
        _refuse_unwanted(pip, requirements)
        _run([*pip, "install", *requirements], "the packages cannot be installed")
        if alone:
            _run([*pip, "install", "--no-deps", *alone], "the packages cannot be installed")
        stamp.write_text(digest, "ascii")
    return python


def _refuse_unwanted(pip: Sequence[str], requirements: Sequence[str]) -> None:
    """Lets pip say what it would install, before it downloads any of it."""
    said = _run([*pip, "install", "--dry-run", "--report", "-", *requirements], "the packages cannot be installed")
    planned = [row["metadata"]["name"].lower() for row in json.loads(said)["install"]]
    unwanted = [name for name in planned if name.startswith(_UNWANTED)]
    if unwanted:
        raise WorkerError(f"its environment would bring {', '.join(sorted(unwanted)[:5])}, packages for GPUs")


def _run(command: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30 * _MINUTES)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkerError(f"{what}: {type(error).__name__}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise WorkerError(f"{what}: {lines[0][:300] if lines else f'status {done.returncode}'}")
    return done.stdout
