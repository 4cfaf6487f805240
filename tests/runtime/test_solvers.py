"""Solvers converge at their order on a problem with a closed-form answer, and do the least they should."""

import math
from typing import Any

import numpy as np
import pytest
from gaussian import distribution_after, error_of, ideal_model, schedule_through, uniform

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Run, denoise, levels_asked
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.solvers.er_sde import er_sde

CONFIG = ScheduleConfig(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, skip_prk_steps=True
)
# LCM and TCD jump to the clean sample, which only a distilled model predicts well: they have no order.
CONSISTENCY = {"lcm", "tcd"}
# PNDM's first step needs Heun's two calls, which its grid brings: it has a test of its own.
DETERMINISTIC = [row.name for row in SAMPLERS.values() if not row.stochastic and row.name not in CONSISTENCY | {"pndm"}]
STOCHASTIC = [row.name for row in SAMPLERS.values() if row.stochastic and row.name not in CONSISTENCY]
# All but the DPM-Solver family, which divides by N + 1, and the consistency models' fifty
WHOLE_RANGE = {"ddim", "ddpm", "pndm"}
EXPLODING = {"euler", "euler_a", "heun", "kdpm_2", "kdpm_2_a", "lms", "dpmpp_sde", "er_sde", "edm_euler"}


def preserving(name: str) -> bool:
    """Whether a sampler's own levels keep alpha² + sigma² = 1."""
    return name.removesuffix("_k") not in EXPLODING


def converged(sampler: Sampler, order: int) -> float:
    """The measured order: log₂ of the ratio of errors at N and 2N steps."""
    solver = sampler.solver(CONFIG)

    def schedule(steps: int) -> Schedule:
        # Beyond second order the first steps, which have no history, are made tiny so that they do not count.
        return uniform(steps, preserving=preserving(sampler.name), tiny_start=order > 2)

    coarse, fine = (error_of(solver, schedule(steps)) for steps in (160, 320))
    return math.log2(coarse / fine)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_halving_the_step_divides_the_error_by_two_to_the_order(name: str) -> None:
    """The measured order is the nominal one to 0.15; LMS may do better at these steps."""
    order = SAMPLERS[name].order
    measured = converged(Sampler(name=name), order)
    assert measured > order - 0.15
    assert measured < order + (0.5 if name.startswith("lms") else 0.15)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (Sampler(name="pndm", skip_prk_steps=False), 2),
        (Sampler(name="unipc", solver_order=1), 2),  # the corrector adds one
        (Sampler(name="unipc", solver_order=2, disable_corrector=tuple(range(400))), 2),
        (Sampler(name="unipc", solver_type="bh1"), 2),
        (Sampler(name="deis", solver_order=1), 1),
        (Sampler(name="deis", solver_order=3), 3),
        (Sampler(name="lms", order=2), 2),
        (Sampler(name="lms", order=3), 3),
        (Sampler(name="dpmpp_2m", solver_type="heun"), 2),
        (Sampler(name="dpmpp_2s", solver_type="heun"), 2),
        (Sampler(name="dpmpp_2m", algorithm_type="dpmsolver"), 2),
        (Sampler(name="dpmpp_3m", algorithm_type="dpmsolver"), 2),
    ],
    ids=str,
)
def test_options_have_their_order(sampler: Sampler, order: int) -> None:
    """Orders that only an option brings."""
    assert converged(sampler, order) > order - 0.15


def test_pndm_with_heuns_first_step_is_of_second_order() -> None:
    """The second timestep is visited twice."""
    solver = Sampler(name="pndm").solver(CONFIG)
    errors = []
    for steps in (160, 320):
        timesteps = uniform(steps, preserving=True).timesteps
        stride = timesteps[0] - timesteps[1]
        twice = np.concatenate([timesteps[:2], timesteps[1:]])
        plain = schedule_through(np.append(twice, 0.0), preserving=True)
        targets = schedule_through(np.append(twice[:1], twice - stride), preserving=True)
        errors.append(
            error_of(
                solver,
                Schedule(
                    **{
                        **vars(plain),
                        "target_timesteps": twice - stride,
                        "target_alphas": targets.target_alphas,
                        "target_sigmas": targets.target_sigmas,
                    }
                ),
            )
        )
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_keeps_the_distribution(name: str) -> None:
    """Mean and deviation of the result approach the data's as the steps shrink; both are computed exactly."""
    solver = Sampler(name=name).solver(CONFIG)
    errors = []
    for steps in (80, 320):
        schedule = uniform(steps, preserving=preserving(name))
        errors.append(distribution_after(solver, schedule, 2 * steps + 2))
    (coarse_mean, coarse_deviation), (mean, deviation) = errors
    assert mean < 0.01
    assert deviation < 0.01
    assert mean < coarse_mean / 3 or mean < 1e-4
    assert deviation < coarse_deviation / 3 or deviation < 1e-4


@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_is_the_papers_update(order: int) -> None:
    """Algorithms 1 to 3 of arXiv 2309.06169 written out, with the integrals as the paper's sums over fine steps."""
    schedule = uniform(8, preserving=False)
    noise = Noise(3, (5,))
    draws = [noise() for _ in range(8)]
    model = ideal_model(schedule)
    waiting = iter(draws)
    start = np.linspace(-8.0, 8.0, 5)
    ours = denoise(Run(start, schedule, lambda *a: er_sde(*a, solver_order=order), lambda *_: next(waiting)), model)

    def scale(sigma: Any) -> Any:
        return sigma * (np.exp(sigma**0.3) + 10.0)

    x, sigmas = start, [*schedule.sigmas, schedule.target_sigmas[-1]]
    predictions: list[Array] = []
    slopes: list[Array] = []
    for i, draw in enumerate(draws):
        level = schedule.steps[i].level
        output = model(x * level.input_scale, level)
        predictions.append(level.denoised(schedule.prediction_type, output, x))
        s, t = sigmas[i], sigmas[i + 1]
        ratio = scale(t) / scale(s)
        fine = np.linspace(t, s, 200001)
        middle = (fine[1:] + fine[:-1]) / 2
        width = fine[1] - fine[0]
        new = ratio * x + (1 - ratio) * predictions[i]
        if i >= 1 and order >= 2:
            slopes.append((predictions[i] - predictions[i - 1]) / (s - sigmas[i - 1]))
            new = new + (t - s + scale(t) * (width / scale(middle)).sum()) * slopes[-1]
            if i >= 2 and order >= 3:
                curvature = (slopes[-1] - slopes[-2]) / ((s - sigmas[i - 2]) / 2)
                weight = (t - s) ** 2 / 2 + scale(t) * (width * (middle - s) / scale(middle)).sum()
                new = new + weight * curvature
        x = new + np.sqrt(t**2 - s**2 * ratio**2) * draw
    np.testing.assert_allclose(ours, x, rtol=1e-7)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_few_steps_are_drawn(name: str, steps: int, final: str) -> None:
    """One and two steps, where higher orders have no history: finite, and bounded by what the model predicts."""
    sampler = Sampler(name=name, final_sigmas_type=final, prediction_type="sample")
    schedule = sampler.schedule(CONFIG, steps)
    noise = Noise(1, (3, 4))
    x = noise() * np.float32(schedule.initial_scale)
    result = denoise(Run(x, schedule, sampler.solver(CONFIG), noise.between), lambda x, _: np.tanh(x))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    if not (name == "edm_euler" and steps == 1 and final == "sigma_min"):  # it ends where it begins
        assert np.abs(result).max() < 2.0 * max(np.abs(x).max() / schedule.initial_scale, 1.0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.grid(most=16)
def test_any_number_of_steps_is_drawn_or_refused(name: str, spacing: str) -> None:
    """Also so many that timesteps lie side by side: a finite result or a sentence, nothing in between."""
    sampler = Sampler(name=name, timestep_spacing=spacing)
    limit = 50 if name in CONSISTENCY else 999
    for steps in (7, 50, 103, 501, 999, 1000):
        noise = Noise(1, (1, 20))
        if steps > limit and name.removesuffix("_k") not in WHOLE_RANGE | EXPLODING:
            with pytest.raises(RequestError, match=f"got {steps} steps, expected 1 to {limit}"):
                sampler.schedule(CONFIG, steps)
            continue
        schedule = sampler.schedule(CONFIG, steps)
        x = noise() * np.float32(schedule.initial_scale)
        result = denoise(Run(x, schedule, sampler.solver(CONFIG), noise.between), lambda x, _: np.tanh(x))
        assert np.isfinite(result).all(), steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_seed_one_result(name: str) -> None:
    """Two runs of one seed are bit-equal; for stochastic samplers another seed is not."""
    sampler = Sampler(name=name)
    schedule = sampler.schedule(CONFIG, 6)
    start = Noise(1, (2, 8))() * np.float32(schedule.initial_scale)

    def run(seed: int) -> Array:
        noise = Noise(seed, (2, 8))
        return denoise(Run(start, schedule, sampler.solver(CONFIG), noise.between), lambda x, _: np.tanh(x))

    np.testing.assert_array_equal(run(5), run(5))
    assert np.array_equal(run(5), run(6)) is not sampler.stochastic


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_says_how_often_the_model_is_asked(name: str) -> None:
    """``calls_per_step`` holds for every step but the last; PNDM's first has one more."""
    sampler = Sampler(name=name)
    calls = len(levels_asked(sampler.schedule(CONFIG, 7), sampler.solver(CONFIG)))
    expected = {1: 7, 2: 13}[SAMPLERS[name].calls_per_step] + (name == "pndm")
    assert calls == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "eluer"}, "got sampler 'eluer'"),
        ({"name": "euler", "eta": 0.5}, "which has no such option"),
        ({"name": "ddim", "eta": 2.0}, "expected 0 to 1"),
        ({"name": "ddim", "eta": math.nan}, "expected 0 to 1"),
        ({"name": "ddim", "eta": "lots"}, "expected a number"),
        ({"name": ["ddim"]}, "got sampler"),
        ({"name": "euler", "s_tmax": math.inf}, "expected 0 to 1e\\+06"),
        ({"name": "euler", "prediction_type": "edm"}, "expected one of epsilon"),
        ({"name": "euler", "timesteps": {900: 1}}, "expected a list of numbers"),
        ({"name": "euler", "sigmas": [math.nan, 0.0]}, "expected finite numbers"),
        ({"name": "ddim", "sigma_spacing": "karras"}, "has no such option"),
        ({"name": "dpmpp_2m", "solver_type": "bh2"}, "expected one of midpoint, heun"),
        ({"name": "unipc", "solver_type": "heun"}, "expected one of bh1, bh2"),
        ({"name": "dpmpp_2m", "lower_order_final": 1}, "expected True or False"),
        ({"name": "unipc", "disable_corrector": 3}, "expected a list"),
        ({"name": "euler", "timesteps": [999, 5], "sigmas": [5.0, 0.0]}, "leave one out"),
        ({"name": "euler", "timesteps": "ass"}, "or 'ays'"),
        ({"name": "ddim", "steps_offset": True}, "expected a whole number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    """When the sampler is made, with what was expected."""
    with pytest.raises(RequestError, match=reason):
        Sampler(**options)


@pytest.mark.parametrize(
    ("options", "steps", "reason"),
    [
        ({"name": "euler", "timesteps": [5, 999]}, None, "expected a descending list"),
        ({"name": "euler", "timesteps": [1200, 5]}, None, "within 0 to 999"),
        ({"name": "euler", "timesteps": []}, None, "expected a descending list"),
        ({"name": "euler_k", "timesteps": [999, 5]}, None, "without _k"),
        ({"name": "euler", "sigmas": [0.0]}, None, "append 0"),
        ({"name": "euler", "sigmas": [1.0, 5.0, 0.0]}, None, "append 0"),
        ({"name": "er_sde", "sigmas": [1e20, 1.0, 0.0]}, None, "expected 1e-05 to 100000"),
        ({"name": "unipc", "timestep_spacing": "leading", "steps_offset": 999}, 4, "was never trained"),
        ({"name": "ddim", "timestep_spacing": "leading", "steps_offset": 1}, 1000, "was never trained"),
        ({"name": "edm_euler", "sigma_min": 1.0, "sigma_max": 0.5}, 4, "swap them"),
        ({"name": "dpmpp_2m", "lambda_min_clipped": 100.0}, 4, "leaves no timesteps"),
        ({"name": "euler", "timesteps": [999, 500]}, 20, "expected them to agree"),
        ({"name": "euler"}, 0, "expected 1 to 1000"),
        ({"name": "lcm"}, 51, "expected 1 to 50"),
        ({"name": "pndm", "skip_prk_steps": False}, 3, "expected 4 to 1000"),
        ({"name": "euler", "timesteps": "ays"}, 900, "with 'ays'"),
        ({"name": "dpmpp_2m", "algorithm_type": "dpmsolver"}, 5, "ends without noise"),
        ({"name": "unipc", "predict_x0": False}, 5, "ends without noise"),
        (
            {"name": "dpmpp_3m", "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
            5,
            "of order 3",
        ),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, Any], steps: int | None, reason: str) -> None:
    """When the schedule is made or the run begins."""
    sampler = Sampler(**options)
    with pytest.raises(RequestError, match=reason):
        levels_asked(sampler.schedule(CONFIG, steps), sampler.solver(CONFIG))


def test_ays_is_interpolated_for_other_numbers_of_steps() -> None:
    """Ten steps are the table; twenty keep its ends and order."""
    sampler = Sampler(name="dpmpp_2m", timesteps="ays")
    assert sampler.schedule(CONFIG, None).timesteps.tolist() == [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    twenty = sampler.schedule(CONFIG, 20).timesteps
    assert len(twenty) == 20
    assert (twenty[0], twenty[-1]) == (999, 24)
    assert (np.diff(twenty) < 0).all()


def test_numpys_numbers_are_numbers() -> None:
    """And do not widen float32 latents; lists become tuples, so that samplers can be told apart and hashed."""
    sampler = Sampler(name="ddim", eta=np.float64(0.5), rescale_betas_zero_snr=np.bool_(False))  # type: ignore[arg-type]
    assert sampler == Sampler(name="ddim", eta=0.5, rescale_betas_zero_snr=False)
    assert type(sampler.eta) is float
    listed = Sampler(name="euler", timesteps=np.array([900, 400, 10]))  # type: ignore[arg-type]
    assert hash(listed) == hash(Sampler(name="euler", timesteps=[900.0, 400.0, 10.0]))
    assert listed.schedule(CONFIG, None).timesteps.tolist() == [900, 400, 10]


@pytest.mark.parametrize("name", ["deis", "dpmpp_2m", "euler", "unipc", "lms", "er_sde"])
@pytest.mark.parametrize("sigmas", [(14.0, 3.0, 1.0, 0.0), "ays"])
def test_custom_sigmas_end_without_noise(name: str, sigmas: Any) -> None:
    """At what the model predicts last."""
    sampler = Sampler(name=name, sigmas=sigmas, prediction_type="sample")
    schedule = sampler.schedule(CONFIG, None)
    noise = Noise(1, (1, 20))
    x = noise() * np.float32(schedule.initial_scale)
    result = denoise(Run(x, schedule, sampler.solver(CONFIG), noise.between), lambda x, _: np.full_like(x, 0.25))
    np.testing.assert_allclose(result, 0.25, atol=1e-5)
