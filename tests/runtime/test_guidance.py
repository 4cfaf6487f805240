"""Guidance beyond its weight: APG, CFG++ and dynamic thresholding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.engines.bundle.records.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.combiners.apg import projected
from latentrt.runtime.denoiser.combiners.dynamic_thresholding import thresholded
from latentrt.runtime.denoiser.guider import Combiner, Predictions, classifier_free
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Answer, Run, denoise, levels_asked
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Level

CONFIG = ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False)
EPSILON, VELOCITY = PredictionType.EPSILON, PredictionType.V_PREDICTION
RENOISED = [row.name for row in SAMPLERS.values() if row.cfg_plus_plus is not None]
LEVELS = (Level(900.0, 0.2, 0.98), Level(500.0, 0.6, 0.8), Level(100.0, 0.95, 0.31))
RATIOS = tuple(level.ratio for level in LEVELS)
SHAPE = (2, 4, 6, 5)
SETTINGS: dict[str, Callable[[], Combiner]] = {
    "apg": lambda: projected(classifier_free, latentrt.Apg(eta=0.2, norm_threshold=2.0), EPSILON),
    "apg of clean samples": lambda: projected(
        classifier_free, latentrt.Apg(norm_threshold=3.0, space="denoised"), VELOCITY
    ),
    "thresholding": lambda: thresholded(latentrt.DynamicThresholding(mimic_scale=3.0), EPSILON, RATIOS),
    "thresholding of whole pictures": lambda: thresholded(
        latentrt.DynamicThresholding(
            mimic_scale=3.0, threshold_percentile=97.0, separate_feature_channels=False, interpolate_phi=0.7
        ),
        VELOCITY,
        RATIOS,
    ),
    "apg and thresholding": lambda: projected(
        thresholded(latentrt.DynamicThresholding(mimic_scale=3.0), EPSILON, RATIOS), latentrt.Apg(), EPSILON
    ),
}


def steps(pictures: slice = slice(None), scale: float = 8.0) -> list[Predictions]:
    """What the passes say at three steps, of two pictures or one of them."""
    random, found = np.random.default_rng(3), []
    for level in LEVELS:
        unconditional, conditional, x = random.normal(size=(3, *SHAPE)).astype(np.float32)[:, pictures]
        found.append(Predictions(unconditional=unconditional, conditional=conditional, scale=scale, x=x, level=level))
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_each_picture_is_what_it_is_alone(name: str) -> None:
    """And float32, and not what plain guidance makes of it."""
    together = list(map(SETTINGS[name](), steps()))
    for index in range(SHAPE[0]):
        alone = list(map(SETTINGS[name](), steps(slice(index, index + 1))))
        for one, both in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, both[index : index + 1])
    plain = list(map(classifier_free, steps()))
    assert all(found.dtype == np.float32 for found in together)
    assert all(np.abs(found - other).max() > 0.1 for found, other in zip(together, plain, strict=True))


@pytest.mark.parametrize("kind", [EPSILON, VELOCITY])
def test_neutral_settings_are_plain_guidance(kind: PredictionType) -> None:
    """Bit for bit."""
    neutral = latentrt.Apg(eta=1.0, norm_threshold=0.0, momentum=0.0)
    same = latentrt.DynamicThresholding(mimic_scale=8.0)
    off = latentrt.DynamicThresholding(mimic_scale=3.0, interpolate_phi=0.0)
    for combine in (
        projected(classifier_free, neutral, kind),
        thresholded(same, kind, RATIOS),
        thresholded(off, kind, RATIOS),
    ):
        for found, expected in zip(map(combine, steps()), map(classifier_free, steps()), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_guidance_is_split() -> None:
    """At η = 0 nothing along the prompt's prediction is left, whatever is left is no longer than r, and β adds up."""
    combine = projected(classifier_free, latentrt.Apg(eta=0.0, norm_threshold=5.0, momentum=0.5), EPSILON)
    average = np.zeros(SHAPE)
    for predictions in steps(scale=1.0):
        d = combine(predictions).astype(np.float64) - predictions.unconditional
        average = predictions.conditional - predictions.unconditional + 0.5 * average
        for index in range(SHAPE[0]):
            along = predictions.conditional[index].astype(np.float64)
            expected = average[index] * min(1.0, 5.0 / np.linalg.norm(average[index]))
            expected = expected - along * np.sum(expected * along) / np.sum(along * along)
            np.testing.assert_allclose(d[index], expected, atol=1e-5)


def test_clean_samples_keep_the_range_of_the_weaker_guidance() -> None:
    """In every channel, around the mean of the stronger one."""
    combine = thresholded(latentrt.DynamicThresholding(mimic_scale=3.0, threshold_percentile=95.0), EPSILON, RATIOS)
    for strong, weak in zip(steps(scale=8.0), steps(scale=3.0), strict=True):
        level = strong.level

        def clean(output: Array, x: Array = strong.x, level: Level = level) -> Array:
            return (x - level.sigma * output) / level.alpha

        kept, wanted, guided = clean(combine(strong)), clean(classifier_free(weak)), clean(classifier_free(strong))
        mean = guided.mean((2, 3), keepdims=True)
        limit = np.abs(wanted - wanted.mean((2, 3), keepdims=True)).max((2, 3))
        assert (np.abs(kept - mean).max((2, 3)) <= limit * (1.0 + 1e-4) + 1e-5).all()
        assert np.abs(guided - mean).max() > limit.max()


def test_scales_change_over_the_run() -> None:
    """From the whole scale down to the least, or up from it."""
    settings = latentrt.DynamicThresholding(
        mimic_scale=5.0, mimic_mode="linear_down", mimic_scale_min=1.0, cfg_mode="power_up", scheduler_value=2.0
    )
    assert [settings.scales(8.0, t) for t in (0.0, 0.5, 1.0)] == [(0.0, 5.0), (2.0, 3.0), (8.0, 1.0)]


def model(x: Array, level: Level) -> Array:
    """A prediction that is not linear."""
    return np.asarray(np.tanh(x + level.timestep / 1000.0), np.float32)


def run_of(sampler: Sampler, *, renoised: bool) -> Run:
    schedule, noise = sampler.schedule(CONFIG, 6), Noise(5, (1, 4, 3, 3))
    x = Noise(1, (1, 4, 3, 3))() * np.float32(schedule.initial_scale)
    solver = sampler.cfg_plus_plus_solver(CONFIG) if renoised else sampler.solver(CONFIG)
    return Run(x, schedule, solver, noise.between)


@pytest.mark.parametrize("name", RENOISED)
def test_cfg_plus_plus_without_guidance_is_the_sampler(name: str) -> None:
    """Where both predictions are the same; it asks at the same levels."""
    sampler = Sampler(name=name)
    plain = denoise(run_of(sampler, renoised=False), model)
    renoised = denoise(run_of(sampler, renoised=True), lambda x, level: Answer(model(x, level), model(x, level)))
    np.testing.assert_allclose(renoised, plain, rtol=1e-3, atol=1e-4)
    schedule, solver = sampler.schedule(CONFIG, 6), sampler.cfg_plus_plus_solver(CONFIG)
    assert levels_asked(schedule, solver) == levels_asked(schedule, sampler.solver(CONFIG))


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_cfg_plus_plus_renoises_with_the_unguided_prediction(name: str) -> None:
    """x' = α' · D(guided) + σ' · ε(unguided), stepped from outside."""
    run = run_of(Sampler(name=name), renoised=True)
    for step in Sampler(name=name).schedule(CONFIG, 6).steps:
        assert run.call is not None
        x, guided = run.x, model(run.call.x, run.call.level)
        unguided = guided * np.float32(0.5)
        run.answer(Answer(guided, unguided))
        clean = (x - step.level.sigma * guided) / step.level.alpha
        np.testing.assert_allclose(
            run.x, step.target.alpha * clean + step.target.sigma * unguided, rtol=1e-4, atol=1e-4
        )
    assert run.call is None


COMMON: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, "sampler": "euler", "output_type": "latent"}


def latents(drawn: latentrt.Result) -> Array:
    return drawn.latents


def test_a_call_has_all_of_it(tiny_pipe: latentrt.Pipeline) -> None:
    """Two pictures are what each is alone; the interval, the weights per step, and a callback's weight count."""
    everything = {
        "apg": {"eta": 0.3, "norm_threshold": 2},
        "dynamic_thresholding": latentrt.DynamicThresholding(mimic_scale=0.3),
        "guidance_rescale": 0.4,
    }
    for wishes in ({"guidance_scale": 9.0, **everything}, {"cfg_plus_plus": 0.6, **everything}):
        both = latents(tiny_pipe(["a cat", "a red apple"], **{**COMMON, "seed": [3, 4]}, **wishes))
        second = latents(tiny_pipe("a red apple", **{**COMMON, "seed": [4]}, **wishes))
        np.testing.assert_allclose(both[1:], second, rtol=1e-4, atol=1e-4)
    whole = latents(tiny_pipe("a cat", **COMMON, cfg_plus_plus=0.6))
    listed = latents(tiny_pipe("a cat", **COMMON, cfg_plus_plus=[0.6] * 4))
    np.testing.assert_array_equal(listed, whole)
    begun = tiny_pipe("a cat", **COMMON, cfg_plus_plus=0.6, guidance_end=0.5)
    assert begun.timings.unet_calls == 4
    assert not np.array_equal(begun.latents, whole)
    told = tiny_pipe("a cat", **COMMON, cfg_plus_plus=0.6, callback_on_step_end=lambda *_: {"guidance_scale": 0.1})
    expected = latents(tiny_pipe("a cat", **COMMON, cfg_plus_plus=[0.6, 0.1, 0.1, 0.1]))
    np.testing.assert_array_equal(told.latents, expected)


def test_a_callback_does_not_forget_what_apg_remembers(tiny_pipe: latentrt.Pipeline) -> None:
    """Another weight leaves the momentum as it is."""
    wishes = {**COMMON, "apg": latentrt.Apg(momentum=-0.5)}
    told = tiny_pipe("a cat", guidance_scale=9.0, **wishes, callback_on_step_end=lambda *_: {"guidance_scale": 5.0})
    listed = tiny_pipe("a cat", guidance_scale=[9.0, 5.0, 5.0, 5.0], **wishes)
    np.testing.assert_array_equal(told.latents, listed.latents)


def test_neutral_calls_are_plain_ones(tiny_pipe: latentrt.Pipeline) -> None:
    """Bit for bit; and with λ = 1 both passes run."""
    plain = tiny_pipe("a cat", **COMMON, guidance_scale=7.0)
    for wish in (
        {"apg": latentrt.Apg(eta=1, norm_threshold=0, momentum=0)},
        {"dynamic_thresholding": {"mimic_scale": 7}},
    ):
        np.testing.assert_array_equal(tiny_pipe("a cat", **COMMON, guidance_scale=7.0, **wish).latents, plain.latents)
    whole, conditional = tiny_pipe("a cat", **COMMON, cfg_plus_plus=1), tiny_pipe("a cat", **COMMON, guidance_scale=1)
    assert not np.array_equal(whole.latents, conditional.latents)


def test_cfg_plus_plus_from_pictures(tiny_pipe: latentrt.Pipeline) -> None:
    """Image-to-image and inpainting, which keeps what the mask keeps."""
    first = tiny_pipe.manifest.profiles[0]
    image = Image.linear_gradient("L").resize((first.width, first.height)).convert("RGB")
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 16, 16))
    wishes = {"seed": 3, "num_inference_steps": 4, "sampler": "dpmpp_2m", "cfg_plus_plus": 0.5}
    drawn = tiny_pipe.img2img("a cat", image=image, strength=0.6, **wishes).images[0]
    assert np.abs(np.asarray(drawn, float) - np.asarray(image, float)).max() > 1.0
    kept = tiny_pipe.inpaint("a cat", image=image, mask_image=mask, **wishes).images[0]
    np.testing.assert_array_equal(np.asarray(kept)[20:, 20:], np.asarray(image)[20:, 20:])


def test_pictures_say_how_they_were_guided(tiny_pipe: latentrt.Pipeline) -> None:
    """Under A1111's names, and its extension's."""
    drawn = tiny_pipe("a cat", **{**COMMON, "sampler": "ddim"}, cfg_plus_plus=0.6)
    text = drawn.metadata[0].parameters()
    assert "Sampler: DDIM CFG++," in text
    assert "CFG scale: 7.5," in text
    settings = latentrt.DynamicThresholding(mimic_scale=3, mimic_mode="cosine_down", threshold_percentile=99.5)
    drawn = tiny_pipe("a cat", **COMMON, guidance_scale=20, apg=latentrt.Apg(), dynamic_thresholding=settings)
    text = drawn.metadata[0].parameters()
    assert "APG eta: 0, APG norm threshold: 15, APG momentum: -0.5," in text
    assert "Dynamic thresholding enabled: True, Mimic scale: 3, Separate Feature Channels: True, " in text
    assert "Threshold percentile: 99.5, Mimic mode: Cosine Down, Mimic scale minimum: 0" in text
    steps = tiny_pipe("a cat", **COMMON, cfg_plus_plus=0.4, guidance_end=0.5).metadata[0].parameters()
    assert 'CFG scales: "5, 5, off, off"' in steps


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"cfg_plus_plus": 7.5}, "expected 0 to 1; 0.6 is about what a guidance_scale of 7.5"),
        ({"cfg_plus_plus": [0.6, 0.5]}, "got 2 weights of cfg_plus_plus for a schedule of 4 steps"),
        ({"cfg_plus_plus": float("nan")}, "expected 0 to 1"),
        ({"cfg_plus_plus": 0.6, "guidance_scale": 7.5}, "leave one out"),
        ({"cfg_plus_plus": 0.6, "sampler": "heun"}, "not defined; choose one of ddim, ddpm, euler, euler_k, euler_a"),
        ({"cfg_plus_plus": 0.6, "sampler": Sampler(name="euler", s_churn=2.0)}, "no such option"),
        ({"sampler": "euler_cfg_pp"}, "give cfg_plus_plus=0.6 with it"),
        ({"sampler": "DDIM CFG++"}, "give cfg_plus_plus=0.6 with it"),
        ({"apg": 0.5}, "expected latentrt.Apg"),
        ({"apg": {"etta": 0.5}}, "got 'etta' in apg, expected some of eta, norm_threshold, momentum, space"),
        ({"apg": {"momentum": -1}}, "between -1 and 1"),
        ({"apg": {"eta": "lots"}}, "got eta of Apg 'lots', expected a number"),
        ({"apg": {"norm_threshold": -1}}, "expected at least 0"),
        ({"apg": {"space": "pixels"}}, "expected one of output, denoised"),
        ({"dynamic_thresholding": {"threshold_percentile": 0.95}}, "50 to 100 percent"),
        ({"dynamic_thresholding": {"mimic_mode": "Cosine"}}, "expected one of constant, linear_down"),
        ({"dynamic_thresholding": {"separate_feature_channels": 1}}, "expected True or False"),
        ({"dynamic_thresholding": {"interpolate_phi": 2}}, "expected 0 to 1"),
        ({"dynamic_thresholding": {"mimic_scale": -1}}, "at least 0"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(tiny_pipe: latentrt.Pipeline, wishes: dict[str, Any], reason: str) -> None:
    """With what was expected and what to do."""
    with pytest.raises(RequestError, match=reason):
        tiny_pipe("a cat", **{**COMMON, **wishes})


def test_a_callback_cannot_leave_the_range(tiny_pipe: latentrt.Pipeline) -> None:
    """Of CFG++'s weights."""
    with pytest.raises(RequestError, match="expected its weight, 0 to 1"):
        tiny_pipe("a cat", **COMMON, cfg_plus_plus=0.6, callback_on_step_end=lambda *_: {"guidance_scale": 5.0})


def test_what_changes_nothing_draws_a_warning(tiny_pipe: latentrt.Pipeline) -> None:
    """Without guidance."""
    with pytest.warns(UserWarning, match="got apg and dynamic_thresholding without guidance"):
        tiny_pipe("a cat", **COMMON, guidance_scale=1, apg={}, dynamic_thresholding={})


@pytest.mark.parametrize("wish", [{"cfg_plus_plus": 0.6}, {"apg": {}}, {"dynamic_thresholding": {}}], ids=str)
def test_distilled_models_refuse(family_pipe: Callable[[str], latentrt.Pipeline], wish: dict[str, Any]) -> None:
    """They have one pass."""
    with pytest.raises(RequestError, match="guidance built in; leave it out"):
        family_pipe("lcm-sd1")("a cat", **{**COMMON, "sampler": "lcm"}, **wish)
