"""One side of a comparison: a component on a backend, with tensors inside of it as results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from latentrt.engines.bundle.component import Component
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array

Feed = Mapping[str, Array]
HALVES = (Precision.FP16, Precision.BF16)


class Shown(NamedTuple):
    """A Polygraphy runner, and what its results are called, by the tensors' names."""

    runner: Any
    names: Mapping[str, str]


class Side(Protocol):
    """A component on a backend."""

    @property
    def label(self) -> str:
        """What sentences call it."""
        ...

    @property
    def tensors(self) -> frozenset[str]:
        """The tensors that it can show."""
        ...

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Opens the component with some tensors as results, for inputs of these shapes.

        Raises:
            EngineError: the backend refuses the graph.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a side runs.

    Attributes:
        component: of a bundle.
        islands: what of it is in fp32 beside the bundle's own islands.
        threads: of a call on the CPU; None takes one per core.
    """

    component: Component
    islands: tuple[Island, ...] = ()
    threads: int | None = None

    @property
    def precision(self) -> Precision:
        """The component's."""
        return self.component.record.precision
