"""Every sampler on EDM's noise levels: on a problem with a closed-form answer, and a model's own curve of σ."""

import math

import numpy as np
import pytest
from gaussian import distribution_after, error_of

from latentrt.engines.bundle.noise_schedule import alpha_cumprod_at, timestep_at
from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig, SigmaSpacing
from latentrt.engines.errors import RequestError
from latentrt.runtime.sampling.run import levels_asked
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler

STEPS = 40
LEVELS = EdmLevels(sigma_min=0.02, sigma_max=40.0, sigma_data=0.5)
ABLE = [name for name, row in SAMPLERS.items() if not row.counts_timesteps]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ABLE)
@pytest.mark.grid(most=30)
def test_every_sampler_finds_the_data(name: str, prediction: str) -> None:
    """And asks the model at levels whose timestep is ln(σ)/4, those between two steps, too."""
    config = ScheduleConfig(prediction_type=prediction, edm=LEVELS)  # type: ignore[arg-type]
    sampler = Sampler(name=name)
    schedule, solver = sampler.schedule(config, STEPS), sampler.solver(config)
    asked = levels_asked(schedule, solver)
    assert all(level.timestep == pytest.approx(math.log(level.sigma) / 4, abs=1e-6) for level in asked)
    assert {level.alpha for level in asked} == {0.5}
    if sampler.stochastic:
        errors = distribution_after(solver, schedule, draws=4 * STEPS)
    else:
        errors = (error_of(solver, schedule),)
    assert max(errors) < (0.03 if SAMPLERS[name].order == 1 or sampler.stochastic else 0.01)


def test_the_models_own_curve() -> None:
    """Is walked where the sampler has none in its name and the caller wishes none."""
    exponential = LEVELS.model_copy(update={"sigma_spacing": SigmaSpacing.EXPONENTIAL})
    config = ScheduleConfig(edm=exponential)
    own = np.geomspace(40.0, 0.02, STEPS)
    for sampler in (Sampler(name="dpmpp_2m"), Sampler(name="ddim"), Sampler(name="edm_euler")):
        np.testing.assert_allclose(sampler.schedule(config, STEPS).sigmas, own, rtol=1e-6)
    karras = Sampler(name="dpmpp_2m_k").schedule(config, STEPS).sigmas
    np.testing.assert_array_equal(
        karras, Sampler(name="edm_euler", sigma_spacing="karras").schedule(config, STEPS).sigmas
    )
    assert not np.allclose(karras, own)
    wider = Sampler(name="edm_euler", sigma_max=60.0).schedule(config, STEPS)
    assert (wider.sigmas[0], wider.sigmas[-1]) == (60.0, np.float32(0.02))


def test_a_step_alone_ends_at_the_smallest_noise() -> None:
    """As diffusers' multistep class has it."""
    config = ScheduleConfig(edm=LEVELS, final_sigmas_type="sigma_min")  # type: ignore[arg-type]
    schedule = Sampler(name="dpmpp_2m").schedule(config, 1)
    assert (schedule.sigmas[0], schedule.target_sigmas[0]) == (40.0, np.float32(0.02))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ABLE])
def test_what_counts_timesteps_is_refused(name: str) -> None:
    """By name, with those that draw."""
    with pytest.raises(
        RequestError, match=f"sampler '{name}' for a model with EDM's noise levels.* choose one of ddim"
    ):
        Sampler(name=name).schedule(ScheduleConfig(edm=LEVELS), 4)


def test_the_signal_at_a_share_of_the_levels() -> None:
    """What probes are noised with, and int8's calls weighed by: c_in is the root of ᾱ over the data's deviation."""
    config = ScheduleConfig(edm=LEVELS)
    told = timestep_at(config, 0.5)
    sigma = math.sqrt(0.02 * 40.0)
    assert told == pytest.approx(math.log(sigma) / 4)
    assert math.sqrt(alpha_cumprod_at(config, told)) / 0.5 == pytest.approx(1 / math.hypot(sigma, 0.5))
    plain = ScheduleConfig()
    assert timestep_at(plain, 0.5) == 500.0
    assert alpha_cumprod_at(plain, 2000.0) == alpha_cumprod_at(plain, 999.0)


def test_the_weights_of_int8s_calls() -> None:
    """As of a velocity on the way from each σ to the next, in units of the data's deviation."""
    from latentrt.quantization.rounding import schedule_calls

    sigmas = (40.0, 1.0, 0.1)
    calls = [{"timestep": np.array([math.log(sigma) / 4], np.float32)} for sigma in sigmas]
    weights = [call.weight for call in schedule_calls(ScheduleConfig(edm=LEVELS), calls)]
    ways = -np.diff([*sigmas, 0.0]) / np.hypot(sigmas, 0.5)
    np.testing.assert_allclose(weights, ways, rtol=1e-5)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min 2 is not below sigma_max 1"),
        ({"sigma_data": 0.0}, "greater than 0"),
        ({"sigma_spacing": "beta"}, "beta is no curve of EDM's"),
    ],
)
def test_levels_that_are_none(levels: dict[str, object], reason: str) -> None:
    """Are refused where a bundle or a model states them."""
    with pytest.raises(ValueError, match=reason):
        EdmLevels.model_validate(levels)


def test_levels_of_a_callers_own() -> None:
    """Take the curve's place; their first is what x begins with, and their last where the run ends."""
    config, own = ScheduleConfig(edm=LEVELS), (50.0, 3.0, 0.25, 0.125)
    for name in ("euler", "dpmpp_2m", "edm_euler"):
        schedule = Sampler(name=name, sigmas=own).schedule(config, None)
        np.testing.assert_allclose([*schedule.sigmas, schedule.target_sigmas[-1]], own, rtol=1e-7)
        assert schedule.initial_scale == pytest.approx(math.hypot(50.0, 1.0))
        assert {step.level.alpha for step in schedule.all_steps} == {0.5}
    with pytest.raises(RequestError, match="got num_inference_steps 4 with 3 custom steps"):
        Sampler(name="euler", sigmas=own).schedule(config, 4)
    with pytest.raises(RequestError, match="got sigmas 'ays' for a model with EDM's noise levels"):
        Sampler(name="euler", sigmas="ays").schedule(config, 10)
