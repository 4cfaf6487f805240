"""Which calls the loop on the device can make, and what makes their steps."""

from collections.abc import Callable
from dataclasses import replace

from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Loop, Shapes
from latentrt.runtime.call.conditioning import Conditioning
from latentrt.runtime.call.request import Request
from latentrt.runtime.denoiser.linear_guidance import LinearGuidance
from latentrt.runtime.denoiser.step_denoiser import StepDenoiser
from latentrt.runtime.sampling.step_run import fits
from latentrt.runtime.sampling.tables import table_of
from latentrt.runtime.sampling.trace import Table


def device_steps(
    opened: Callable[[Shapes], Engine], shapes: Shapes, request: Request, conditioning: Conditioning
) -> tuple[StepDenoiser, Table] | None:
    """What makes the steps of a run, and its table; None where the run needs the loop on the host.

    That is with DeepCache, of videos, where a sampler or guidance is not linear, where a sampler keeps more than a step
    has places for, or where the passes of a picture are more than one engine call holds.

    Args:
        opened: opens the U-Net at shapes.
        shapes: of its calls.
        request: what is drawn.
        conditioning: what the U-Net is told.

    Raises:
        EngineError: there is no engine that makes whole steps.
    """
    sampling, guidance = request.sampling, conditioning.guidance
    if request.deep_cache is not None or len(request.latent_shape) != 4 or not guidance.linear:
        return None
    try:
        table = table_of(sampling.schedule, sampling.solver, sampling.sampler.name)
    except RequestError:
        return None
    engine = opened(replace(shapes, loop=Loop.DEVICE))
    steps = LinearGuidance(guider=conditioning.guider, rescale=guidance.rescale)
    levels = [row.level for row in table.rows]
    if not fits(table) or not steps.fits(levels, engine.spec.batches[-1]):
        return None
    return StepDenoiser(engine, conditioning.conditions, steps), table
