"""From a journal's answers to the records of the result."""

from collections.abc import Mapping, Sequence
from math import isfinite, log
from statistics import linear_regression
from typing import Any

from latentrt.benchmarks.journal import Answer, Journal
from latentrt.benchmarks.plan import Case
from latentrt.benchmarks.schema import Figure, Latency, Point, Scaling


def figure(samples: Sequence[float | None]) -> Figure | None:
    """The figure of what was measured; None where nothing was."""
    found = [sample for sample in samples if sample is not None]
    return Figure.of(found) if found else None


def answers(journal: Journal, runs: int, *key: object) -> list[Answer]:
    """The answers of all rounds: ``key`` is phase, case, and the entrant's name, between which the round stands."""
    *before, name = key
    found = [journal.known(*before, number, name) for number in range(runs)]
    return [answer for answer in found if answer is not None]


def latency_of(rounds: Sequence[Answer]) -> Latency | None:
    """The stages of one picture, from the seconds of every round."""
    seconds: list[Mapping[str, Any]] = [answer["seconds"] for answer in rounds]
    if not seconds:
        return None

    def stage(name: str) -> Figure | None:
        return figure([sample.get(name) for sample in seconds])

    def later(name: str) -> list[list[float]]:
        """Every run's own but its first."""
        return [s[name][1:] for s in seconds if s.get(name)]

    told = [s for s in seconds if {"encode", "denoise", "decode"} <= s.keys()]
    steps = [step for run in later("steps") for step in run]
    # Samplers of one call a step; where a step has more, which of them were its own is not known
    paired = [s for s in seconds if len(s.get("steps") or ()) == len(s.get("unet") or ()) > 0]
    return Latency(
        picture=Figure.of([s["total"] for s in seconds]),
        encode=stage("encode"),
        denoise=stage("denoise"),
        step=figure(steps or [step for s in seconds for step in s.get("steps") or ()]),
        unet_call=figure([call for run in later("unet") for call in run]),
        decode=stage("decode"),
        rest=figure([s["total"] - s["encode"] - s["denoise"] - s["decode"] for s in told]),
        host_overhead=figure(
            [step - call for s in paired for step, call in zip(s["steps"][1:], s["unet"][1:], strict=True)]
        ),
    )


def scaling_of(
    journal: Journal, runs: int, phase: str, cases: Mapping[str, Case], values: Mapping[str, float], name: str
) -> Scaling | None:
    """Times of whole pictures over the cases of a phase, and their exponent."""
    points = []
    for label in cases:
        seconds = [answer["seconds"]["total"] for answer in answers(journal, runs, phase, label, name)]
        if seconds:
            points.append(Point(value=values[label], label=label, seconds=Figure.of(seconds)))
    if not points:
        return None
    return Scaling(points=tuple(points), exponent=exponent([(p.value, p.seconds.median) for p in points]))


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """b of a · value^b, by least squares over the logarithms; None of fewer than two different values."""
    if len({value for value, _ in points}) < 2:
        return None
    slope = linear_regression([log(value) for value, _ in points], [log(seconds) for _, seconds in points]).slope
    return slope if isfinite(slope) else None
