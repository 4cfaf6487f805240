"""What an option of a sampler may be."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.schedule_config import (
    FinalSigma,
    PredictionType,
    SigmaSpacing,
    TimestepSpacing,
)
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError
from latentrt.runtime.checks import number, numbers, whole
from latentrt.runtime.sampling.grids.k_diffusion import InterpolationType, TimestepType
from latentrt.runtime.sampling.solvers.dpm import AlgorithmType

AYS = "ays"

# Wishes about the schedule that every sampler's grid reads from the config
OF_CONFIG = (
    "timestep_spacing",
    "prediction_type",
    "steps_offset",
    "sigma_spacing",
    "final_sigmas_type",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
    "skip_prk_steps",
)
CHOICES: Mapping[str, type[StrEnum]] = {
    "timestep_spacing": TimestepSpacing,
    "prediction_type": PredictionType,
    "sigma_spacing": SigmaSpacing,
    "final_sigmas_type": FinalSigma,
    "algorithm_type": AlgorithmType,
    "interpolation_type": InterpolationType,
    "timestep_type": TimestepType,
}
# What else an option may be: whole numbers or numbers within bounds, which keep float64 finite
_WHOLE = {"steps_offset": (0, 999), "solver_order": (1, 3), "order": (1, 4), "original_inference_steps": (1, 1000)}
_NUMBERS = {
    "eta": (0.0, 1.0),
    "s_churn": (0.0, 1e6),
    "s_tmin": (0.0, 1e6),
    "s_tmax": (0.0, 1e6),
    "s_noise": (0.0, 100.0),
    "lambda_min_clipped": (-100.0, 100.0),
    "timestep_scaling": (0.0, 1e6),
    "sigma_min": (1e-5, 1e5),
    "sigma_max": (1e-5, 1e5),
    "sigma_data": (1e-5, 1e3),
    "rho": (1.0, 100.0),
}
_SWITCHES = frozenset(
    {
        "rescale_betas_zero_snr",
        "set_alpha_to_one",
        "skip_prk_steps",
        "lower_order_final",
        "euler_at_final",
        "predict_x0",
    }
)


def checked_option(name: str, value: Any, choices: type[StrEnum] | None) -> Any:
    """A wish in Python's own types, whatever NumPy's it came in.

    Raises:
        RequestError: of the wrong kind or out of bounds.
    """
    if choices is not None:
        if value == PredictionType.EDM:  # the solver's name for what EDM's samplers make of epsilon
            value = repr(value)
        return choice(choices, value, name).value
    if name in _SWITCHES:
        if not isinstance(value, (bool, np.bool_)):
            raise RequestError(f"got {name} {value!r}, expected True or False; change it")
        return bool(value)
    if name in _WHOLE or name in _NUMBERS:
        read, (low, high) = (whole, _WHOLE[name]) if name in _WHOLE else (number, _NUMBERS[name])
        found = read(value, name)
        if not low <= found <= high:
            raise RequestError(f"got {name} {found:g}, expected {low:g} to {high:g}; change it")
        return found
    if name == "disable_corrector":
        return tuple(int(step) for step in numbers(value, name))
    if isinstance(value, str):
        if value.lower() != AYS:
            raise RequestError(f"got {name} {value!r}, expected a list of numbers, or {AYS!r}; change it")
        return AYS
    return numbers(value, name)
