"""The engines of a pipeline, in one line: calls that are alike run as one."""

from collections.abc import Mapping

from latentrt.engines.changes import Changes
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.machine import physical_cores
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor
from latentrt.engines.store.changed_models import ChangedModels
from latentrt.engines.store.components import Engines
from latentrt.runtime.serving.lanes.engine_call import EngineCall
from latentrt.runtime.serving.lanes.line import Line


class Lanes:
    """Opened components whose engines wait for each other; satisfies ``Engines``.

    Calls of one component, at the same shapes and with the same changes, that wait at the same time run as one.
    """

    def __init__(self, components: Engines, *, threads: int | None) -> None:
        """Wraps opened components; closing closes them.

        Args:
            components: they.
            threads: of a call on the CPU; None: one per core.
        """
        self.bundle, self.backend = components.bundle, components.backend
        self._components = components
        self.line = Line(seats(components.backend, threads))

    @property
    def changed_models(self) -> ChangedModels:
        """Those of the components."""
        return self._components.changed_models

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """As ``OpenComponents.engine``; its runs wait for their turn."""
        engine = self._components.engine(component, shapes, changes)
        return SharedEngine(engine, self.line, (component, shapes, None if changes is None else changes.key))

    def close(self) -> None:
        """Closes the components: what waits is refused when it is its turn."""
        self._components.close()


class SharedEngine(ClosesItself):
    """An ``Engine`` whose runs are in a line with others', and may be made together with those like them."""

    def __init__(self, engine: Engine, line: Line, lane: object) -> None:
        """Wraps an engine; closing closes it.

        Args:
            engine: it.
            line: of its device.
            lane: what calls have in common that may run as one.
        """
        self.spec: EngineSpec = engine.spec
        self._engine, self._line = engine, line
        self._lane = lane if all(tensor.shape[:1] == (BATCH,) for tensor in engine.spec.inputs.values()) else None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the engine, at once where it finds the device free: with these very arrays."""
        call, line = EngineCall(self._engine, inputs, self._lane, self.spec.batches[-1]), self._line
        try:
            return self._engine.run(inputs) if line.enter(call) else line.results(call)
        finally:
            line.leave(call)

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Runs the engine alone, when it is its turn."""
        call, line = EngineCall(self._engine, inputs, None, 0), self._line
        try:
            if not line.enter(call):
                call.sleep()
            return self._engine.run_kept(inputs)
        finally:
            line.leave(call)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()


def seats(backend: Backend, threads: int | None) -> int:
    """How many runs there may be at once: as many as the cores hold, where a run does not take all of them."""
    return max(physical_cores() // threads, 1) if backend is Backend.ORT_CPU and threads is not None else 1
