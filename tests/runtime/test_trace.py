"""A traced table, replayed with matrix arithmetic, is the generator's run."""

from typing import Any

import numpy as np
import pytest

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Answer, Run, denoise
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, NoiseSource, Steps
from latentrt.runtime.sampling.tables import table_of
from latentrt.runtime.sampling.trace import PredictionKind, Table, trace

CONFIG = ScheduleConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    set_alpha_to_one=False,
    steps_offset=1,
    skip_prk_steps=True,
)
SHAPE = (2, 4, 3, 5)
TOLERANCE = 1e-6  # float64 on both sides: what the order of operations leaves
V = {"prediction_type": "v_prediction"}
RENOISED = [row.name for row in SAMPLERS.values() if row.cfg_plus_plus is not None]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SAMPLERS),
    *((name, V) for name in SAMPLERS),
    *((name, {"prediction_type": "sample"}) for name in SAMPLERS if name != "edm_euler"),
    ("ddim", {"eta": 0.7}),
    ("pndm", {"skip_prk_steps": False}),
    ("pndm", {"skip_prk_steps": False, **V}),
    ("euler", {"s_churn": 20.0, "s_noise": 1.01}),
    ("euler", {"s_churn": 20.0, **V}),
    ("euler", {"interpolation_type": "log_linear"}),
    ("edm_euler", {"s_churn": 20.0}),
    ("lms", {"order": 2}),
    ("deis", {"solver_order": 3}),
    ("deis", {"sigma_spacing": "beta"}),
    *(
        ("dpmpp_2m", {"algorithm_type": a, "solver_type": s, "final_sigmas_type": "sigma_min"})
        for a in ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
        for s in ("midpoint", "heun")
    ),
    ("dpmpp_3m", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_3m", {"algorithm_type": "sde-dpmsolver++"}),
    ("dpmpp_2s", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_2s", {"algorithm_type": "sde-dpmsolver++"}),
    ("unipc", {"solver_type": "bh1", "solver_order": 3}),
    ("unipc", {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    ("unipc", {"disable_corrector": (1, 3)}),
    ("tcd", {"eta": 0.4}),
    ("er_sde", {"solver_order": 2}),
]


def model(x: Array, timestep: float) -> Array:
    """A stand-in for the U-Net."""
    return np.asarray(np.tanh(0.8 * x + timestep / 1000.0))


def answered(x: Array, level: Level) -> Answer:
    """Both predictions of a call."""
    guided = model(x, level.timestep)
    return Answer(guided, 0.5 * guided - 0.3)


def replay(table: Table, x: Array, noise: NoiseSource) -> Array:
    """Runs a table: one matrix of live vectors, one row of coefficients a step. Knows nothing of any solver."""
    held = np.zeros_like(x)
    slots = [np.zeros_like(x) for _ in range(table.earlier_predictions)]
    for row in table.rows:
        both = answered(x * row.level.input_scale, row.level)
        prediction, unguided = (row.from_x * x + row.from_output * one for one in (both.guided, both.unguided))
        fresh = noise(*row.noise_span) if row.noise_span else np.zeros_like(x)
        earlier = [*row.earlier, *[0.0] * (len(slots) - len(row.earlier))]
        coefficients = np.array([row.x, row.held, row.prediction, row.unguided, *earlier, row.noise])
        vectors = np.stack([x, held, prediction, unguided, *slots, fresh])
        held = x if row.hold else held
        for slot, one in ((row.keep, prediction), (row.keep_unguided, unguided)):
            if slot is not None:
                slots[slot] = one
        x = np.tensordot(coefficients, vectors, axes=1)
    return x


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_the_table_replays_the_run(name: str, options: dict[str, Any]) -> None:
    """From the start and from the middle, over few and many steps; with at most the vectors a device loop keeps."""
    sampler = Sampler(name=name, **options)
    for steps, start in ((1, 0), (2, 0), (5, 0), (16, 0), (16, 7)):
        if sampler.skip_prk_steps is False and steps < 4:
            continue
        schedule = sampler.schedule(CONFIG, steps).started_at(start)
        solver = sampler.solver(CONFIG)
        table = trace(schedule, solver, name)
        x = np.random.default_rng(0).standard_normal(SHAPE) * schedule.initial_scale
        expected = denoise(Run(x, schedule, solver, Noise(4, SHAPE).between), lambda x, level: model(x, level.timestep))
        ours = replay(table, x, Noise(4, SHAPE).between)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours / scale, expected / scale, atol=TOLERANCE, err_msg=f"{steps} steps")
        # Runge-Kutta's third step has two predictions of its own beside three that PLMS will want
        assert table.earlier_predictions <= (5 if sampler.skip_prk_steps is False else 4)
        if (steps, start) == (16, 0):
            assert table.stochastic is sampler.stochastic


@pytest.mark.parametrize("name", RENOISED)
def test_the_table_has_both_predictions_of_cfg_plus_plus(name: str) -> None:
    """Each call's guided and unguided one; second order keeps the unguided one of the step before."""
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        if (name, prediction_type) == ("edm_euler", "sample"):
            continue
        sampler = Sampler(name=name, prediction_type=prediction_type)
        schedule, solver = sampler.schedule(CONFIG, 7), sampler.cfg_plus_plus_solver(CONFIG)
        table = trace(schedule, solver, name)
        assert table.earlier_predictions == name.startswith("dpmpp_2m")
        assert all(row.unguided for row in table.rows[:-1])
        x = np.random.default_rng(0).standard_normal(SHAPE) * schedule.initial_scale
        expected = denoise(Run(x, schedule, solver, Noise(4, SHAPE).between), answered)
        ours = replay(table, x, Noise(4, SHAPE).between)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours / scale, expected / scale, atol=TOLERANCE, err_msg=prediction_type)


def test_runs_of_equal_numbers_share_a_table() -> None:
    """Whoever asks; another number of steps, start, option, model or solver has another."""

    def table(steps: int = 5, start: int = 0, config: ScheduleConfig = CONFIG, **options: Any) -> Table:
        sampler = Sampler(**{"name": "dpmpp_2m", **options})
        return table_of(sampler.schedule(config, steps).started_at(start), sampler.solver(config), sampler.name)

    first, renoised = table(), Sampler(name="dpmpp_2m").cfg_plus_plus_solver(CONFIG)
    assert table() is first
    others = [
        table(steps=6),
        table(start=2),
        table(config=CONFIG.model_copy(update={"beta_end": 0.013})),
        table(solver_type="heun"),
        table(prediction_type="v_prediction"),
        table(name="unipc"),
        table_of(Sampler(name="dpmpp_2m").schedule(CONFIG, 5), renoised, "dpmpp_2m"),
    ]
    assert len({id(one) for one in (first, *others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("name", "earlier", "holds"),
    [
        ("euler", 0, False),
        ("ddim", 0, False),
        ("euler_a", 0, False),
        ("heun", 1, True),
        ("kdpm_2", 0, True),
        ("dpmpp_sde", 0, True),
        ("dpmpp_2m", 1, False),
        ("dpmpp_3m", 2, False),
        ("dpmpp_2s", 1, True),
        ("unipc", 2, False),
        ("deis", 1, False),
        ("lms", 3, False),
        ("pndm", 3, True),
        ("lcm", 0, False),
        ("er_sde", 2, False),
    ],
)
def test_what_a_loop_must_keep_is_derived(name: str, earlier: int, holds: bool) -> None:
    """As the papers have it: LMS and PLMS four predictions, DPM++ 3M three, Heun the step's start."""
    sampler = Sampler(name=name)
    table = trace(sampler.schedule(CONFIG, 20), sampler.solver(CONFIG), name)
    assert (table.earlier_predictions, table.holds_x) == (earlier, holds)


def test_multistep_solvers_on_noise_keep_noise() -> None:
    """Of the three forms of a prediction, the one that needs the fewest vectors is kept."""
    kinds = {
        name: trace(Sampler(name=name).schedule(CONFIG, 20), Sampler(name=name).solver(CONFIG)).kind
        for name in ("lms", "deis", "dpmpp_2m", "unipc")
    }
    noise, denoised = PredictionKind.NOISE, PredictionKind.DENOISED
    assert kinds == {"lms": noise, "deis": noise, "dpmpp_2m": denoised, "unipc": denoised}


def thresholded(x: Array, schedule: Schedule, noise: NoiseSource) -> Steps:
    """Clips what the model predicts."""
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        x = step.target.alpha * np.clip(denoised, -1.0, 1.0) + 0.0 * x
    return x


def multiplied(x: Array, schedule: Schedule, noise: NoiseSource) -> Steps:
    """Multiplies two arrays."""
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        x = denoised * x
    return x


def hoarding(x: Array, schedule: Schedule, noise: NoiseSource) -> Steps:
    """Keeps every x there was."""
    seen = [x]
    for step in schedule.steps:
        x, denoised = yield Evaluate(x, step.level)
        seen.append(x)
        x = denoised
        for k, one in enumerate(seen):
            x = x + 0.1 * (k + 1) * one
    return x


@pytest.mark.parametrize(
    ("solver", "reason"),
    [(thresholded, "is not linear"), (multiplied, "is not linear"), (hoarding, "needs more than one earlier x")],
)
def test_what_has_no_table_is_named_and_refused(solver: Any, reason: str) -> None:
    """A clip, a product of arrays, and a memory without end."""
    schedule = Sampler(name="ddim").schedule(CONFIG, 5)
    with pytest.raises(RequestError, match=f"this one {reason}"):
        trace(schedule, solver, "this one")


def test_a_run_without_steps_has_an_empty_table() -> None:
    """Strength 0."""
    schedule = Sampler(name="euler").schedule(CONFIG, 5).started_at(5)
    assert trace(schedule, Sampler(name="euler").solver(CONFIG)).rows == ()
