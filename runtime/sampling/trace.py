"""A solver as a table: run on symbols instead of arrays, it tells the coefficients of every update.

Solvers only combine arrays linearly, with coefficients that are known before the first step. So a run can be
written down in advance: one row per model call, and each row a handful of numbers over the vectors that are still
alive. A loop on a device needs nothing else per step than a timestep and a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import RequestError
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import EvaluateBoth, Solver

_NEGLIGIBLE = 1e-12  # what is left where coefficients cancel in float64


class PredictionKind(StrEnum):
    """Which form of the model's prediction the rows combine."""

    DENOISED = "denoised"
    NOISE = "noise"
    OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model call and the update after it.

    The model is asked for x at ``level``. Its guided output becomes the prediction
    p = ``from_x`` · x + ``from_output`` · output, its unguided one likewise u, and then
    x ← ``x`` · x + ``held`` · h + ``prediction`` · p + ``unguided`` · u + Σ ``earlier[k]`` · slot k + ``noise`` · n,
    with h an x that an earlier row with ``hold`` put aside (before its update), slots that hold earlier predictions,
    and n fresh standard normal noise for the way between the two levels of ``noise_span``. After the update p goes
    into slot ``keep``, and u into slot ``keep_unguided``, if any.
    """

    level: Level
    from_x: float
    from_output: float
    x: float
    held: float
    prediction: float
    unguided: float
    earlier: tuple[float, ...]
    noise: float
    noise_span: tuple[Level, Level] | None
    hold: bool
    keep: int | None
    keep_unguided: int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A whole run. ``earlier_predictions`` slots and, if it ``holds_x``, one earlier x are what a loop must keep."""

    kind: PredictionKind
    rows: tuple[Row, ...]

    @property
    def earlier_predictions(self) -> int:
        """How many predictions of earlier calls are needed at once."""
        kept = (slot for row in self.rows for slot in (row.keep, row.keep_unguided))
        return max((slot + 1 for slot in kept if slot is not None), default=0)

    @property
    def holds_x(self) -> bool:
        """Whether an earlier x is needed."""
        return any(row.hold for row in self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return any(row.noise for row in self.rows)


def trace(schedule: Schedule, solver: Solver, name: str = "this solver") -> Table:
    """Writes a run down as a table.

    Of the three forms in which predictions can be kept, the one with the fewest vectors is taken.

    Args:
        schedule: the levels.
        solver: with its options bound.
        name: what to call it in an error.

    Raises:
        RequestError: the solver does more to arrays than combine them linearly, or needs more than one earlier x.
    """
    tables = [table for kind in PredictionKind if (table := _traced(schedule, solver, kind, name)) is not None]
    if not tables:
        raise RequestError(f"{name} needs more than one earlier x, expected at most one; run it in the loop")
    return min(tables, key=lambda table: (table.earlier_predictions + table.holds_x, len(table.rows)))


class _NotLinearError(Exception):
    pass


_Symbol = tuple[str, int]
_GUIDED, _UNGUIDED = "p", "u"
_PREDICTIONS = (_GUIDED, _UNGUIDED)


class _Combination:
    """A linear combination of symbols; anything but a linear operation is refused."""

    __array_ufunc__ = None  # NumPy's scalars leave the multiplication to us

    def __init__(self, terms: Mapping[_Symbol, float]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: "_Combination") -> "_Combination":
        if not isinstance(other, _Combination):
            raise _NotLinearError
        names = {**self.terms, **other.terms}
        return _Combination({name: self.terms.get(name, 0.0) + other.terms.get(name, 0.0) for name in names})

    def __mul__(self, factor: float) -> "_Combination":
        if isinstance(factor, _Combination):
            raise _NotLinearError
        return _Combination({name: factor * value for name, value in self.terms.items()})

    def __getattr__(self, name: str) -> Any:
        raise _NotLinearError

    def __truediv__(self, divisor: float) -> "_Combination":
        return self * (1.0 / divisor)

    def __sub__(self, other: "_Combination") -> "_Combination":
        return self + other * -1.0

    def __neg__(self) -> "_Combination":
        return self * -1.0

    __rmul__ = __mul__


def _traced(schedule: Schedule, solver: Solver, kind: PredictionKind, name: str) -> Table | None:
    """The table over one kind of prediction, or None where that needs more than one earlier x."""
    levels: list[Level] = []
    results: list[_Combination] = []
    spans: dict[int, tuple[Level, Level]] = {}

    def noise(start: Level, end: Level) -> _Combination:
        if len(levels) - 1 in spans:
            raise _NotLinearError  # one noise a row
        spans[len(levels) - 1] = (start, end)
        return _Combination({("noise", len(levels) - 1): 1.0})

    try:
        if len(schedule):
            run: Any = solver(_Combination({("x", 0): 1.0}), schedule, noise)  # type: ignore[arg-type]
            request = next(run)
            try:
                while True:
                    call, level = len(levels), request.level
                    levels.append(level)
                    x, *both = (_Combination({(which, call): 1.0}) for which in ("x", *_PREDICTIONS))
                    asked = both if isinstance(request, EvaluateBoth) else both[:1]
                    told = (_denoised(kind, schedule.prediction_type, level, x, prediction) for prediction in asked)
                    request = run.send((x, *told))
                    results.append(request.x)
            except StopIteration as finished:
                results.append(finished.value)
    except (_NotLinearError, TypeError) as error:
        raise RequestError(f"{name} is not linear in its arrays, so it has no table; run it in the loop") from error
    return _table(schedule.prediction_type, kind, levels, results, spans)


def _denoised(
    kind: PredictionKind, prediction_type: PredictionType, level: Level, x: _Combination, prediction: _Combination
) -> Any:
    if kind is PredictionKind.DENOISED:
        return prediction
    as_type = PredictionType.EPSILON if kind is PredictionKind.NOISE else prediction_type
    return level.denoised(as_type, prediction, x)  # type: ignore[arg-type]


def _table(
    prediction_type: PredictionType,
    kind: PredictionKind,
    levels: list[Level],
    results: list[_Combination],
    spans: Mapping[int, tuple[Level, Level]],
) -> Table | None:
    """Rows from the symbolic updates; which earlier vectors live is found out here."""
    used = []
    for result in results:
        largest = max((abs(value) for value in result.terms.values()), default=0.0)
        used.append({name: value for name, value in result.terms.items() if abs(value) > _NEGLIGIBLE * largest})
    last_x = _last_uses(used, "x")
    last = {(which, call): use for which in _PREDICTIONS for call, use in _last_uses(used, which).items()}
    slots: list[_Symbol] = []  # which call's prediction each slot holds
    rows = []
    for call, (level, terms) in enumerate(zip(levels, used, strict=True)):
        alive = [index for index, last in last_x.items() if index < call <= last]
        if len(alive) > 1:
            return None
        from_x, from_output = _prediction_from_output(kind, prediction_type, level)
        earlier = tuple(terms.get(symbol, 0.0) for symbol in slots)
        kept: dict[str, int] = {}
        for which in _PREDICTIONS:
            if (which, call) in last:
                free = (slot for slot, symbol in enumerate(slots) if last[symbol] <= call)
                kept[which] = slot = next(free, len(slots))
                slots[slot : slot + 1] = [(which, call)]
        rows.append(
            Row(
                level=level,
                from_x=from_x,
                from_output=from_output,
                x=terms.get(("x", call), 0.0),
                held=terms.get(("x", alive[0]), 0.0) if alive else 0.0,
                prediction=terms.get((_GUIDED, call), 0.0),
                unguided=terms.get((_UNGUIDED, call), 0.0),
                earlier=earlier,
                noise=terms.get(("noise", call), 0.0),
                noise_span=spans.get(call),
                hold=call in last_x,
                keep=kept.get(_GUIDED),
                keep_unguided=kept.get(_UNGUIDED),
            )
        )
    return Table(kind=kind, rows=tuple(rows))


def _last_uses(used: list[dict[_Symbol, float]], kind: str) -> dict[int, int]:
    """The last update in which each earlier x, or prediction, is needed; those that are never, are left out."""
    return {
        index: call for call, terms in enumerate(used) for symbol, index in terms if symbol == kind and index < call
    }


def _prediction_from_output(kind: PredictionKind, prediction_type: PredictionType, level: Level) -> tuple[float, float]:
    """The prediction as a combination of x and the model's output."""
    if kind is PredictionKind.OUTPUT:
        return 0.0, 1.0
    x, output = _Combination({("x", 0): 1.0}), _Combination({("output", 0): 1.0})
    denoised: Any = level.denoised(prediction_type, output, x)  # type: ignore[arg-type]
    prediction: Any = denoised if kind is PredictionKind.DENOISED else level.noise(x, denoised)  # type: ignore[arg-type]
    return prediction.terms.get(("x", 0), 0.0), prediction.terms.get(("output", 0), 0.0)
