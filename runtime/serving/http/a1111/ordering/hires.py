"""A1111's hires fix as ours."""

from collections.abc import Collection
from dataclasses import replace

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.call.hires.hires import Hires
from latentrt.runtime.metadata.further_passes import UPSCALERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.serving.http.a1111.bodies import DrawingBody
from latentrt.runtime.serving.http.a1111.ordering.samplers import DEFAULT_TITLE, SamplerChoice

NO_UPSCALER = "None"
_SAME_SAMPLER, _SAME_SCHEDULER = "Use same sampler", "Use same scheduler"
_ROUNDING = 1.0  # pixels by which a size may differ from the scale's


def hires_from_body(
    body: DrawingBody,
    first: SamplerChoice | None,
    size: tuple[int, int],
    config: ScheduleConfig,
    steps: int,
    upscalers: Collection[str],
) -> Hires:
    """The second pass.

    Args:
        body: the request.
        first: the first pass's sampler; None: the model's own.
        size: the first pass's width and height.
        config: the model's schedule.
        steps: of the first pass.
        upscalers: those of the catalog.

    Raises:
        UnknownNameError: there is no such sampler.
        RequestError: an upscaler that is unknown, or a size in other proportions.
    """
    return Hires(
        scale=_scale(body, size),
        strength=body.denoising_strength,
        steps=body.hr_second_pass_steps or None,
        upscaler=upscaler_from_title(body.hr_upscaler, upscalers),
        sampler=_sampler(body, first, config, body.hr_second_pass_steps or steps),
        prompt=body.hr_prompt or None,
        negative_prompt=body.hr_negative_prompt or None,
        guidance_scale=body.hr_cfg,
    )


def upscaler_from_title(title: str, upscalers: Collection[str]) -> str:
    """Our name of what enlarges: a filter's, or an upscaler of the catalog. Without any, A1111 takes Lanczos.

    Raises:
        RequestError: there is none of that name.
    """
    if title in upscalers:
        return title
    named = {NO_UPSCALER: "lanczos", **{label: name for name, label in UPSCALERS.items()}}
    if title not in named:
        raise RequestError(
            f"got upscaler {shown(title)}, expected one of {', '.join((*named, *upscalers))}; choose one of these"
        )
    return named[title]


def _scale(body: DrawingBody, size: tuple[int, int]) -> float:
    (x, y), (width, height) = (body.hr_resize_x, body.hr_resize_y), size
    if not x and not y:
        return body.hr_scale
    scale = x / width if x else y / height
    if x and y and abs(y - scale * height) > _ROUNDING:
        raise RequestError(
            f"got hr_resize {x}x{y} of {width}x{height}, expected the same proportions; give hr_scale, or one of "
            "hr_resize_x and hr_resize_y"
        )
    return scale


def _sampler(body: DrawingBody, first: SamplerChoice | None, config: ScheduleConfig, steps: int) -> Sampler | None:
    """The second pass's own sampler; None where it has none."""
    title = None if body.hr_sampler_name in (None, "", _SAME_SAMPLER) else body.hr_sampler_name
    scheduler = None if body.hr_scheduler in (None, "", _SAME_SCHEDULER) else body.hr_scheduler
    if title is None and scheduler is None:
        return None
    first = first or SamplerChoice(title=DEFAULT_TITLE, scheduler=None, eta=None, options={})
    named = replace(first, title=title or first.title, scheduler=scheduler or first.scheduler)
    if named.cfg_plus_plus != first.cfg_plus_plus:
        raise RequestError(
            f"got hr_sampler_name {shown(title)} with sampler_name {shown(first.title)}, expected CFG++ in both passes "
            "or in none; choose another"
        )
    return named.sampler(config, steps)
