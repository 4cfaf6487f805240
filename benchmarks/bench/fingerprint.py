"""All that measured answers depend on: a run that was stopped goes on only where all of it is as it was."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from latentrt.benchmarks.bench.plan import Plan
from latentrt.benchmarks.peers.registry import PEERS
from latentrt.cli.bench import BenchOptions
from latentrt.engines.files import sha256_of_file

_PACKAGES = ("latentrt", "numpy", "onnxruntime", "openvino", "tensorrt_rtx", "torch", "diffusers", "transformers")
_NO_MATTER = {"timeout", "note", "peers", "report", "json", "markdown", "compare", "render"}  # options and fields
_HERE = Path(__file__).resolve().parent


def fingerprint(plan: Plan, *, resident: bool) -> dict[str, object]:
    """Options, versions, and digests or states of files; ``resident`` as it was decided."""
    options = plan.options
    return {
        "options": _texts(options),
        "plan": _texts(plan),
        "resident": resident,
        "versions": {name: _version(name) for name in _PACKAGES},
        "peers": {name: repr(PEERS.get(name)) for name in plan.against},
        "sources": _digest([_HERE / "workers" / "worker.py", *sorted((_HERE.parent / "peers").rglob("*.py"))]),
        "bundles": [_digest([root / "bundle.json"]) for root in plan.bundles],
        "checkpoint": None if plan.checkpoint is None else states_of(plan.checkpoint),
        "clip": None if options.clip is None else states_of(options.clip),
        "icons": None if options.icons is None else _digest([options.icons]),
    }


def _texts(settings: BenchOptions | Plan) -> dict[str, str]:
    names = {field.name for field in fields(settings)} - {"options", *_NO_MATTER}
    return {name: str(getattr(settings, name)) for name in names}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256("".join(sha256_of_file(path) for path in paths).encode()).hexdigest()


def states_of(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
