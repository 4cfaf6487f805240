"""The U-Net under guidance: passes, combiners, and conditions that give its inputs by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from latentrt.engines.spec import Array, EngineSpec, TensorSpec
from latentrt.runtime.denoiser.conditions.condition import FixedCondition, UnetCall
from latentrt.runtime.denoiser.conditions.guidance_scale import GuidanceScaleCondition
from latentrt.runtime.denoiser.conditions.mask import mask_condition
from latentrt.runtime.denoiser.conditions.text import PassText, TextCondition
from latentrt.runtime.denoiser.denoiser import Denoiser
from latentrt.runtime.denoiser.guider import (
    NEGATIVE,
    POSITIVE,
    Composition,
    Guider,
    Pass,
    Predictions,
    Side,
    StepScales,
    classifier_free,
    rescaled,
)
from latentrt.runtime.sampling.schedule import Level

LEVEL = Level(500.0, 1.0, 2.0)


def tensor(*rest: int) -> TensorSpec:
    return TensorSpec(shape=("batch", *rest), dtype=np.dtype(np.float32))


class Unet:
    """An engine whose prediction is a sum of all that it is told; it keeps what it was told."""

    def __init__(self, batches: tuple[int, ...], channels: int = 2, **more: TensorSpec) -> None:
        inputs = {"sample": tensor(channels, 3, 3), "timestep": tensor(), "told": tensor(1), **more}
        self.spec = EngineSpec(inputs=inputs, outputs={"out_sample": tensor(2, 3, 3)}, batches=batches)
        self.calls: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.spec.check(inputs)
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        rest = sum(array.reshape(len(array), -1).sum(1) for name, array in inputs.items() if name != "sample")
        total = inputs["sample"].sum(1, keepdims=True) + np.asarray(rest, np.float32)[:, None, None, None]
        return {"out_sample": np.repeat(total, 2, axis=1)}

    def close(self) -> None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...


def told(positive: Sequence[float], negative: Sequence[float]) -> FixedCondition:
    """A row of one number for each picture and pass."""
    return FixedCondition(
        {
            side: {"told": np.array(row, np.float32)[:, None]}
            for side, row in ((Side.POSITIVE, positive), (Side.NEGATIVE, negative))
        }
    )


def scales(*values: float) -> StepScales:
    return StepScales(scales=values, ratios=tuple(float(len(values) - index) for index in range(len(values))))


@pytest.mark.parametrize("batches", [(1, 2, 3, 4, 5, 6), (1, 2), (1,), (4,)])
def test_passes_are_rows_cut_to_what_a_call_holds(batches: tuple[int, ...]) -> None:
    """Three pictures and two passes, whatever the engine takes at once: u + s · (c − u)."""
    unet = Unet(batches)
    x = np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3)
    denoiser = Denoiser(unet, [told([1, 2, 3], [10, 20, 30])], Guider(steps=scales(3.0)))
    found = denoiser(x, LEVEL).guided
    plain = np.repeat(x.sum(1, keepdims=True), 2, axis=1) + np.float32(500)
    conditional, unconditional = (
        plain + np.array(row, np.float32)[:, None, None, None] for row in ((1, 2, 3), (10, 20, 30))
    )
    np.testing.assert_allclose(found, unconditional + 3.0 * (conditional - unconditional), rtol=1e-6)
    assert denoiser.engine_calls == len(unet.calls) == -(-6 // batches[-1])
    assert all(set(call["timestep"]) == {500.0} for call in unet.calls)


def test_a_weight_of_one_has_one_pass() -> None:
    """And another step of the same run has two."""
    unet = Unet((1, 2))
    denoiser = Denoiser(unet, [told([1], [7])], Guider(steps=scales(1.0, 5.0)))
    x = np.zeros((1, 2, 3, 3), np.float32)
    denoiser(x, Level(900.0, 1.0, 2.0))
    denoiser(x, Level(100.0, 1.0, 1.0))
    assert [call["told"].ravel().tolist() for call in unet.calls] == [[1.0], [7.0, 1.0]]


def test_rescaling_brings_the_deviation_back() -> None:
    """At φ = 1 wholly: the deviation is that of the conditional prediction."""
    random = np.random.default_rng(1)
    unconditional, conditional, x = random.normal(size=(3, 2, 4, 8, 8)).astype(np.float32)
    predictions = Predictions(unconditional=unconditional, conditional=conditional, scale=7.5, x=x, level=LEVEL)
    guided = classifier_free(predictions)
    whole = rescaled(classifier_free, 1.0)(predictions)
    assert guided.std() > 3 * conditional.std()
    np.testing.assert_allclose(whole.std((1, 2, 3)), conditional.std((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(rescaled(classifier_free, 0.0)(predictions), guided, rtol=1e-6)


def test_mask_channels_follow_the_latents() -> None:
    """In the order of the conditions, the same for both passes."""
    unet = Unet((1, 2), channels=5)
    mask, masked = np.full((1, 1, 3, 3), 2.0, np.float32), np.full((1, 1, 3, 3), 3.0, np.float32)
    more = FixedCondition({side: {"sample": np.full((1, 1, 3, 3), 4.0, np.float32)} for side in Side})
    conditions = [mask_condition(mask, masked), told([0], [0]), more]
    Denoiser(unet, conditions, Guider(steps=scales(5.0)))(np.ones((1, 2, 3, 3), np.float32), LEVEL)
    (call,) = unet.calls
    assert call["sample"][:, :, 0, 0].tolist() == [[1.0, 1.0, 2.0, 3.0, 4.0]] * 2


def test_a_distilled_model_has_one_pass_and_is_told_its_weight() -> None:
    """The embedding changes with the step."""
    unet = Unet((1, 2), timestep_cond=tensor(8))
    steps = scales(8.5, 2.0)
    denoiser = Denoiser(unet, [told([0], [0]), GuidanceScaleCondition(steps, 8)], Guider(steps=steps, combine=None))
    x = np.zeros((1, 2, 3, 3), np.float32)
    for sigma in (2.0, 1.0):
        denoiser(x, Level(500.0, 1.0, sigma))
    first, second = (call["timestep_cond"] for call in unet.calls)
    assert first.shape == second.shape == (1, 8)
    assert np.abs(first - second).max() > 0.1


def test_a_condition_may_answer_every_call() -> None:
    """Rows of all passes, from x and the level: where a control net will be."""

    class Control:
        def __init__(self) -> None:
            self.seen: list[tuple[tuple[Pass, ...], float]] = []

        def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
            return {}

        def at(self, call: UnetCall) -> Mapping[str, Array]:
            self.seen.append((call.pass_of_each, call.level.timestep))
            rows = np.arange(call.rows.start, call.rows.stop, dtype=np.float32)
            return {"residual": rows[:, None] + call.level.timestep}

    unet, control = Unet((1, 2, 3), residual=tensor(1)), Control()
    denoiser = Denoiser(unet, [told([0, 0], [0, 0]), control], Guider(steps=scales(5.0)))
    for timestep in (100.0, 200.0):
        denoiser(np.zeros((2, 2, 3, 3), np.float32), Level(timestep, 1.0, 1.0))
    passes = [(NEGATIVE, NEGATIVE, POSITIVE), (POSITIVE,)]
    assert control.seen == [(rows, timestep) for timestep in (100.0, 200.0) for rows in passes]
    rows = [call["residual"].ravel().tolist() for call in unet.calls]
    assert [rows[0], rows[1][:1], rows[2], rows[3][:1]] == [[100, 101, 102], [103], [200, 201, 202], [203]]


class Echo(Unet):
    """An engine whose prediction is what it is told, everywhere."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        super().run(inputs)
        return {"out_sample": np.tile(inputs["told"][:, :, None, None], (1, 2, 3, 3))}


def texts(of_step: Sequence[Sequence[int]]) -> PassText:
    """A pass that is told 0, 1, 2 … by step and picture."""
    return PassText(inputs={"told": np.arange(10, dtype=np.float32)[:, None]}, of_step=np.array(of_step))


@pytest.mark.parametrize("batches", [(1, 2, 3, 4, 5, 6), (1,), (4,)])
def test_prompts_are_composed(batches: tuple[int, ...]) -> None:
    """u + s · Σ wᵢ · (cᵢ − u), with weights of each picture and place; without guidance s is 1."""
    left = np.zeros((1, 1, 3, 3), np.float32)
    left[..., 0] = 1.0
    positive = [Pass(Side.POSITIVE, index) for index in range(2)]
    composition = Composition(
        weights={positive[0]: left * 2.0, positive[1]: np.array([0.0, 0.5], np.float32).reshape(2, 1, 1, 1)}
    )
    text = TextCondition(
        of_pass={NEGATIVE: texts([[1, 1]]), positive[0]: texts([[3, 4]]), positive[1]: texts([[7, 9]])}, chunks=1
    )
    for scale in (5.0, 1.0):
        denoiser = Denoiser(Echo(batches), [text], Guider(steps=scales(scale), composition=composition))
        found = denoiser(np.zeros((2, 2, 3, 3), np.float32), LEVEL).guided
        expected = [[1 + scale * 2 * 2, 1], [1 + scale * (2 * 3 + 0.5 * 8), 1 + scale * 0.5 * 8]]
        np.testing.assert_allclose(found[:, 0, 0, :2], expected, rtol=1e-6)


def test_weights_of_one_need_no_negative_pass() -> None:
    """Two halves of a picture, without guidance."""
    left = np.zeros((1, 1, 3, 3), np.float32)
    left[..., 0] = 1.0
    composition = Composition(weights={POSITIVE: left, Pass(Side.POSITIVE, 1): 1.0 - left})
    text = TextCondition(of_pass={POSITIVE: texts([[3]]), Pass(Side.POSITIVE, 1): texts([[7]])}, chunks=1)
    unet = Echo((1, 2))
    found = Denoiser(unet, [text], Guider(steps=scales(1.0), composition=composition))(
        np.zeros((1, 2, 3, 3), np.float32), LEVEL
    )
    assert found.guided[0, 0, 0].tolist() == [3, 7, 7]
    assert len(unet.calls) == 1


@pytest.mark.parametrize("batches", [(1, 2, 3, 4), (1,), (3,)])
def test_texts_change_with_the_steps(batches: tuple[int, ...]) -> None:
    """Those of one side, and of one picture; a call between two steps belongs to the one before it."""
    text = TextCondition(
        of_pass={NEGATIVE: texts([[0, 0]]), POSITIVE: texts([[2, 5], [3, 5]])}, chunks=1, ratios=(2.0, 1.0)
    )
    denoiser = Denoiser(Echo(batches), [text], Guider(steps=scales(2.0)))
    seen = []
    for sigma in (2.0, 1.5, 1.0, 0.5):
        answer = denoiser(np.zeros((2, 2, 3, 3), np.float32), Level(500.0, 1.0, sigma))
        seen.append(answer.guided[:, 0, 0, 0].tolist())
    assert seen == [[4, 10], [4, 10], [6, 10], [6, 10]]
