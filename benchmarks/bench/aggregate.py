"""From a journal's answers to the records of the result."""

import os
import platform
from collections.abc import Mapping, Sequence
from math import isfinite, log
from pathlib import Path
from statistics import linear_regression
from typing import Any

from latentrt.benchmarks.bench.contenders import Entrant, model_bytes
from latentrt.benchmarks.bench.journal import Answer, Journal
from latentrt.benchmarks.bench.plan import AXES, Plan
from latentrt.benchmarks.peers.registry import SAMPLER
from latentrt.benchmarks.report.schema import (
    Arithmetic,
    Contender,
    Figure,
    Latency,
    Machine,
    OwnEmoji,
    Point,
    Quality,
    Scaling,
    Weights,
)
from latentrt.engines.machine import cpu_features


def contender(
    entrant: Entrant,
    plan: Plan,
    journal: Journal,
    failures: Mapping[str, str],
    quality: Quality | None,
    weights: Weights | None,
) -> Contender:
    """The row of one entrant, from what the journal holds."""
    name, options = entrant.name, plan.options
    drawn = journal.rounds(options.runs, "latency", "one", name)
    latency = latency_of(drawn)
    absent = entrant.absent or (None if latency else failures.get("latency", "it drew nothing"))
    cold = journal.rounds(options.cold_runs, "cold", name)
    own_emoji = journal.known("own_emoji", name)
    arithmetic = (journal.known("arithmetic", name) or {}).get("arithmetic")
    return Contender(
        name=name,
        adapter=entrant.adapter,
        model=entrant.model.name,
        precision=entrant.precision,
        sampler=None if entrant.sampler == SAMPLER else entrant.sampler,
        arithmetic=None if arithmetic is None else Arithmetic(**arithmetic),
        versions=drawn[-1]["versions"] if drawn else {},
        command=entrant.command(plan.request(plan.case)),
        absent=absent,
        failures={} if absent else dict(failures),
        latency=latency,
        cold_start=figure([answer["seconds"] for answer in cold]),
        open=figure([answer["open"] for answer in cold]),
        peak_bytes=max((answer["peak_bytes"] for answer in drawn if answer["peak_bytes"]), default=None),
        model_bytes=model_bytes(entrant) if absent is None else None,
        packages_bytes=(journal.known("packages", name) or {}).get("bytes"),
        operators=(journal.known("operators", name) or {}).get("seconds"),
        throughput=_scaling(plan, journal, "throughput", name),
        by_pixels=_scaling(plan, journal, "pixels", name),
        by_steps=_scaling(plan, journal, "steps", name),
        quality=quality,
        own_emoji=None if own_emoji is None else OwnEmoji(**own_emoji),
        weights=weights,
    )


def figure(samples: Sequence[float | None]) -> Figure | None:
    """The figure of what was measured; None where nothing was."""
    measured = [sample for sample in samples if sample is not None]
    return Figure.of(measured) if measured else None


def latency_of(rounds: Sequence[Answer]) -> Latency | None:
    """The stages of one picture, from the seconds of every round."""
    seconds: list[Mapping[str, Any]] = [answer["seconds"] for answer in rounds]
    if not seconds:
        return None

    def stage(name: str) -> Figure | None:
        return figure([sample.get(name) for sample in seconds])

    def later(name: str) -> list[float]:
        """Every run's own but its first."""
        return [value for run in seconds for value in (run.get(name) or ())[1:]]

    staged = [s for s in seconds if {"encode", "denoise", "decode"} <= s.keys()]
    # Samplers of one call a step; where a step has more, which of them were its own is not known
    paired = [s for s in seconds if len(s.get("steps") or ()) == len(s.get("unet") or ()) > 0]
    return Latency(
        picture=Figure.of([s["total"] for s in seconds]),
        encode=stage("encode"),
        denoise=stage("denoise"),
        step=figure(later("steps") or [step for s in seconds for step in s.get("steps") or ()]),
        unet_call=figure(later("unet")),
        decode=stage("decode"),
        rest=figure([s["total"] - s["encode"] - s["denoise"] - s["decode"] for s in staged]),
        host_overhead=figure(
            [step - call for s in paired for step, call in zip(s["steps"][1:], s["unet"][1:], strict=True)]
        ),
    )


def _scaling(plan: Plan, journal: Journal, phase: str, name: str) -> Scaling | None:
    """Times of whole pictures over the cases of a phase, and their exponent."""
    points = []
    for label, value in map(AXES[phase], plan.varied.get(phase, ())):
        seconds = [a["seconds"]["total"] for a in journal.rounds(plan.options.varied_runs, phase, label, name)]
        if seconds:
            points.append(Point(value=value, label=label, seconds=Figure.of(seconds)))
    if not points:
        return None
    return Scaling(points=tuple(points), exponent=exponent([(p.value, p.seconds.median) for p in points]))


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """b of a · value^b, by least squares over the logarithms; None of fewer than two different values."""
    if len({value for value, _ in points}) < 2:
        return None
    slope = linear_regression([log(value) for value, _ in points], [log(seconds) for _, seconds in points]).slope
    return slope if isfinite(slope) else None


def machine(*, background: Figure | None, idle_workers: Figure | None) -> Machine:
    """This machine, with the shares of its processors that others took during the runs."""
    import psutil

    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return Machine(
        processor=processor,
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        features=cpu_features().split(" ", 2)[-1],
        background=background,
        idle_workers=idle_workers,
    )
