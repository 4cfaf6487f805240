"""How long a call takes, as a multiple of the fp32 engine's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, Tensor

# Of a call: what two runs of the same may differ by on any machine, and what is slower however busy the machine is
_LEAST_NOISE, _MOST_NOISE = 0.02, 0.05


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The median over pairs of calls, and how far half of the pairs are from it at most."""

    median: float
    spread: float

    def slower(self, other: "StepTime") -> bool:
        """Whether it takes longer than another, beyond what both measurements may be wrong by."""
        noise = max(self.spread, other.spread) / other.median
        return self.median > other.median * (1.0 + min(max(noise, _LEAST_NOISE), _MOST_NOISE))


def step_time_from_ratios(ratios: Array) -> StepTime:
    """Sums up the pairs (n,): each the time of one call over that of the fp32 engine's right beside it."""
    median = float(np.median(ratios))
    return StepTime(median=median, spread=float(np.median(np.abs(ratios - median))))


def paired_ratios(
    engine: Engine, exact: Engine, inputs: Mapping[str, Tensor], pairs: int, report: Callable[[int], None]
) -> Array:
    """Runs both engines in turn, after a call of each that is not counted; either begins every other pair.

    Args:
        engine: what is timed.
        exact: what it is compared with.
        inputs: of every call.
        pairs: how many.
        report: receives how many are done.

    Returns:
        The time of one over that of the other (pairs,).
    """
    for one in (engine, exact):
        one.run(inputs)
    ratios = np.empty(pairs)
    for index in range(pairs):
        order = (engine, exact) if index % 2 else (exact, engine)
        seconds = {id(one): _seconds(one, inputs) for one in order}
        ratios[index] = seconds[id(engine)] / seconds[id(exact)]
        report(index + 1)
    return ratios


def _seconds(engine: Engine, inputs: Mapping[str, Tensor]) -> float:
    start = perf_counter()
    engine.run(inputs)
    return perf_counter() - start
