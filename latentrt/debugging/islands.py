"""Islands that would mend a component of sixteen bits: proposed, and tried by making its graph again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isfinite

from latentrt.debugging.figures import Figures
from latentrt.debugging.findings import Place, Suggestion, places_of
from latentrt.debugging.marks import Mark
from latentrt.engines.graphs.half import largest_number
from latentrt.engines.graphs.islands import Island

_HEADROOM = 2  # other inputs reach further than those that were run
_ROUNDS = 8
_MOST = 12  # modules; beyond that the component is kept as a whole

Compared = Callable[[tuple[Island, ...]], dict[str, Figures]]
"""Makes the suspect with islands, and compares all tensors."""

Reasons = dict[str, str]
"""Modules to keep in fp32, and why."""


def suggestion(
    whole: Island,
    marks: Sequence[Mark],
    figures: dict[str, Figures],
    outputs: Sequence[str],
    limit: float,
    compared: Compared,
) -> Suggestion | None:
    """The modules to keep in fp32; None where nothing has to be.

    First those that make or take numbers beyond half of the precision's range, or make infinity or NaN of finite
    numbers, until there is none left. Then, while the results are further off than the limit, those whose own rounding
    adds most: one, two, four and so on.

    Args:
        whole: the component as a whole as an island of its family and precision.
        marks: its tensors.
        figures: those of the suspect as it is.
        outputs: the component's results.
        limit: the relative error that they may have.
        compared: tries islands.
    """
    places = places_of(marks, figures)
    kept: Reasons = {}
    islands: tuple[Island, ...] = ()
    added = _breaking(places) | _out_of_range(places, largest_number(whole.precisions[0]))
    for _ in range(_ROUNDS):
        if not added:
            break
        kept |= added
        islands = _islands(whole, kept)
        figures = compared(islands)
        added = {module: why for module, why in _breaking(places_of(marks, figures)).items() if module not in kept}
    ranked = [module for module in _by_own_error(places_of(marks, figures)) if module not in kept]
    count = 1
    while not _not_finite(figures) and _error(figures, outputs) > limit and ranked:
        kept |= dict.fromkeys(ranked[:count], "rounding")
        ranked, count = ranked[count:], 2 * count
        islands = _islands(whole, kept)
        figures = compared(islands)
    if not islands:
        return None
    return Suggestion(islands=islands, error=_error(figures, outputs), limit=limit, not_finite=_not_finite(figures))


def _out_of_range(places: Iterable[Place], largest: float) -> Reasons:
    """The modules that make or take numbers beyond half of a range; what masks are full of is its very end."""
    expected = {place.mark.tensor: place.figures.expected for place in places if place.mark.narrow}
    large = {
        tensor: number for tensor, number in expected.items() if number > largest / _HEADROOM and number != largest
    }
    reached: dict[str, float] = {}
    for place in places:
        for tensor in {place.mark.tensor, *place.mark.sources} & large.keys():
            reached[place.mark.module] = max(reached.get(place.mark.module, 0.0), large[tensor])
    return {module: f"numbers up to {number:.3g}" for module, number in reached.items()}


def _breaking(places: Sequence[Place]) -> Reasons:
    """The modules that make infinity or NaN of finite numbers."""
    return {
        place.mark.module: "attention scores" if place.mark.operator == "Attention" else "infinity or NaN"
        for place in places
        if place.figures.not_finite and isfinite(place.takes)
    }


def _by_own_error(places: Iterable[Place]) -> list[str]:
    """Modules by what their nodes add to the error, largest first."""
    own: dict[str, float] = {}
    for place in places:
        added = place.figures.error**2 - place.takes**2
        own[place.mark.module] = max(own.get(place.mark.module, 0.0), added)
    return sorted(own, key=lambda module: -own[module])


def _islands(whole: Island, kept: Reasons) -> tuple[Island, ...]:
    if len(kept) > _MOST or "" in kept:
        return (replace(whole, reason=next(iter(kept.values()))),)
    return tuple(replace(whole, scope=module, reason=kept[module]) for module in sorted(kept))


def _error(figures: dict[str, Figures], outputs: Sequence[str]) -> float:
    return max((figures[name].error for name in outputs if name in figures), default=0.0)


def _not_finite(figures: dict[str, Figures]) -> int:
    return sum(one.not_finite for one in figures.values())
