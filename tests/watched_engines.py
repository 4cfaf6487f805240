"""Engines that tell what they were given."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import latentrt
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.spec import Array, Tensor

Runs = dict[str, list[dict[str, Array]]]
"""The inputs of every run, by component."""


class WatchedEngine(ClosesItself):
    """One of them."""

    def __init__(self, engine: Engine, runs: list[dict[str, Array]]) -> None:
        self._engine, self._runs = engine, runs
        self.spec = engine.spec

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Keeps copies of the inputs."""
        self._runs.append({name: np.array(tensor) for name, tensor in inputs.items()})
        return self._engine.run(inputs)

    def close(self) -> None:
        """The pipeline closes it."""


class WatchedEngines:
    """Those of a pipeline."""

    def __init__(self, engines: Any) -> None:
        self._engines = engines
        self.runs: Runs = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engines, name)

    def engine(self, component: str, *arguments: Any, **keywords: Any) -> WatchedEngine:
        """The component's, watched."""
        engine = self._engines.engine(component, *arguments, **keywords)
        return WatchedEngine(engine, self.runs.setdefault(component, []))


def watch(pipe: latentrt.Pipeline, patch: Any) -> Runs:
    """Watches a pipeline's engines until the patch ends."""
    engines: Any = WatchedEngines(pipe._engines)
    patch.setitem(pipe.__dict__, "_engines", engines)
    return engines.runs  # type: ignore[no-any-return]
