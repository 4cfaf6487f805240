"""The engines of a pipeline, in one line: calls that are alike run as one."""

from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.machine import physical_cores
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.changed_models import ChangedModels
from latentrt.engines.store.components import Engines
from latentrt.runtime.serving.lanes.line import Line
from latentrt.runtime.serving.lanes.shared_engine import SharedEngine, Sharing


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
        self.bundle, self.backend, self.loop = components.bundle, components.backend, components.loop
        self._components = components
        self.line = Line(seats(components.backend, threads))

    @property
    def changed_models(self) -> ChangedModels:
        """Those of the components."""
        return self._components.changed_models

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """As ``OpenComponents.engine``; its runs wait for their turn."""
        engine = self._components.engine(component, shapes, changes)
        lane = (component, shapes, None if changes is None else changes.key)
        row = self.bundle.manifest.components[component].kind.row
        # Planes of pixels: memory is theirs, and several at once are no faster
        sharing = Sharing.FILLS if row.planes is Planes.PICTURE else Sharing.GATHERS
        return SharedEngine(engine, self.line, lane, Sharing.EXACT if row.exact_batch else sharing)

    def close(self) -> None:
        """Closes the components: what waits is refused when it is its turn."""
        self._components.close()


def seats(backend: Backend, threads: int | None) -> int:
    """How many runs there may be at once: as many as the cores hold, where a run does not take all of them."""
    return max(physical_cores() // threads, 1) if backend is Backend.ORT_CPU and threads is not None else 1
