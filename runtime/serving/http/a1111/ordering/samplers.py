"""A1111's titles of samplers and schedulers, read the way back: what its table of names is for the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.metadata.a1111_names import DPM_GRIDS, sampler_name
from latentrt.runtime.sampling.sampler_options import AYS
from latentrt.runtime.sampling.sampler_table import KARRAS_SUFFIX, SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.serving.jobs.errors import UnknownNameError

AUTOMATIC, _NORMAL, _SIMPLE, _DDIM = "automatic", "normal", "simple", "ddim"
SCHEDULERS: Mapping[str, str] = {
    AUTOMATIC: "Automatic",
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "align_your_steps": "Align Your Steps",
    _SIMPLE: "Simple",
    _NORMAL: "Normal",
    _DDIM: "DDIM",
    "beta": "Beta",
}
"""Those of A1111's schedulers that can be drawn with, by name, with their labels."""
SAMPLER = "sampler"
"""What ``UnknownNameError`` calls a sampler that there is not."""
DEFAULT_TITLE = "Euler"
"""The sampler of a request that names a scheduler alone."""
PLUS_PLUS = " CFG++"
CFG_PLUS_PLUS_SCALE = 12.5
"""What the CFG scale of A1111's samplers of CFG++ is divided by."""

# Its variants of one sampler of ours
_VARIANTS = (
    Sampler(name="dpmpp_2m_sde", solver_type="heun"),
    Sampler(name="dpmpp_3m", algorithm_type="sde-dpmsolver++"),
)
# What it takes where the scheduler is "automatic" (modules/sd_samplers_kdiffusion.py); for the other k-samplers Uniform
_AUTOMATIC_OF = {
    "DPM++ 2M": "karras",
    "DPM++ SDE": "karras",
    "DPM++ 2M SDE": "exponential",
    "DPM++ 2M SDE Heun": "exponential",
    "DPM++ 3M SDE": "exponential",
    "DPM2": "karras",
    "DPM2 a": "karras",
    "Euler": "uniform",
    "Euler a": "uniform",
    "LMS": "uniform",
    "Heun": "uniform",
}
_WITHOUT_SCHEDULER = ("DDIM", "PLMS", "UniPC")  # A1111 heeds no scheduler with these
_CURVES = ("karras", "exponential", "beta")
_DEFAULTS = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": inf, "s_noise": 1.0}


@dataclass(frozen=True, kw_only=True)
class SamplerChoice:
    """What a request says of its sampler; None where it is silent.

    Attributes:
        title: A1111's name of the sampler, or ours; a scheduler's label may stand behind it, as before its 1.9.
        scheduler: name or label.
        eta: of ancestral samplers and DDIM.
        options: ``s_churn``, ``s_tmin``, ``s_tmax``, ``s_noise``.
    """

    title: str
    scheduler: str | None
    eta: float | None
    options: Mapping[str, float]

    def named(self) -> tuple[str, str]:
        """The title and the scheduler's name.

        Raises:
            UnknownNameError: there is no such sampler.
            RequestError: there is no such scheduler.
        """
        scheduler = _scheduler(self.scheduler)
        if self.title.lower() in _by_spelling():
            return _by_spelling()[self.title.lower()], scheduler
        for name, label in SCHEDULERS.items():
            plain = self.title.lower().removesuffix(f" {label.lower()}")
            if plain in _by_spelling() and plain != self.title.lower():
                return _by_spelling()[plain], name if scheduler == AUTOMATIC else scheduler
        raise UnknownNameError(
            f"got sampler {shown(self.title)}, expected one of {', '.join(titles())}; choose one of these",
            what=SAMPLER,
        )

    def sampler(self, config: ScheduleConfig, steps: int) -> Sampler:
        """The sampler as ours.

        Args:
            config: the model's schedule.
            steps: that are asked for.

        Raises:
            UnknownNameError: there is no such sampler.
            RequestError: a scheduler or option that it cannot draw with.
        """
        title, scheduler = self.named()
        sampler = titles()[title.removesuffix(PLUS_PLUS)]
        wishes = _schedule_wishes(sampler, title.removesuffix(PLUS_PLUS), scheduler, config, steps)
        return replace(sampler, **{**wishes, **self._options(sampler, title)})

    @property
    def cfg_plus_plus(self) -> bool:
        """Whether the sampler is one of CFG++'s."""
        return self.named()[0].endswith(PLUS_PLUS)

    def _options(self, sampler: Sampler, title: str) -> dict[str, float]:
        wanted = {name: value for name, value in self.options.items() if value != _DEFAULTS[name]}
        if not wanted.get("s_tmax", 1.0):  # 0 is no bound there
            del wanted["s_tmax"]
        unknown = [name for name in wanted if name not in sampler.options]
        if unknown:
            raise RequestError(
                f"got {unknown[0]} {wanted[unknown[0]]:g} with sampler {title!r}, which has no such option here; leave "
                "it out"
            )
        if self.eta is None or not (sampler.stochastic or sampler.name == "ddim"):
            return wanted  # which is all that A1111 heeds as well
        if sampler.name == "ddim":
            return {**wanted, "eta": self.eta}
        if self.eta != 1.0:
            raise RequestError(
                f"got eta {self.eta:g} with sampler {title!r}, expected 1, the only one that it has here; leave it out"
            )
        return wanted


@cache
def titles() -> Mapping[str, Sampler]:
    """The samplers by A1111's titles, those of CFG++ as well; what it does not have has our label."""
    plain = [Sampler(name=name) for name in SAMPLERS if not name.endswith(KARRAS_SUFFIX) and name != "edm_euler"]
    named = {sampler_name(sampler): sampler for sampler in (*plain, *_VARIANTS)}
    plus_plus = {
        f"{title}{PLUS_PLUS}": sampler
        for title, sampler in named.items()
        if sampler.info.cfg_plus_plus is not None and sampler not in _VARIANTS
    }
    return {**named, **plus_plus}


def schedulers_of(title: str) -> tuple[str, ...]:
    """The names of the schedulers that a sampler can draw with."""
    sampler = titles()[title]
    if sampler.info.sigma_spacing is None or title in _WITHOUT_SCHEDULER:
        return (AUTOMATIC,)
    return tuple(name for name in SCHEDULERS if name != _DDIM or sampler.info.grid not in DPM_GRIDS)


@cache
def _by_spelling() -> Mapping[str, str]:
    """The titles by themselves and by our names, all in small letters."""
    ours = {sampler.name: title for title, sampler in titles().items() if sampler == Sampler(name=sampler.name)}
    plain = {name: title for name, title in ours.items() if not title.endswith(PLUS_PLUS)}
    plain |= {name: title.removesuffix(PLUS_PLUS) for name, title in ours.items() if name not in plain}
    return {**plain, **{title.lower(): title for title in titles()}}


def _scheduler(name: str | None) -> str:
    """A scheduler's name, from that or its label.

    Raises:
        RequestError: there is none.
    """
    spelled = (name or AUTOMATIC).lower()
    for known, label in SCHEDULERS.items():
        if spelled in (known, label.lower()):
            return known
    raise RequestError(f"got scheduler {shown(name)}, expected one of {', '.join(SCHEDULERS)}; choose one of these")


def _schedule_wishes(
    sampler: Sampler, title: str, scheduler: str, config: ScheduleConfig, steps: int
) -> dict[str, Any]:
    """What makes a sampler visit a scheduler's levels."""
    if title in _WITHOUT_SCHEDULER or (config.edm is not None and scheduler == AUTOMATIC):
        return {}
    if sampler.info.sigma_spacing is None:
        if scheduler == AUTOMATIC:
            return {}
        raise RequestError(f"got scheduler {scheduler!r} with sampler {title!r}, which has its own; give 'automatic'")
    scheduler = _AUTOMATIC_OF.get(title, AUTOMATIC) if scheduler == AUTOMATIC else scheduler
    of_dpm = sampler.info.grid in DPM_GRIDS
    if scheduler in _CURVES:
        return {"sigma_spacing": scheduler}
    match scheduler:
        case "align_your_steps":
            return {"sigmas": AYS}
        case "uniform" | "normal" if of_dpm:  # its own spacings leave timestep 0 out
            last = config.num_train_timesteps - 1
            return {"timesteps": tuple(np.linspace(last, 0, steps).round().tolist())}
        case "uniform" | "normal":
            return {"timestep_spacing": "linspace" if steps > 1 else "trailing"}  # a lone step begins at the noisy end
        case "sgm_uniform" if of_dpm:
            return {"timestep_spacing": "linspace"}
        case "sgm_uniform" | "simple":
            return {"timestep_spacing": "trailing"}
        case "ddim" if of_dpm:
            raise RequestError(
                f"got scheduler 'ddim' with sampler {title!r}, which cannot visit its timesteps; choose one of "
                f"{', '.join(schedulers_of(title))}"
            )
        case "ddim":
            return {"timestep_spacing": "leading", "steps_offset": 1}
    return {}
