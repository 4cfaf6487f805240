"""An ONNX file of a user's that belongs to no bundle, such as a detector: run on the CPU as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from latentrt.engines.backends.ort import run_errors
from latentrt.engines.backends.ort_cpu.model import onnxruntime_module, open_session, session_options
from latentrt.engines.errors import RequestError
from latentrt.engines.forks import keep_for_ever, watch_forks
from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class OnnxTensor:
    """An input or output: a dimension is None where the file leaves it open, a type is ONNX Runtime's name."""

    name: str
    shape: tuple[int | None, ...]
    type: str

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} ({sides}) {self.type.removeprefix('tensor(').removesuffix(')')}"


class OnnxFile:
    """An open file. Threads may share it; a forked process opens it again, and so does where it arrives pickled."""

    def __init__(self, path: Path, threads: int | None, what: str, remedy: str) -> None:
        """Opens it.

        Args:
            path: the file; a relative one stays good when the working directory changes.
            threads: of a run; None takes one per core.
            what: errors call it.
            remedy: what to do about a file that cannot be run.

        Raises:
            RequestError: there is no such file.
            EngineError: ONNX Runtime cannot open it.
        """
        self._path, self._threads, self._what, self._remedy = path.absolute(), threads, what, remedy
        if not path.is_file():
            raise RequestError(f"got {what} {str(path)!r}, which is no file; check the path")
        self._lock = Lock()
        self._session: Any = None
        watch_forks(self)
        session = self._open()
        self.inputs = tuple(map(_tensor, session.get_inputs()))
        self.outputs = tuple(map(_tensor, session.get_outputs()))
        self.metadata: Mapping[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def __reduce__(self) -> tuple[Any, ...]:
        """How to open it again."""
        return OnnxFile, (self._path, self._threads, self._what, self._remedy)

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """All outputs, in their order.

        Raises:
            EngineError: the run failed.
        """
        session = self._open()
        with run_errors(self._remedy):
            return [np.asarray(output) for output in session.run(None, dict(inputs))]

    def after_fork(self) -> None:
        """Called in a forked process: it will open the file for itself."""
        session, self._session = self._session, None
        self._lock = Lock()
        keep_for_ever(session)

    def _open(self) -> Any:
        with self._lock:
            if self._session is None:
                level = onnxruntime_module().GraphOptimizationLevel.ORT_ENABLE_ALL
                options = session_options(level, self._threads, packs=True)
                self._session = open_session(self._path, options, remedy=self._remedy)
            return self._session


def _tensor(held: Any) -> OnnxTensor:
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in held.shape)
    return OnnxTensor(name=str(held.name), shape=shape, type=str(held.type))
