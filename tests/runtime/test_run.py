"""A run stepped from outside: several at once, each with its own sampler, and what inpainting keeps."""

import numpy as np
import pytest

from latentrt.engines.bundle.records.schedule_config import BetaSchedule, ScheduleConfig
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Interrupt, Keep, Run, Update, denoise, levels_asked
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Level

CONFIG = ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule=BetaSchedule.SCALED_LINEAR)
SHAPE = (1, 4, 4, 4)


def model(x: Array, level: Level) -> Array:
    """Something smooth that depends on both."""
    return np.asarray(np.tanh(0.7 * x) + np.float32(level.timestep / 2000.0), np.float32)


def run_of(sampler: str, steps: int, seed: int, **options: object) -> Run:
    """A run from noise."""
    chosen = Sampler(name=sampler)
    schedule = chosen.schedule(CONFIG, steps)
    noise = Noise(seed, SHAPE)
    x = noise() * np.float32(schedule.initial_scale)
    return Run(x, schedule, chosen.solver(CONFIG), noise.between, **options)  # type: ignore[arg-type]


def test_runs_of_several_samplers_share_a_call() -> None:
    """Each call of the model takes one row of every run that still goes; the results are those of each run alone."""
    settings = [("euler", 5, 1), ("heun", 3, 2), ("dpmpp_2m_k", 7, 3), ("euler_a", 4, 4)]
    alone = [denoise(run_of(*setting), model) for setting in settings]
    runs = [run_of(*setting) for setting in settings]
    calls = 0
    while going := [run for run in runs if run.call is not None]:
        asked = [run.call for run in going if run.call is not None]
        together = np.concatenate([call.x for call in asked])
        timesteps = np.array([call.level.timestep for call in asked], np.float32)[:, None, None, None]
        predictions = np.asarray(np.tanh(0.7 * together) + timesteps / np.float32(2000.0), np.float32)
        for run, prediction in zip(going, predictions, strict=True):
            run.answer(prediction[None], seconds=0.25)
        calls += 1
    assert calls == max(len(run.seconds) for run in runs) == 7
    assert [sum(run.seconds) for run in runs] == [0.25 * count for count in (5, 5, 7, 4)]
    for run, expected in zip(runs, alone, strict=True):
        np.testing.assert_allclose(run.x, expected, rtol=1e-5, atol=1e-6)


def test_it_ends_before_lower_timesteps() -> None:
    """With x where it is then, and no call left."""
    chosen = Sampler(name="euler")
    schedule = chosen.schedule(CONFIG, 10)
    levels = levels_asked(schedule, chosen.solver(CONFIG))
    run = Run(np.ones(SHAPE, np.float32), schedule, chosen.solver(CONFIG), lambda *_: 0.0, stop_below=500.0)  # type: ignore[arg-type, return-value]
    denoise(run, model)
    assert len(run.seconds) == sum(level.timestep >= 500.0 for level in levels) < 10
    assert run.call is None
    assert not run.interrupted


def test_what_is_kept_is_the_original_at_every_level() -> None:
    """Noised to the level that x is at, clean after the last update; the rest is the solver's."""
    clean = np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(SHAPE)
    noise = Noise(7, SHAPE)()
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., 2:] = 1.0
    seen: list[Update] = []

    def watch(update: Update) -> Array:
        seen.append(update)
        return update.x

    run = run_of("ddim", 4, 5, keep=Keep(mask=mask, clean=clean, noise=noise), on_step=watch)
    result = denoise(run, model)
    np.testing.assert_array_equal(result[..., :2], clean[..., :2])
    for update in seen[:-1]:
        assert update.next_level is not None
        kept = update.next_level.noised(clean, noise)
        np.testing.assert_allclose(update.x[..., :2], kept[..., :2], rtol=1e-6, atol=1e-6)
    assert seen[-1].next_level is None
    assert np.abs(result[..., 2:] - clean[..., 2:]).max() > 1e-2


@pytest.mark.parametrize("given", [None, np.full(SHAPE, 3.0, np.float32)])
def test_an_interrupted_run_ends_with_what_there_is(given: Array | None) -> None:
    """x as it was, or the latents that came with the interrupt."""
    last: list[Array] = []

    def stop(update: Update) -> Array:
        last.append(update.x)
        if update.index == 1:
            raise Interrupt(given)
        return update.x

    run = run_of("euler", 6, 1, on_step=stop)
    result = denoise(run, model)
    assert run.interrupted
    assert run.call is None
    assert len(run.seconds) == 2
    np.testing.assert_array_equal(result, last[-1] if given is None else given)


def test_an_answer_to_no_question_is_refused() -> None:
    """Once it has ended."""
    chosen = Sampler(name="euler")
    run = Run(np.ones(SHAPE, np.float32), chosen.schedule(CONFIG, 2), chosen.solver(CONFIG), lambda *_: 0.0)  # type: ignore[arg-type, return-value]
    denoise(run, model)
    with pytest.raises(ValueError, match="has ended"):
        run.answer(run.x)
