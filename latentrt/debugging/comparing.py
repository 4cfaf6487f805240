"""Two sides run on the same inputs by Polygraphy's Comparator, and each tensor compared; some tensors at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

from latentrt.debugging.figures import Figures, figures_of
from latentrt.debugging.library import quiet
from latentrt.debugging.marks import Mark, count_elements
from latentrt.debugging.ort_sides import OrtSide
from latentrt.debugging.parts import Feed
from latentrt.debugging.side import Side
from latentrt.engines.spec import Array

_AT_ONCE = 2**28  # numbers of a side: one gigabyte of float32

SIDES = ("suspect", "reference")

Kept = Callable[[int, str, Mapping[str, Array]], None]
"""Is given what a side made in a run: the run's index, one of ``SIDES``, its tensors."""


def sizes(counted: OrtSide, tensors: Sequence[str], feeds: Sequence[Feed]) -> dict[str, int]:
    """How many numbers tensors have, in the run where they have most."""
    model = counted.graph()
    names = count_elements(model, tensors)
    session = counted.session(model)
    known = {value.name for value in session.get_inputs()}
    largest = dict.fromkeys(names, 0)
    for feed in feeds:
        given = {name: array for name, array in feed.items() if name in known}
        for tensor, count in zip(names, session.run(list(names.values()), given), strict=True):
            largest[tensor] = max(largest[tensor], int(count))
    return largest


def groups(tensors: Sequence[str], largest: Mapping[str, int], at_once: int = _AT_ONCE) -> Iterator[list[str]]:
    """Tensors in as many turns as memory asks for, in their order; a tensor that is larger than a turn has its own."""
    group: list[str] = []
    room = at_once
    for tensor in tensors:
        if group and largest[tensor] > room:
            yield group
            group, room = [], at_once
        group.append(tensor)
        room -= largest[tensor]
    if group:
        yield group


def compare(
    suspect: Side,
    reference: Side,
    marks: Sequence[Mark],
    turns: Sequence[Sequence[str]],
    feeds: Sequence[Feed],
    *,
    end: float = inf,
    done: Callable[[int, int], None] = lambda done, total: None,
    kept: Kept = lambda index, side, arrays: None,
) -> dict[str, Figures]:
    """The figures of every tensor, over all runs.

    Args:
        suspect: the side in question.
        reference: what it is held against.
        marks: the tensors.
        turns: which of them are results at the same time.
        feeds: the inputs of each run.
        end: the largest number of the suspect's precision.
        done: is told how many runs have ended, and of how many.
        kept: is given what each side made.

    Raises:
        EngineError: a backend refuses the graph or fails.
    """
    figures: dict[str, Figures] = {}
    total, ended = len(turns) * len(feeds), 0
    for turn in turns:
        with quiet():
            sides = [side.shown(turn, feeds) for side in (suspect, reference)]
        for index, feed in enumerate(feeds):
            both = [_results(side.runner, side.names, feed) for side in sides]
            for tensor in turn:
                if all(tensor in arrays for arrays in both):
                    now = figures_of(*(arrays[tensor] for arrays in both), end=end)
                    figures[tensor] = figures[tensor].worse(now) if tensor in figures else now
            for side, arrays in zip(SIDES, both, strict=True):
                kept(index, side, arrays)
            ended += 1
            done(ended, total)
    return {mark.tensor: figures[mark.tensor] for mark in marks if mark.tensor in figures}


def _results(runner: object, names: Mapping[str, str], feed: Feed) -> dict[str, Array]:
    """What one side makes of inputs, by the tensors' names: what is in floating point."""
    from polygraphy.comparator import Comparator

    with quiet():
        ((_, (result,)),) = Comparator.run([runner], data_loader=[dict(feed)])
    arrays = {tensor: result[name] for tensor, name in names.items() if name in result}
    return {tensor: array for tensor, array in arrays.items() if array.dtype.kind == "f"}
