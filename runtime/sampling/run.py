"""The denoising loop: the one place that drives a solver, asks the model and tells the caller."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Solver

Model = Callable[[Array, Level], Array]


@dataclass(frozen=True, slots=True)
class Update:
    """What one model call led to: x (N, C, H/f, W/f) on its way to the next level, and the clean sample predicted.

    ``index`` counts model calls; ``next_level`` is None after the last.
    """

    index: int
    level: Level
    next_level: Level | None
    x: Array
    denoised: Array


OnStep = Callable[[Update], Array]


class Interrupt(Exception):  # noqa: N818 - control flow, as KeyboardInterrupt
    """Raised in a callback to end the run; what there is so far is decoded and returned.

    ``latents`` is what the run ends with; None takes x as the solver left it.
    """

    def __init__(self, latents: Array | None = None) -> None:
        super().__init__()
        self.latents = latents


def denoise(
    x: Array,
    schedule: Schedule,
    solver: Solver,
    model: Model,
    noise: NoiseSource,
    on_step: OnStep | None = None,
    stop_below: float = -math.inf,
) -> Array:
    """Runs a solver over a schedule.

    Args:
        x: (N, C, H/f, W/f) at the schedule's first level.
        schedule: the levels.
        solver: the generator to drive.
        model: prediction from (x scaled to unit variance, level).
        noise: standard normal noise of x's shape, for stochastic solvers.
        on_step: called after each evaluation's update; the x it returns goes on.
        stop_below: the run ends before the model would be asked at a lower timestep.

    Returns:
        The last x.
    """
    if len(schedule) == 0:
        return x
    run = solver(x, schedule, noise)
    request: Evaluate | None = next(run)
    index = 0
    while request is not None and request.level.timestep >= stop_below:
        x, level = request.x, request.level
        scale = level.input_scale
        output = model(x if scale == 1.0 else x * scale, level)
        denoised = level.denoised(schedule.prediction_type, output, x)
        try:
            request = run.send((x, denoised))
            x = request.x
        except StopIteration as finished:
            request, x = None, finished.value
        if on_step is not None:
            try:
                x = on_step(Update(index, level, request.level if request else None, x, denoised))
            except Interrupt as interrupt:
                return x if interrupt.latents is None else interrupt.latents
            if request is not None:
                request = Evaluate(x, request.level)
        index += 1
    return x


def model_calls(schedule: Schedule, solver: Solver) -> list[Level]:
    """The levels at which a run asks the model, in order; found by running the solver on a number."""
    levels: list[Level] = []
    if len(schedule):
        run: object = solver(0.0, schedule, lambda *_: 0.0)  # type: ignore[arg-type]
        request = next(run)  # type: ignore[call-overload]
        try:
            while True:
                levels.append(request.level)
                request = run.send((0.0, 0.0))  # type: ignore[attr-defined]
        except StopIteration:
            pass
    return levels
