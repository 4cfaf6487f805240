"""Islands that would mend a component of sixteen bits: proposed, and tried by making its graph again."""

from collections.abc import Callable, Iterable, Sequence
from math import isfinite

from latentrt.debugging.figures import Figures
from latentrt.debugging.findings import Place, Suggestion, places_of
from latentrt.debugging.marks import Mark
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.graphs.islands import EVERYTHING, Island
from latentrt.engines.precision import Precision

_HEADROOM = 2  # other inputs reach further than the recorded ones
_ROUNDS = 8
_MOST = 12  # modules; beyond that the component is kept as a whole

Compared = Callable[[tuple[Island, ...]], dict[str, Figures]]
"""Makes the suspect with islands, and compares all tensors."""


def suggestion(
    component: str,
    precision: Precision,
    marks: Sequence[Mark],
    figures: dict[str, Figures],
    outputs: Sequence[str],
    limit: float,
    compared: Compared,
) -> Suggestion:
    """The modules to keep in fp32.

    First those that make or take numbers beyond half of the precision's range, or make infinity or NaN of finite
    numbers, until there is none left. Then, while the results are further off than the limit, those whose own rounding
    adds most: one, two, four and so on.

    Args:
        component: its name.
        precision: fp16 or bf16.
        marks: its tensors.
        figures: those of the suspect as it is.
        outputs: the component's results.
        limit: the relative error that they may have.
        compared: tries islands.
    """
    places = places_of(marks, figures)
    modules: set[str] = set()
    islands: tuple[Island, ...] = ()
    added = _out_of_range(places, HALF_TYPES[precision].largest) | _breaking(places)
    for _ in range(_ROUNDS):
        if not added:
            break
        modules |= added
        islands = _islands(component, modules)
        figures = compared(islands)
        added = _breaking(places_of(marks, figures)) - modules
    ranked = [module for module in _by_own_error(places_of(marks, figures)) if module not in modules]
    count = 1
    while not _not_finite(figures) and _error(figures, outputs) > limit and ranked:
        modules |= set(ranked[:count])
        ranked, count = ranked[count:], 2 * count
        islands = _islands(component, modules)
        figures = compared(islands)
    return Suggestion(islands=islands, error=_error(figures, outputs), limit=limit, not_finite=_not_finite(figures))


def _out_of_range(places: Iterable[Place], largest: float) -> set[str]:
    """The modules that make or take numbers beyond half of a range; what masks are full of is its very end."""
    expected = {place.mark.tensor: place.figures.expected for place in places}
    large = {tensor for tensor, number in expected.items() if number > largest / _HEADROOM and number != largest}
    return {place.mark.module for place in places if large & {place.mark.tensor, *place.mark.sources}}


def _breaking(places: Sequence[Place]) -> set[str]:
    """The modules that make infinity or NaN of finite numbers."""
    return {place.mark.module for place in places if place.figures.not_finite and isfinite(place.takes)}


def _by_own_error(places: Iterable[Place]) -> list[str]:
    """Modules by what their nodes add to the error, largest first."""
    own: dict[str, float] = {}
    for place in places:
        added = place.figures.error**2 - place.takes**2
        own[place.mark.module] = max(own.get(place.mark.module, 0.0), added)
    return sorted(own, key=lambda module: -own[module])


def _islands(component: str, modules: set[str]) -> tuple[Island, ...]:
    if len(modules) > _MOST or "" in modules:
        return (Island(component=component, scope=EVERYTHING, reason="suggested"),)
    return tuple(Island(component=component, scope=module, reason="suggested") for module in sorted(modules))


def _error(figures: dict[str, Figures], outputs: Sequence[str]) -> float:
    return max((figures[name].error for name in outputs if name in figures), default=0.0)


def _not_finite(figures: dict[str, Figures]) -> int:
    return sum(one.not_finite for one in figures.values())
