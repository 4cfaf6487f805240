"""What a model's scheduler decides: the noise levels of its training, and the sampler that draws as it would.

The library's class knows which settings there are. Each is read, or moves nothing, or has the one value that our
samplers draw with; every other value is refused by name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.export.sources.checks.library_settings import constructor_settings, is_number
from latentrt.export.sources.family import Family

LISTED_CLASS = "_listed_class"  # beside a config's keys: the class that model_index.json names
_FILE = "scheduler/scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class SchedulerReading:
    """A scheduler's config, understood.

    Attributes:
        schedule: keys of `ScheduleConfig`.
        sampler: the default sampler.
        options: what it shall do otherwise than by itself.
        faults: the settings that cannot be drawn with; the rest is then of no use.
        passed_over: the settings that the library's class does not know either, and that are not off.
    """

    schedule: Mapping[str, Any]
    sampler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    passed_over: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A class of diffusers.

    ``sampler`` stands for it, None for the family's default. ``options`` are settings of the class that the sampler
    has, too. ``curves`` says whether the sampler can walk a curve of σ.
    """

    file: str
    sampler: str | None
    options: tuple[str, ...] = ()
    curves: bool = False


_MULTISTEP = ("algorithm_type", "solver_order", "solver_type", "lower_order_final", "euler_at_final")
# PNDM is what checkpoints carry that never chose one, and the family's default needs fewer steps
_KINDS: Mapping[str, _Kind] = {
    "DDIMScheduler": _Kind(file="ddim", sampler="ddim"),
    "DDIMParallelScheduler": _Kind(file="ddim_parallel", sampler="ddim"),
    "DDPMScheduler": _Kind(file="ddpm", sampler="ddpm"),
    "DDPMParallelScheduler": _Kind(file="ddpm_parallel", sampler="ddpm"),
    "PNDMScheduler": _Kind(file="pndm", sampler=None),
    "EulerDiscreteScheduler": _Kind(
        file="euler_discrete", sampler="euler", options=("interpolation_type", "timestep_type"), curves=True
    ),
    "EulerAncestralDiscreteScheduler": _Kind(file="euler_ancestral_discrete", sampler="euler_a"),
    "HeunDiscreteScheduler": _Kind(file="heun_discrete", sampler="heun", curves=True),
    "KDPM2DiscreteScheduler": _Kind(file="k_dpm_2_discrete", sampler="kdpm_2", curves=True),
    "KDPM2AncestralDiscreteScheduler": _Kind(file="k_dpm_2_ancestral_discrete", sampler="kdpm_2_a", curves=True),
    "LMSDiscreteScheduler": _Kind(file="lms_discrete", sampler="lms", curves=True),
    "DPMSolverSDEScheduler": _Kind(file="dpmsolver_sde", sampler="dpmpp_sde", curves=True),
    "DPMSolverSinglestepScheduler": _Kind(
        file="dpmsolver_singlestep",
        sampler="dpmpp_2s",
        options=("algorithm_type", "solver_type", "lower_order_final", "lambda_min_clipped"),
        curves=True,
    ),
    "DPMSolverMultistepScheduler": _Kind(
        file="dpmsolver_multistep", sampler="dpmpp_2m", options=(*_MULTISTEP, "lambda_min_clipped"), curves=True
    ),
    "DEISMultistepScheduler": _Kind(
        file="deis_multistep", sampler="deis", options=("solver_order", "lower_order_final"), curves=True
    ),
    "UniPCMultistepScheduler": _Kind(
        file="unipc_multistep",
        sampler="unipc",
        options=("solver_order", "solver_type", "predict_x0", "lower_order_final", "disable_corrector"),
        curves=True,
    ),
    "LCMScheduler": _Kind(file="lcm", sampler="lcm", options=("original_inference_steps", "timestep_scaling")),
    "TCDScheduler": _Kind(file="tcd", sampler="tcd", options=("original_inference_steps",)),
    "EDMEulerScheduler": _Kind(file="edm_euler", sampler="edm_euler"),
    "EDMDPMSolverMultistepScheduler": _Kind(file="edm_dpmsolver_multistep", sampler="dpmpp_2m", options=_MULTISTEP),
}
# The classes take each other's words for their own
_SYNONYMS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "DPMSolverSinglestepScheduler": {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    },
    "DPMSolverMultistepScheduler": {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    },
    "EDMDPMSolverMultistepScheduler": {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    },
    "DEISMultistepScheduler": {
        "algorithm_type": dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    },
    "UniPCMultistepScheduler": {"solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")},
}
_CURVES = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}
_LAMBDAS = "use_lu_lambdas"  # of the multistep class alone
_ENDS = ("sigma_min", "sigma_max")  # of a curve; all classes look for them that can walk one
_EDM = {name: name for name in (*_ENDS, "sigma_data", "rho")} | {"sigma_schedule": "sigma_spacing"}
# They say more of what is refused, or what is not read there
_IDLE = frozenset(
    {"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type"}
)
# Where the class's default cannot be drawn with; TCD's class knows a scaling, and does not use it
_DRAWN: Mapping[str, tuple[Any, ...]] = {"clip_sample": (False,), "variance_type": (None, "fixed_small")}
_UNUSED = {"TCDScheduler": frozenset({"timestep_scaling"})}


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) in map(type, values) and value in values


_IS_SWITCH = _one_of(True, False)
# What an option can be
_OPTIONS: Mapping[str, Callable[[Any], bool]] = {
    "interpolation_type": _one_of("linear", "log_linear"),
    "timestep_type": _one_of("discrete", "continuous"),
    "algorithm_type": _one_of("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "solver_order": _one_of(1, 2, 3),
    "solver_type": _one_of("midpoint", "heun", "bh1", "bh2"),
    "lower_order_final": _IS_SWITCH,
    "euler_at_final": _IS_SWITCH,
    "predict_x0": _IS_SWITCH,
    "lambda_min_clipped": lambda value: value == -math.inf or (is_number(value) and -100 <= value <= 100),
    "disable_corrector": lambda value: isinstance(value, list | tuple) and all(type(step) is int for step in value),
    "original_inference_steps": lambda value: type(value) is int and 1 <= value <= 1000,
    "timestep_scaling": lambda value: is_number(value) and 0 <= value <= 1e6,
}


def scheduler_reading(config: Mapping[str, Any], family: Family) -> SchedulerReading:
    """Understands a scheduler's config: its whole file, or what is known of a single file's training.

    The class is the one that model_index.json names, as in diffusers. Where the file names another, that one must be
    able to draw with its settings, too, and have noise levels of the same kind.
    """
    own, listed = config.get("_class_name"), config.get(LISTED_CLASS)
    if listed is None or own in (None, listed):
        return _reading_of_class(listed or own, config, family)
    read, other = (_reading_of_class(name, config, family) for name in (listed, own))
    faults = [*read.faults, *other.faults]
    if not faults and (read.schedule.get("edm") is None) != (other.schedule.get("edm") is None):
        faults.append(f"model_index.json has the scheduler {listed}, but {_FILE} is of {own}")
    return replace(read, faults=tuple(dict.fromkeys(faults)))


def _reading_of_class(name: Any, config: Mapping[str, Any], family: Family) -> SchedulerReading:
    stated = {key: value for key, value in config.items() if key in ScheduleConfig.model_fields and value is not None}
    stated.pop("edm", None)
    if name is None:  # not even model_index.json says which
        return _of_no_class(config, stated, family)
    if not isinstance(name, str) or name not in _KINDS:
        fault = f"its scheduler is {name!r}, expected one of {', '.join(_KINDS)}"
        return SchedulerReading(schedule={}, sampler=family.defaults.sampler, faults=(fault,))
    kind = _KINDS[name]
    defaults = constructor_settings("diffusers", f"schedulers/scheduling_{kind.file}.py", name)
    settings = {**defaults, **{key: value for key, value in config.items() if key in defaults and value is not None}}
    for key, words in _SYNONYMS.get(name, {}).items():
        if isinstance(settings.get(key), str):
            settings[key] = words.get(settings[key], settings[key])
    unstated = {key: defaults[key] for key in ScheduleConfig.model_fields if defaults.get(key) is not None}
    unstated.pop("timestep_spacing", None)  # each sampler has its own class's
    schedule = {**unstated, **stated}
    faults = _faults(kind, name, settings, defaults, family)
    passed_over = {key: value for key, value in config.items() if _passed_over(key, value, defaults)}
    if name.startswith("EDM"):
        schedule["edm"] = {_EDM[key]: settings[key] for key in _EDM}
        sampler, options = _sampler_and_options(kind, settings, defaults)
    elif settings.get("timestep_type") == "continuous" and schedule.get("prediction_type") == "v_prediction":
        schedule["edm"] = _levels_of_continuous_euler(settings, faults)
        sampler, options = "euler", {}
    else:
        sampler, options = _sampler_and_options(kind, settings, defaults)
        faults += _curve_faults(settings, config, options, sampler)
    if schedule.get("edm") is not None and schedule.get("prediction_type") == "sample":
        faults.append(f"{_FILE} has prediction_type 'sample', expected epsilon or v_prediction with EDM's noise levels")
    return SchedulerReading(
        schedule=schedule,
        sampler=sampler or family.defaults.sampler,
        options=options,
        faults=tuple(faults),
        passed_over=passed_over,
    )


def _of_no_class(config: Mapping[str, Any], stated: Mapping[str, Any], family: Family) -> SchedulerReading:
    """Settings of a class that nobody names: the schedule is read, and the rest must be off."""
    faults = [
        f"{_FILE} has {key} {value!r} and no _class_name, expected the scheduler's class beside it"
        for key, value in config.items()
        if _is_on(key, value) and key not in stated and key not in _IDLE
    ]
    return SchedulerReading(schedule=stated, sampler=family.defaults.sampler, faults=tuple(faults))


def _is_on(key: str, value: Any) -> bool:
    return not key.startswith("_") and value is not None and value is not False


def _passed_over(key: str, value: Any, known: Mapping[str, Any]) -> bool:
    return _is_on(key, value) and key not in known and key not in ScheduleConfig.model_fields and key not in _IDLE


def _faults(
    kind: _Kind, name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], family: Family
) -> list[str]:
    """The settings whose value none of our samplers draws with."""
    faults = []
    read = {*ScheduleConfig.model_fields, *_IDLE, *_UNUSED.get(name, ())}
    read |= {*_CURVES, _LAMBDAS, *_ENDS} if kind.curves else set()
    read |= _EDM.keys() if name.startswith("EDM") else set()
    if family.steps_offset is not None:  # whose diffusers pipelines turn it off
        read.add("clip_sample")
    for key, value in settings.items():
        if key in kind.options:
            if not _OPTIONS[key](value):
                faults.append(f"{_FILE} has {key} {value!r}, expected what {name} knows, such as {defaults[key]!r}")
        elif key in _CURVES or key == _LAMBDAS:
            if not _IS_SWITCH(value):
                faults.append(f"{_FILE} has {key} {value!r}, expected true or false")
        elif key not in read:
            drawn = _DRAWN.get(key, (defaults[key],))
            if value not in drawn:
                wanted = " or ".join(map(repr, drawn))
                origin = "" if value != defaults[key] else f", the default of {name}"
                faults.append(f"{_FILE} has {key} {value!r}{origin}, expected {wanted}: no sampler here draws with it")
    if "algorithm_type" in kind.options and "solver_order" in kind.options and settings["solver_order"] == 1:
        faults.append(f"{_FILE} has solver_order 1, expected 2 or 3")
    return faults


def _sampler_and_options(
    kind: _Kind, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The sampler, and what it does otherwise than the class by itself."""
    sampler = kind.sampler
    options = {key: settings[key] for key in kind.options if settings[key] != defaults[key]}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if options.get("timestep_type") is not None:  # which concerns velocities alone
        del options["timestep_type"]
    if sampler == "dpmpp_2m":  # order and noise are in the names
        if options.pop("solver_order", 2) == 3:
            sampler = "dpmpp_3m"
        elif options.get("algorithm_type") == "sde-dpmsolver++":
            sampler = "dpmpp_2m_sde"
            del options["algorithm_type"]
    if kind.curves and sampler is not None:
        curve = next((curve for key, curve in _CURVES.items() if settings.get(key)), None)
        curve = curve or ("lu" if settings.get(_LAMBDAS) else None)
        if curve == "karras":
            sampler += "_k"
        elif curve is not None:
            options["sigma_spacing"] = curve
    return sampler, options


def _curve_faults(
    settings: Mapping[str, Any], config: Mapping[str, Any], options: Mapping[str, Any], sampler: str | None
) -> list[str]:
    """Two curves of σ at once, and ends of one that are not the trained noise levels'."""
    chosen = [key for key in (*_CURVES, _LAMBDAS) if settings.get(key) is True]
    faults = [f"{_FILE} has {' and '.join(chosen)}, expected one of them"] if len(chosen) > 1 else []
    if "sigma_spacing" in options or (sampler or "").endswith("_k"):
        faults += [
            f"{_FILE} has {key} {config[key]!r}, expected null: a curve ends at the trained noise levels"
            for key in _ENDS
            if config.get(key) is not None
        ]
    return faults


def _levels_of_continuous_euler(settings: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """EDM's levels where Euler's class is told of ln(σ)/4 and a velocity: data of unit variance, on a curve of its own.

    Its first noise is EDM's with leading spacing only.
    """
    curve = "karras" if settings["use_karras_sigmas"] else "exponential"
    whole = all(is_number(settings[key]) for key in _ENDS) and settings[f"use_{curve}_sigmas"] is True
    if not whole or settings["timestep_spacing"] != "leading" or settings["final_sigmas_type"] != "zero":
        faults.append(
            f"{_FILE} has timestep_type 'continuous', expected 'discrete', or beside it sigma_min, sigma_max, "
            "use_karras_sigmas or use_exponential_sigmas, timestep_spacing 'leading' and final_sigmas_type 'zero'"
        )
    return {**{key: settings[key] for key in _ENDS}, "sigma_data": 1.0, "sigma_spacing": curve}
