"""Perturbed attentions and FreeU in a call: passes and weights, layers by name, and what is refused."""

import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.bundle.unet.added_inputs import FREEU_BACKBONE, FREEU_SKIPS, PERTURBED_ATTENTIONS, freeu_modes
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.conditions.freeu import FreeuCondition
from latentrt.runtime.denoiser.conditions.perturbed_attention import PerturbedAttentionCondition
from latentrt.runtime.denoiser.guider import (
    NEGATIVE,
    POSITIVE,
    Composition,
    Guider,
    Pass,
    Perturbation,
    Side,
    StepScales,
    classifier_free,
    perturbed,
    rescaled,
)
from latentrt.runtime.sampling.schedule import Level

LEVEL = Level(timestep=400.0, alpha=0.8, sigma=0.6)
PERTURBED, SECOND = Pass(Side.POSITIVE, perturbed=True), Pass(Side.POSITIVE, 1)
DRAW: Mapping[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "seed": 3}


def planes(seed: int) -> Array:
    """A prediction for two pictures."""
    return np.random.default_rng(seed).standard_normal((2, 4, 3, 3)).astype(np.float32)


def guider(scale: float, perturbation: Perturbation | None, **more: Any) -> Guider:
    """Of one step."""
    steps = StepScales(scales=(scale,), ratios=(LEVEL.ratio,))
    return Guider(steps=steps, perturbation=perturbation, **{"combine": perturbed(classifier_free), **more})


def test_the_weight_falls_with_the_timesteps() -> None:
    """p − k · (1000 − t), down to 0, where there is no perturbed pass."""
    assert Perturbation(scale=3.0).at(LEVEL) == 3.0
    assert Perturbation(scale=3.0, adaptive=0.004).at(LEVEL) == pytest.approx(0.6)
    assert Perturbation(scale=3.0, adaptive=0.005).at(LEVEL) == 0.0
    assert guider(4.0, Perturbation(scale=3.0, adaptive=0.005)).passes(LEVEL) == (NEGATIVE, POSITIVE)
    assert guider(4.0, Perturbation(scale=3.0)).passes(LEVEL) == (NEGATIVE, POSITIVE, PERTURBED)
    assert guider(1.0, Perturbation(scale=3.0)).passes(LEVEL) == (POSITIVE, PERTURBED)


def test_predictions_are_combined() -> None:
    """u + s(c − u) + p(c − c′); without guidance c + p(c − c′); rescaled last, in float32."""
    u, c, away = planes(0), planes(1), planes(2)
    made = {NEGATIVE: u, POSITIVE: c, PERTURBED: away}
    expected = u + 4.0 * (c - u) + 3.0 * (c - away)
    found = guider(4.0, Perturbation(scale=3.0)).combined(made, u, LEVEL).guided
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    alone = guider(1.0, Perturbation(scale=3.0)).combined({POSITIVE: c, PERTURBED: away}, u, LEVEL).guided
    np.testing.assert_allclose(alone, c + 3.0 * (c - away), rtol=1e-6)
    last = guider(4.0, Perturbation(scale=3.0), combine=rescaled(perturbed(classifier_free), 1.0))
    deviations = last.combined(made, u, LEVEL).guided.std((1, 2, 3))
    np.testing.assert_allclose(deviations, c.std((1, 2, 3)), rtol=1e-5)


def test_composed_prompts_are_perturbed_each() -> None:
    """With their weights: c and c′ are composed alike."""
    weights = {which: np.full((1, 1, 1, 1), weight, np.float32) for which, weight in ((POSITIVE, 0.7), (SECOND, 0.3))}
    composed = guider(4.0, Perturbation(scale=2.0), composition=Composition(weights=weights))
    passes = composed.passes(LEVEL)
    assert [which.unperturbed for which in passes if which.perturbed] == [POSITIVE, SECOND]
    made = {which: planes(index) for index, which in enumerate(passes)}
    u, first, second, first_away, second_away = made.values()
    c, away = 0.7 * first + 0.3 * second, 0.7 * first_away + 0.3 * second_away
    expected = u + 4.0 * (c - u) + 2.0 * (c - away)
    np.testing.assert_allclose(composed.combined(made, u, LEVEL).guided, expected, rtol=1e-5, atol=1e-5)


def call(passes: tuple[Pass, ...], rows: slice, pictures: int, batch: int) -> UnetCall:
    """A call of the U-Net with so many rows in a batch."""
    inputs = {SAMPLE: np.zeros((batch, 4, 4, 4), np.float32)}
    return UnetCall(passes=passes, rows=rows, pictures=pictures, level=LEVEL, inputs=inputs)


def test_perturbed_rows_alone_are_marked() -> None:
    """A call of other rows gives nothing, so that the plain graph runs."""
    condition, passes = PerturbedAttentionCondition([True, False, True]), (NEGATIVE, POSITIVE, PERTURBED)
    assert condition.at(call(passes, slice(0, 4), 2, 4)) == {}
    rows = condition.at(call(passes, slice(3, 6), 2, 4))[PERTURBED_ATTENTIONS]
    np.testing.assert_array_equal(np.asarray(rows), [[0, 0, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0]])


def test_freeu_gives_a_whole_batch() -> None:
    """Of every block: factors and modes of its own size, which cannot be written to."""
    given = FreeuCondition((1.5, 1.6), (0.9, 0.2), [(2, 3), (4, 6)]).at(call((POSITIVE,), slice(0, 1), 1, 2))
    assert {name: tensor.shape for name, tensor in given.items()} == {
        FREEU_BACKBONE: (2, 2),
        FREEU_SKIPS: (2, 2),
        freeu_modes(0): (2, 7, 6),
        freeu_modes(1): (2, 7, 24),
    }
    assert not any(tensor.flags.writeable for tensor in given.values() if isinstance(tensor, np.ndarray))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"pag_scale": -1}, "got pag_scale -1, expected a number of at least 0; 3 is common"),
        ({"pag_scale": 1e300}, r"got pag_scale 1e\+300, expected at most 1000; 3 is common"),
        ({"pag_scale": float("nan")}, "got pag_scale nan"),
        ({"pag_scale": "strong"}, "got pag_scale 'strong', expected a number"),
        ({"pag_scale": 3, "pag_adaptive_scale": -0.1}, "got pag_adaptive_scale -0.1"),
        (
            {"pag_scale": 3, "pag_applied_layers": ["mid", "down.block_1"]},
            "got 'down.block_1' in pag_applied_layers, which is in the name of no self-attention; choose from "
            "down_blocks.0.attentions.0, ",
        ),
        ({"pag_scale": 3, "pag_applied_layers": "up_blocks.("}, "no regular expression"),
        ({"pag_scale": 3, "pag_applied_layers": "([a-z_.0-9]+)+!"}, "none of them of a group"),
        ({"pag_scale": 3, "pag_applied_layers": ".*a" * 9}, "3 repetitions"),
        ({"pag_scale": 3, "pag_applied_layers": ["mid"] * 101}, "at most 100"),
        ({"pag_scale": 3, "pag_applied_layers": []}, "got no pag_applied_layers"),
        ({"pag_scale": 3, "pag_applied_layers": 1}, "expected a text or a list of texts"),
        ({"freeu": "on"}, r"got freeu 'on', expected latentrt.FreeU\(…\) or its factors by name"),
        ({"freeu": {"b3": 1}}, "got 'b3' in freeu, expected some of b1, b2, s1, s2"),
        ({"freeu": {"b1": -1}}, "got b1 -1 of freeu, expected a number of at least 0"),
        ({"freeu": {"b1": 1e308}}, r"got b1 1e\+308 of freeu, expected at most 1000"),
        ({"freeu": latentrt.FreeU(s2=float("inf"))}, "got s2 inf of freeu"),
        ({"freeu": {"s1": "weak"}}, "got s1 of freeu 'weak', expected a number"),
    ],
)
def test_refused(tiny_pipe: latentrt.Pipeline, keywords: dict[str, Any], said: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(latentrt.RequestError, match=said):
        tiny_pipe("a cat", **{**DRAW, **keywords})


def test_layers_without_a_weight(tiny_pipe: latentrt.Pipeline) -> None:
    """Change nothing, and are told of."""
    with pytest.warns(UserWarning, match="got pag_applied_layers without pag_scale, where it changes nothing"):
        tiny_pipe("a cat", **DRAW, pag_applied_layers="mid")


def test_what_pictures_say_of_it(tiny_pipe: latentrt.Pipeline) -> None:
    """In their settings; a plain one says nothing."""
    told = tiny_pipe(
        "a cat",
        **DRAW,
        pag_scale=2.5,
        pag_adaptive_scale=0.001,
        pag_applied_layers=["mid", "up_blocks.1"],
        freeu=latentrt.FreeU(b1=1.2),
    )
    text = told.metadata[0].parameters()
    assert 'PAG scale: 2.5, PAG layers: "mid, up_blocks.1", PAG adaptive: 0.001' in text
    assert 'FreeU: "b1=1.2, b2=1.6, s1=0.9, s2=0.2"' in text
    plain = tiny_pipe("a cat", **DRAW).metadata[0].parameters()
    assert "PAG" not in plain
    assert "FreeU" not in plain


def test_threads_and_pickles(tiny_pipe: latentrt.Pipeline) -> None:
    """Calls with different settings at once draw what each draws alone; settings travel."""
    calls: list[dict[str, Any]] = [
        {},
        {"pag_scale": 3.0},
        {"freeu": pickle.loads(pickle.dumps(latentrt.FreeU()))},
        {"pag_scale": 3.0, "pag_applied_layers": "up_blocks", "freeu": {}},
    ]
    alone = [tiny_pipe("a cat", **DRAW, **keywords).latents for keywords in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda keywords: tiny_pipe("a cat", **DRAW, **keywords).latents, calls * 2))
    for index, latents in enumerate(together):
        np.testing.assert_allclose(latents, alone[index % 4], rtol=0, atol=1e-4)
    assert len({latents.tobytes() for latents in alone}) == 4


def test_on_the_command_line(tiny_bundle: Any, command: Any, tmp_path: Any) -> None:
    """The same picture as the keywords draw; a factor that is none is refused in one sentence."""
    options = ["--steps", 2, "--seed", 3, "-o", tmp_path / "x.npy"]
    ran = command(
        "generate", tiny_bundle, "a cat", "--pag-scale", 3, "--pag-layers", "mid", "--freeu", "b1=1.2,s2=0.5", *options
    )
    assert ran.status == 0, ran.stderr
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        expected = pipe("a cat", **DRAW, pag_scale=3, pag_applied_layers="mid", freeu={"b1": 1.2, "s2": 0.5}).latents
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, rtol=0, atol=1e-4)
    ran = command("generate", tiny_bundle, "a cat", "--freeu", "b1", *options[:-1], tmp_path / "y.npy")
    assert ran.status != 0
    assert "got --freeu 'b1', expected NAME=VALUE" in " ".join(ran.stderr.split())
