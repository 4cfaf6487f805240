"""Timesteps equal to diffusers' exactly, noise levels to float32's rounding; solvers step by step."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from parity.reference import SCHEDULERS, reference_steps, scheduler_for, set_timesteps

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.grids.align_your_steps import AYS_SIGMAS, AYS_TIMESTEPS
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Run, Update, denoise, levels_asked
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
STEPS = (1, 2, 5, 20, 50)
# float32 on their side against float64 on ours
SIGMA_TOLERANCE = 5e-7
# torch's vectorised square root is off by one unit in the last place for every fifth value, differently on other
# CPUs; it shows in timesteps that are interpolated from σ. Zero terminal SNR magnifies it, and so does DPM2's middle
# σ, a logarithm, a mean and an exponential in float32: there 1e-2 of a timestep are allowed.
KARRAS_TIMESTEP_TOLERANCE = 2e-4
ZERO_SNR_TOLERANCE = 2e-3
# float32 against float64, relative to the largest value. Zero terminal SNR has the reason above; DPM2 ancestral over
# the whole range in two steps takes the root of a difference of nearly equal squares in float32.
STEP_TOLERANCE, LOOSE_TOLERANCE = 1e-4, 2e-3
CURVES = ("timesteps", "karras", "exponential", "beta")


def settings_of(**changes: Any) -> dict[str, Any]:
    """A model's scheduler config."""
    return {**BETAS, "beta_schedule": "scaled_linear", **changes}


def fractional(name: str, config: ScheduleConfig, sampler: Sampler) -> bool:
    """Whether a sampler's timesteps are found by interpolating σ, and not rounded."""
    curved = str(sampler.config(config).sigma_spacing) != "timesteps"
    return (curved and SAMPLERS[name].grid.__module__.endswith("k_diffusion")) or SAMPLERS[name].calls_per_step == 2


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.grid(most=4)
def test_timesteps_of_every_model_call(name: str, spacing: str) -> None:
    """Over beta schedules, offsets, zero terminal SNR, final sigmas and numbers of steps."""
    betas, finals = ("linear", "scaled_linear", "squaredcos_cap_v2"), ("zero", "sigma_min")
    for beta_schedule, offset, zero_snr, final, steps in product(betas, (0, 1), (False, True), finals, STEPS):
        if name.startswith("kdpm_2") and (zero_snr or final == "sigma_min" or beta_schedule == "squaredcos_cap_v2"):
            continue  # these it ignores, at a fifth of a second each; and σ_down of σ = 20,000 is lost in float32
        settings = settings_of(
            beta_schedule=beta_schedule,
            steps_offset=offset,
            timestep_spacing=spacing,
            rescale_betas_zero_snr=zero_snr,
            final_sigmas_type=final,
        )
        if name.endswith("_k") and zero_snr and beta_schedule == "squaredcos_cap_v2":
            continue  # its timesteps are cut to whole numbers right where the square root's error decides
        config = ScheduleConfig.model_validate(settings)
        sampler = Sampler(name=name)
        reference = scheduler_for(sampler, settings)
        reference.set_timesteps(steps)
        schedule = sampler.schedule(config, steps)
        expected = reference.timesteps.numpy()
        calls = levels_asked(schedule, sampler.solver(config))
        ours = np.array([level.timestep for level in calls]).astype(expected.dtype)
        if fractional(name, config, sampler):
            allowed = 1e-2 if zero_snr or SAMPLERS[name].calls_per_step == 2 else KARRAS_TIMESTEP_TOLERANCE
            np.testing.assert_allclose(ours, expected, rtol=0, atol=allowed, err_msg=str(settings))
        elif name == "edm_euler":
            np.testing.assert_allclose(ours, expected, rtol=1e-6, err_msg=str(settings))
        else:
            np.testing.assert_array_equal(ours, expected, err_msg=str(settings))
        tolerance = ZERO_SNR_TOLERANCE if zero_snr else SIGMA_TOLERANCE
        assert schedule.initial_scale == pytest.approx(float(reference.init_noise_sigma), rel=tolerance)
        if hasattr(reference, "sigmas"):
            ratios = [level.ratio for level in calls]
            theirs = [float(s) / schedule.data_scale for s in reference.sigmas]
            assert ratios[0] == pytest.approx(theirs[0], rel=tolerance)
            assert schedule.steps[-1].target.ratio == pytest.approx(theirs[-1], rel=tolerance)


def model(x: Array, timestep: float) -> Array:
    """A stand-in for the U-Net: smooth, bounded, and different at every timestep."""
    return np.tanh(0.8 * x + np.float32(timestep / 1000.0)).astype(np.float32)


def custom(sampler: Sampler) -> Sequence[float]:
    """A sampler's own timesteps, or one entry per step of its own sigmas."""
    return sampler.timesteps or (sampler.sigmas or (0.0,))[:-1]


def compare(sampler: Sampler, settings: dict[str, Any], steps: int, start: int = 0) -> None:
    """Runs both sides on the stand-in and compares the sample after every model call."""
    config = ScheduleConfig.model_validate(settings)
    prediction = {"prediction_type": settings["prediction_type"]} if "prediction_type" in settings else {}
    reference = scheduler_for(sampler, {**settings, **prediction})
    set_timesteps(reference, sampler, steps)
    schedule = sampler.schedule(config, None if custom(sampler) else steps).started_at(start)
    loose = sampler.rescale_betas_zero_snr or sampler.name.startswith("kdpm_2_a")
    allowed = LOOSE_TOLERANCE if loose else STEP_TOLERANCE
    shape = (2, 4, 6, 5)
    x = np.random.default_rng(1).standard_normal(shape, np.float32) * np.float32(schedule.initial_scale)
    expected = reference_steps(reference, sampler, x, start * getattr(reference, "order", 1), model, seed=3)

    seen: list[Array] = []

    def keep(update: Update) -> Array:
        seen.append(update.x)
        return update.x

    # the stand-in sees the timestep as the reference has it, so that its rounding is not compared again
    told = iter([float(t) for t in reference.timesteps[start * getattr(reference, "order", 1) :]])
    noise = Noise(3, shape)
    denoise(Run(x, schedule, sampler.solver(config), noise.between, on_step=keep), lambda x, _: model(x, next(told)))
    assert len(seen) == len(expected)
    for index, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        scale = np.abs(theirs).max()
        assert math.isfinite(scale)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(
            ours / scale, theirs / scale, atol=allowed, err_msg=f"call {index} of {steps} steps, {sampler}"
        )


# The classes that raise NotImplementedError for it, or have no branch for it
NO_SAMPLE_PREDICTION = ("euler_a", "kdpm_2", "kdpm_2_a", "dpmpp_sde", "pndm", "edm_euler")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.grid(most=18)
def test_every_step_of_a_solver(name: str, prediction: str, spacing: str) -> None:
    """The sample after each model call, not only after the last; also when starting in the middle."""
    if prediction == "sample" and name.removesuffix("_k") in NO_SAMPLE_PREDICTION:
        pytest.skip("the reference has no such prediction")
    lengths = STEPS if spacing == "leading" else (1, 2, 5, 20)
    for steps, start in (*((steps, 0) for steps in lengths), (20, 14), (14, 13), (5, 2)):
        compare(
            Sampler(name=name),
            settings_of(prediction_type=prediction, timestep_spacing=spacing, steps_offset=1),
            steps,
            start,
        )


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if SAMPLERS[name].sigma_spacing == "timesteps"])
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.grid(most=8)
def test_sigma_curves(name: str, curve: str) -> None:
    """Karras, exponential and beta sigmas, over final sigmas and numbers of steps."""
    if name in ("euler_a",) and curve != "timesteps":
        pytest.skip("the reference has no such sigmas")
    for steps, start in ((1, 0), (2, 0), (5, 0), (20, 0), (20, 13), (50, 0)):
        compare(Sampler(name=name, sigma_spacing=None if curve == "timesteps" else curve), settings_of(), steps, start)


def variant(name: str, **options: Any) -> Any:
    """A sampler with options, as a test parameter with a readable name."""
    label = ",".join(f"{k}={v if not isinstance(v, tuple) else '…'}" for k, v in options.items())
    return pytest.param(Sampler(name=name, **options), id=f"{name}-{label}")


AYS1, AYS1_SIGMAS = AYS_TIMESTEPS["sd1"], AYS_SIGMAS["sd1"]
OPTIONS = [
    *(variant("ddim", eta=eta) for eta in (0.3, 1.0)),
    variant("ddim", set_alpha_to_one=True),
    variant("ddim", rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
    variant("ddpm", timesteps=AYS1),
    variant("pndm", skip_prk_steps=False),
    variant("pndm", skip_prk_steps=False, timestep_spacing="linspace"),
    variant("pndm", skip_prk_steps=False, prediction_type="v_prediction"),
    *(variant("euler", s_churn=churn, s_noise=1.003) for churn in (5.0, 40.0)),
    variant("euler", s_churn=40.0, prediction_type="v_prediction"),
    variant("euler_k", s_churn=10.0, s_tmin=0.1, s_tmax=5.0),
    variant("euler", interpolation_type="log_linear"),
    variant("euler_k", interpolation_type="log_linear"),
    variant("euler", timestep_type="continuous", prediction_type="v_prediction"),
    variant("euler", final_sigmas_type="sigma_min"),
    variant("euler", rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
    variant("euler_a", rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
    variant("euler", timesteps=AYS1),
    variant("euler", sigmas=AYS1_SIGMAS),
    variant("heun", timesteps=AYS1),
    *(variant("lms", order=order) for order in (1, 2, 3)),
    *(
        variant("dpmpp_2m", algorithm_type=algorithm, solver_type=kind, final_sigmas_type=final)
        for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
        for kind in ("midpoint", "heun")
        for final in ("zero", "sigma_min")
        if "++" in algorithm or final == "sigma_min"
    ),
    *(
        variant("dpmpp_3m", algorithm_type=algorithm, final_sigmas_type="sigma_min")
        for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
    ),
    *(
        variant(name, lower_order_final=lower, euler_at_final=euler, final_sigmas_type="sigma_min")
        for name in ("dpmpp_2m", "dpmpp_3m")
        for lower in (True, False)
        for euler in (True, False)
    ),
    *(variant(name, sigma_spacing="lu") for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m")),
    *(variant(name, lambda_min_clipped=-5.1) for name in ("dpmpp_2m", "dpmpp_2s")),
    variant("dpmpp_2m", lambda_min_clipped=-2.0, timestep_spacing="trailing"),
    variant("dpmpp_2m", timesteps=AYS1),
    variant("dpmpp_2m_sde", timesteps=AYS1),
    variant("dpmpp_2m", rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
    *(
        variant("dpmpp_2s", algorithm_type=algorithm, solver_type=kind, final_sigmas_type="sigma_min")
        for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
        for kind in ("midpoint", "heun")
    ),
    variant("dpmpp_2s", algorithm_type="sde-dpmsolver++"),
    variant("dpmpp_2s", lower_order_final=True),
    variant("dpmpp_2s", timesteps=AYS1),
    variant("dpmpp_sde", s_noise=0.9),
    *(variant("deis", solver_order=order, lower_order_final=lower) for order in (1, 3) for lower in (True, False)),
    variant("deis_k", solver_order=3),
    *(
        variant("unipc", solver_type=kind, predict_x0=data, final_sigmas_type=final)
        for kind in ("bh1", "bh2")
        for data in (True, False)
        for final in ("zero", "sigma_min")
        # the reference's bh1 multiplies infinity by zero where a run ends without noise
        if (data and kind == "bh2") or final == "sigma_min"
    ),
    *(variant("unipc", solver_order=order) for order in (1, 3)),
    variant("unipc", solver_order=3, solver_type="bh1", predict_x0=False, final_sigmas_type="sigma_min"),
    variant("unipc", disable_corrector=(0, 1, 5)),
    variant("unipc_k", final_sigmas_type="sigma_min"),
    variant("unipc", rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
    variant("lcm", original_inference_steps=100),
    variant("lcm", timestep_scaling=5.0),
    variant("lcm", timesteps=(999, 759, 499, 259)),
    *(variant("tcd", eta=eta) for eta in (0.3, 1.0)),
    variant("tcd", timesteps=(999, 759, 499, 259)),
    variant("edm_euler", s_churn=20.0),
    variant("edm_euler", sigma_min=0.01, sigma_max=20.0, sigma_data=1.0, rho=5.0, final_sigmas_type="sigma_min"),
    variant("edm_euler", prediction_type="v_prediction"),
]


@pytest.mark.parametrize("sampler", OPTIONS)
@pytest.mark.grid(most=50)
def test_options(sampler: Sampler) -> None:
    """Each option of a sampler, step by step, from the start and from the middle."""
    settings = settings_of(**({"prediction_type": sampler.prediction_type} if sampler.prediction_type else {}))
    for steps in (len(custom(sampler)),) if custom(sampler) else (4, 14, 20):
        compare(sampler, settings, steps)
        if sampler.skip_prk_steps is None:  # the reference's Runge-Kutta steps assume the start of the run
            compare(sampler, settings, steps, start=steps // 2)
