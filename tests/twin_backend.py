"""A second backend on any machine: the exact one's engines under the name of another."""

import shutil
from pathlib import Path

import pytest

from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.store.store import compiled_folder


class Absent:
    """A backend that is not installed."""

    def version(self) -> str:
        raise EngineError("it is not installed; install it")

    def here(self) -> str:
        raise EngineError("it is not installed; install it")


class Twin(OrtCpu):
    """Stands behind the exact backend in the order of preference."""

    backend = Backend.OPENVINO

    def compile(self, component: Component, target: Target, folder: Path, progress: Progress | None) -> None:
        shutil.copytree(compiled_folder(component, Backend.ORT_CPU), folder, dirs_exist_ok=True)
        (folder / "engine.json").unlink()


def leave_twin_alone(patch: pytest.MonkeyPatch) -> None:
    """Makes this a machine with the exact backend and its twin."""
    for backend in COMPILERS:
        if backend is not Backend.ORT_CPU:
            patch.setitem(COMPILERS, backend, Absent())
    patch.setitem(COMPILERS, Backend.OPENVINO, Twin())
