"""How long each contender takes, in rounds in which each has its turn, so that what disturbs one disturbs all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TypeVar

_Contender = TypeVar("_Contender")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds of one turn: of a model call with its guidance, the median over the picture, and of the whole picture."""

    step: float
    picture: float


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often everyone has a turn.

    ``least`` rounds in any case, then more until there were ``most``, or ``seconds`` have passed.
    """

    least: int = 3
    most: int = 9
    seconds: float = 120.0


ROUNDS = Rounds()


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The medians of all turns in seconds, and the picture's share of the reference's in the same round."""

    step: float
    picture: float
    share: float


def take_turns(
    turns: Mapping[_Contender, Callable[[], Turn]],
    rounds: Rounds = ROUNDS,
    *,
    told: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = perf_counter,
) -> dict[_Contender, list[Turn]]:
    """A list of turns of each, as long as there were rounds.

    Args:
        turns: what draws one picture, by who does.
        rounds: how many.
        told: receives how many rounds are done.
        clock: the time in seconds.
    """
    taken: dict[_Contender, list[Turn]] = {contender: [] for contender in turns}
    begin = clock()
    for done in range(1, rounds.most + 1):
        for contender, turn in turns.items():
            taken[contender].append(turn())
        told(done)
        if done >= rounds.least and clock() - begin > rounds.seconds:
            break
    return taken


def pace(turns: Sequence[Turn], reference: Sequence[Turn]) -> Pace:
    """The medians of some turns, beside those of the reference in the same rounds."""
    return Pace(
        step=median(turn.step for turn in turns),
        picture=median(turn.picture for turn in turns),
        share=median(turn.picture / other.picture for turn, other in zip(turns, reference, strict=True)),
    )
