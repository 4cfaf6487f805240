"""A bundle's engines with others in the place of some: how calibration watches, and judging tries out, a component."""

from collections.abc import Mapping

from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import Loop, Shapes
from latentrt.engines.store.components import Engines


class EngineOverrides:
    """Engines of a bundle, some of them overridden by component name; satisfies ``Engines``."""

    loop = Loop.HOST

    def __init__(self, components: Engines, overrides: Mapping[str, Engine]) -> None:
        """Takes the overrides; closing closes them."""
        self.bundle, self.backend = components.bundle, components.backend
        self.changed_models = components.changed_models
        self._components, self._overrides = components, overrides

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """The override, or the bundle's own engine."""
        return self._overrides.get(component) or self._components.engine(component, shapes, changes)

    def close(self) -> None:
        """Closes the overrides and leaves the bundle's engines open."""
        for engine in self._overrides.values():
            engine.close()
