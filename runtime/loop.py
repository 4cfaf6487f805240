"""The denoising loop: the one place that drives a solver, asks the model and tells the caller."""

from collections.abc import Callable

from latentrt.engines.spec import Array
from latentrt.runtime.schedule import Schedule
from latentrt.runtime.solvers import NoiseSource, Solver

Model = Callable[[Array, float], Array]
OnStep = Callable[[int, float, Array], Array]


def denoise(
    x: Array,
    schedule: Schedule,
    solver: Solver,
    model: Model,
    noise: NoiseSource,
    on_step: OnStep | None = None,
) -> Array:
    """Runs a solver over a schedule.

    Args:
        x: (N, C, H/f, W/f) at the schedule's first level.
        schedule: the levels.
        solver: the generator to drive.
        model: prediction from (x scaled to unit variance, timestep).
        noise: standard normal noise of x's shape, for stochastic solvers.
        on_step: called after each evaluation's update with (index, timestep, x); what it returns goes on.

    Returns:
        The last x.
    """
    if len(schedule) == 0:
        return x
    run = solver(x, schedule, noise)
    request = next(run)
    index = 0
    while True:
        x, level = request.x, request.level
        scale = level.input_scale
        output = model(x if scale == 1.0 else x * scale, level.timestep)
        denoised = level.denoised(schedule.prediction_type, output, x)
        try:
            request = run.send((x, denoised))
        except StopIteration as finished:
            last: Array = finished.value
            return last if on_step is None else on_step(index, level.timestep, last)
        if on_step is not None:
            request = type(request)(on_step(index, level.timestep, request.x), request.level)
        index += 1
