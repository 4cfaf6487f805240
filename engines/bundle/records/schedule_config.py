"""The noise schedule a model was trained with, as its ``scheduler_config.json`` states it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from latentrt.engines.bundle.records.record import Record


class PredictionType(StrEnum):
    """What the U-Net's output means: the noise, the velocity of arXiv 2202.00512, or the clean sample.

    ``edm`` is the raw network of arXiv 2206.00364, eq. 7: the velocity with the opposite sign.
    """

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"
    SAMPLE = "sample"
    EDM = "edm"


class BetaSchedule(StrEnum):
    """How the noise variance grows over the training timesteps."""

    LINEAR = "linear"
    SCALED_LINEAR = "scaled_linear"
    SQUAREDCOS_CAP_V2 = "squaredcos_cap_v2"


class TimestepSpacing(StrEnum):
    """Which training timesteps are visited (table 2 of arXiv 2305.08891)."""

    LINSPACE = "linspace"
    LEADING = "leading"
    TRAILING = "trailing"


class SigmaSpacing(StrEnum):
    """Which noise levels are visited: those of the timesteps, or a curve from the largest to the smallest.

    ``karras`` is the ramp of arXiv 2206.00364, eq. 5; ``exponential`` is even in log σ; ``beta`` follows the
    Beta(0.6, 0.6) quantiles of arXiv 2407.12173; ``lu`` is even in λ (arXiv 2211.01095), the same σ as
    ``exponential`` at timesteps rounded to whole ones.
    """

    TIMESTEPS = "timesteps"
    KARRAS = "karras"
    EXPONENTIAL = "exponential"
    BETA = "beta"
    LU = "lu"


class FinalSigma(StrEnum):
    """Where the last step of the DPM-Solver family ends: at no noise, or at the smallest trained noise."""

    ZERO = "zero"
    SIGMA_MIN = "sigma_min"


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_MOST_TIMESTEPS = 1_000_000
_Share = Annotated[float, Field(ge=0, le=1)]


class EdmLevels(Record):
    """The noise levels of a model that was trained as arXiv 2206.00364 has it, in place of timesteps.

    x = x₀ + σ · noise, and the model is told ln(σ)/4.

    Attributes:
        sigma_min: the smallest σ that is visited.
        sigma_max: the largest.
        sigma_data: the deviation of the data, of which c_in, c_skip and c_out are made (table 1 there).
        rho: the exponent of Karras's ramp.
        sigma_spacing: the curve of σ that the model prefers, ``karras`` or ``exponential``.
    """

    sigma_min: _Positive = 0.002
    sigma_max: _Positive = 80.0
    sigma_data: _Positive = 0.5
    rho: _Positive = 7.0
    sigma_spacing: SigmaSpacing = SigmaSpacing.KARRAS

    @model_validator(mode="after")
    def _is_a_range(self) -> "EdmLevels":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g} is not below sigma_max {self.sigma_max:g}")
        if self.sigma_spacing not in (SigmaSpacing.KARRAS, SigmaSpacing.EXPONENTIAL):
            raise ValueError(f"{self.sigma_spacing} is no curve of EDM's")
        return self


class ScheduleConfig(Record):
    """A training noise schedule and the model's preferences for sampling it.

    ``edm`` takes the place of timesteps and betas where it is given; ``prediction_type`` is then ``epsilon`` for the
    raw network of that paper, eq. 7, or ``v_prediction``, as in diffusers' EDM schedulers.
    ``timestep_spacing`` is None where the model does not state one: each sampler then has its own default,
    as in diffusers. ``skip_prk_steps`` concerns ``pndm`` alone: whether its first steps are multistep already.
    """

    num_train_timesteps: Annotated[int, Field(ge=2, le=_MOST_TIMESTEPS)] = 1000
    beta_start: _Share = 0.0001
    beta_end: _Share = 0.02
    beta_schedule: BetaSchedule = BetaSchedule.LINEAR
    trained_betas: tuple[_Share, ...] | None = None
    prediction_type: PredictionType = PredictionType.EPSILON
    timestep_spacing: TimestepSpacing | None = None
    steps_offset: Annotated[int, Field(ge=0, le=_MOST_TIMESTEPS)] = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    skip_prk_steps: bool = False
    sigma_spacing: SigmaSpacing = SigmaSpacing.TIMESTEPS
    final_sigmas_type: FinalSigma = FinalSigma.ZERO
    edm: EdmLevels | None = None

    @model_validator(mode="after")
    def _edm_predicts_no_sample(self) -> "ScheduleConfig":
        if self.edm is not None and self.prediction_type is PredictionType.SAMPLE:
            raise ValueError("EDM's models predict epsilon or v_prediction")
        return self

    @model_validator(mode="after")
    def _has_a_beta_per_timestep(self) -> "ScheduleConfig":
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"{len(self.trained_betas)} trained_betas for {self.num_train_timesteps} timesteps")
        return self
