"""Tables of runs, each traced once: runs of equal numbers share one."""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache, partial

import numpy as np

from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.solver import Solver
from latentrt.runtime.sampling.trace import Table, trace

_KEPT = 64  # of some ten kilobytes each


def table_of(schedule: Schedule, solver: Solver, name: str) -> Table:
    """As ``trace``, which it is the first time, and for what was not asked for lately.

    Raises:
        RequestError: as ``trace``.
    """
    return _traced(_Traced(schedule, solver, name))


@dataclass(frozen=True, eq=False)
class _Traced:
    """What a table is made of; equal where all numbers are."""

    schedule: Schedule
    solver: Solver
    name: str

    @cached_property
    def _numbers(self) -> tuple[object, ...]:
        solver = self.solver
        options = (solver.func, *sorted(solver.keywords.items())) if isinstance(solver, partial) else (solver,)
        values = (getattr(self.schedule, field.name) for field in fields(Schedule))
        return (*options, *(value.tobytes() if isinstance(value, np.ndarray) else value for value in values))

    def __hash__(self) -> int:
        return hash(self._numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traced) and self._numbers == other._numbers


@lru_cache(_KEPT)
def _traced(run: _Traced) -> Table:
    return trace(run.schedule, run.solver, run.name)
