"""The loop on the device: steps of one graph lead where the loop on the host does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
from tiny_steps import LATENTS, TOLD, OrtEngine, step_engine, unet_engine
from waiting import until

from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.bundle.unet.denoise_step import CHANNELS, NOISE, STATE
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, Condition, FixedCondition, UnetCall
from latentrt.runtime.denoiser.denoiser import Denoiser
from latentrt.runtime.denoiser.guider import (
    NEGATIVE,
    PICTURE,
    Baseline,
    CfgPlusPlusScales,
    Guider,
    Pass,
    Perturbation,
    Side,
    StepScales,
    classifier_free,
    perturbed,
    rescaled,
    shifted,
)
from latentrt.runtime.denoiser.linear_guidance import LinearGuidance
from latentrt.runtime.denoiser.step_denoiser import StepDenoiser
from latentrt.runtime.denoiser.steps import step_ratios
from latentrt.runtime.sampling.noise import Noise
from latentrt.runtime.sampling.run import Interrupt, Keep, Run, Update, denoise
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler
from latentrt.runtime.sampling.schedule import Schedule
from latentrt.runtime.sampling.step_run import StepRun, fits
from latentrt.runtime.sampling.trace import trace
from latentrt.runtime.serving.lanes.engine_call import EngineCall
from latentrt.runtime.serving.lanes.line import Line
from latentrt.runtime.serving.lanes.shared_engine import SharedEngine

CONFIG = ScheduleConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    set_alpha_to_one=False,
    steps_offset=1,
    skip_prk_steps=True,
)
SHAPE = (2, *LATENTS)
EVERY = tuple(range(1, 9))
TOLERANCE = 1e-6
# They go a whole step by a slope from far below it: what float32 rounds there, in either loop, counts as often as the
# steps' noise levels differ
TOLERANCES = {"heun": 2e-6, "kdpm_2_a": 5e-6, "kdpm_2_a_k": 5e-6}
TYPES = ("epsilon", "v_prediction", "sample")


def guidance(kind: str, schedule: Schedule) -> LinearGuidance:
    """A kind of guidance over a schedule's steps."""
    ratios = step_ratios(schedule.all_steps)
    scales = [1.0 if kind in ("none", "perturbed alone") else 5.0] * len(ratios)
    if kind == "interval":
        scales[0] = scales[-1] = 1.0
    steps = StepScales(scales=tuple(scales), ratios=ratios)
    plain = Guider(steps=steps)
    with_perturbed = replace(plain, combine=perturbed(classifier_free), perturbation=Perturbation(scale=2.0))
    edit = Baseline(passes=(PICTURE, NEGATIVE), scales=(1.5,))
    renoised = CfgPlusPlusScales(
        scales=(0.6,) * len(ratios), ratios=ratios, inside=(False, *(True,) * (len(ratios) - 1))
    )
    guiders = {
        "cfg++": replace(plain, steps=renoised),
        "perturbed cfg++": replace(with_perturbed, steps=renoised),
        "rescaled": replace(plain, combine=rescaled(classifier_free, 0.7)),
        "perturbed": with_perturbed,
        "perturbed alone": with_perturbed,
        "edit": replace(plain, combine=shifted(classifier_free), baseline=edit),
        "perturbed edit": replace(with_perturbed, combine=shifted(perturbed(classifier_free)), baseline=edit),
    }
    return LinearGuidance(guider=guiders.get(kind, plain), rescale=0.7 if kind == "rescaled" else 0.0)


KINDS = ("guided", "none", "rescaled", "interval", "perturbed", "perturbed alone", "edit", "perturbed edit")


class Told:
    """Tells every row something of its own: its side, its picture, and whether it is perturbed."""

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing that stays."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """A number for each row."""
        sides = {Side.NEGATIVE: -0.3, Side.PICTURE: 0.1, Side.POSITIVE: 0.4}
        numbers = [sides[which.side] - 0.2 * which.perturbed for which in call.pass_of_each]
        return {TOLD: (np.array(numbers)[:, None] + 0.05 * call.picture_of_each[:, None]).astype(np.float32)}


class Loops:
    """A run, in the loop on the host and in that on the device."""

    def __init__(
        self,
        name: str,
        kind: str = "guided",
        *,
        steps: int = 4,
        start: int = 0,
        more: Sequence[Condition] = (),
        **options: Any,
    ) -> None:
        sampler = Sampler(name=name, **options)
        self.schedule = sampler.schedule(CONFIG, steps).started_at(start)
        self.solver = (sampler.cfg_plus_plus_solver if kind.endswith("cfg++") else sampler.solver)(CONFIG)
        self.guidance = guidance(kind, self.schedule)
        self.conditions: list[Condition] = [Told(), *more]
        self.x = self.begin(SHAPE)
        self.shape = SHAPE

    def begin(self, shape: tuple[int, ...]) -> Array:
        """What the run starts from, of as many pictures."""
        self.shape = shape
        self.x = (np.random.default_rng(1).standard_normal(shape) * self.schedule.initial_scale).astype(np.float32)
        return self.x

    def host(self, engine: Engine, **rest: Any) -> Array:
        """On the host."""
        run = Run(self.x, self.schedule, self.solver, Noise(4, self.shape).between, **rest)
        return denoise(run, Denoiser(engine, self.conditions, self.guidance.guider))

    def device(self, engine: Engine, **rest: Any) -> Array:
        """On the device."""
        table = trace(self.schedule, self.solver)
        run = StepRun(self.x, table, self.schedule, Noise(4, self.shape).between, **rest)
        return denoise(run, StepDenoiser(engine, self.conditions, self.guidance))


def assert_same(ours: Array, expected: Array, tolerance: float = TOLERANCE) -> None:
    """Equal, relative to the largest number."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def unet() -> OrtEngine:
    """The U-Net alone."""
    return unet_engine(EVERY)


@pytest.fixture(scope="module")
def steps() -> OrtEngine:
    """Whole steps of it."""
    return step_engine(EVERY)


CASES = [
    (name, TYPES[(index + turn) % 3], KINDS[(index + turn) % len(KINDS)])
    for turn in range(len(KINDS) * len(TYPES))
    for index, name in enumerate(SAMPLERS)
    if not (name == "edm_euler" and TYPES[(index + turn) % 3] == "sample")
]


@pytest.mark.parametrize(
    ("name", "prediction_type", "kind"),
    [
        pytest.param(*case, marks=[] if index < len(SAMPLERS) else [pytest.mark.slow])
        for index, case in enumerate(dict.fromkeys(CASES))
    ],
)
def test_it_leads_where_the_loop_on_the_host_does(
    unet: OrtEngine, steps: OrtEngine, name: str, prediction_type: str, kind: str
) -> None:
    """Every sampler, kind of prediction and kind of guidance; two pictures."""
    loops = Loops(name, kind, prediction_type=prediction_type)
    assert_same(loops.device(steps), loops.host(unet), TOLERANCES.get(name, TOLERANCE))


@pytest.mark.parametrize("name", [row.name for row in SAMPLERS.values() if row.cfg_plus_plus is not None])
@pytest.mark.parametrize("kind", ["cfg++", "perturbed cfg++"])
def test_steps_with_the_unguided_prediction(unet: OrtEngine, steps: OrtEngine, name: str, kind: str) -> None:
    """CFG++ from the second step on; in the first, which nothing guides, it is the one that there is."""
    for prediction_type in TYPES[: 2 if name == "edm_euler" else 3]:
        loops = Loops(name, kind, prediction_type=prediction_type)
        assert_same(loops.device(steps), loops.host(unet), TOLERANCES.get(name, TOLERANCE))


def test_from_the_middle_to_a_last_level(unet: OrtEngine, steps: OrtEngine) -> None:
    """As image-to-image begins, and as a refiner's first half ends."""
    loops = Loops("heun", steps=6, start=2)
    assert_same(loops.device(steps, stop_below=400.0), loops.host(unet, stop_below=400.0))


def test_what_inpainting_keeps(unet: OrtEngine, steps: OrtEngine) -> None:
    """The kept part is the picture's at the end, to the last bit, and at every level before."""
    random = np.random.default_rng(5)
    mask = (random.random((2, 1, *LATENTS[1:])) > 0.5).astype(np.float32)
    clean, noise = random.standard_normal((2, *SHAPE)).astype(np.float32)
    keep = Keep(mask=mask, clean=clean, noise=noise)
    loops = Loops("dpmpp_2m")
    ours = loops.device(steps, keep=keep)
    assert_same(ours, loops.host(unet, keep=keep))
    np.testing.assert_array_equal(np.where(mask, 0.0, ours), np.where(mask, 0.0, clean))


def test_channels_behind_the_latents() -> None:
    """Those of several conditions, in their order."""
    random = np.random.default_rng(6)
    more = [
        FixedCondition({side: {SAMPLE: array} for side in Side})
        for array in (random.standard_normal((2, count, *LATENTS[1:])).astype(np.float32) for count in (1, 4))
    ]
    loops, engine = Loops("euler", more=more), step_engine(EVERY, 5)
    assert CHANNELS in engine.spec.inputs
    assert_same(loops.device(engine), loops.host(unet_engine(EVERY, 5)))


class Watching:
    """Tells what depends on the sample that the U-Net gets, as a control net does."""

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing that stays."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The mean of each row."""
        sample = np.asarray(call.inputs[SAMPLE])[: call.rows.stop - call.rows.start]
        return {TOLD: sample.mean((1, 2, 3), keepdims=True)[..., 0, 0] * np.float32(0.1)}


@pytest.mark.parametrize("name", ["dpmpp_sde", "unipc"])
def test_conditions_see_the_sample(unet: OrtEngine, steps: OrtEngine, name: str) -> None:
    """Of every call, scaled for the U-Net."""
    loops = Loops(name, more=[Watching()])
    assert_same(loops.device(steps), loops.host(unet))


def test_pictures_of_several_calls(unet: OrtEngine) -> None:
    """Five pictures of three passes where a call holds eight rows, and where it is compiled for six and filled up."""
    loops = Loops("dpmpp_2m", "perturbed")
    loops.begin((5, *LATENTS))
    expected = loops.host(unet)
    for batches, calls in ((EVERY, 3), ((6,), 3), ((3, 9), 2)):
        engine = step_engine(batches)
        assert_same(loops.device(engine), expected)
        assert engine.calls == 4 * calls


def test_who_watches_may_change_and_end_it(unet: OrtEngine, steps: OrtEngine) -> None:
    """What is shown is what the host's loop shows; another x goes on; an interrupt ends it."""
    loops = Loops("pndm", steps=8)
    seen: dict[str, list[Update]] = {"host": [], "device": []}

    def watch(where: str) -> Any:
        def on_step(update: Update) -> Array | None:
            assert update.x is not None
            seen[where].append(update)
            if update.index == 3:
                return update.x * np.float32(0.5)
            if update.index == 6:
                raise Interrupt
            return None

        return on_step

    ours, expected = loops.device(steps, on_step=watch("device")), loops.host(unet, on_step=watch("host"))
    assert_same(ours, expected)
    assert len(seen["host"]) == len(seen["device"]) == 7
    for one, other in zip(seen["device"], seen["host"], strict=True):
        assert (one.index, one.level, one.next_level) == (other.index, other.level, other.next_level)
        assert_same(one.x, other.x)
        assert_same(one.denoised, other.denoised)


def test_noise_is_left_out_where_there_is_none(steps: OrtEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a device need not be given it; the state is what the engine gave, and no copy of it."""
    given: list[Mapping[str, Tensor]] = []
    results: list[Mapping[str, Tensor]] = []
    run = OrtEngine.run

    def watched(self: OrtEngine, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        given.append(inputs)
        results.append(run(self, inputs))
        return dict(results[-1])

    monkeypatch.setattr(OrtEngine, "run", watched)
    Loops("euler").device(steps)
    assert not any(NOISE in inputs for inputs in given)
    assert [inputs[STATE] is before["next_state"] for inputs, before in zip(given[1:], results, strict=False)] == [
        True
    ] * 3
    given.clear()
    Loops("euler_a").device(steps)
    assert [NOISE in inputs for inputs in given] == [True] * 4


def test_five_samplers_share_calls(unet: OrtEngine) -> None:
    """Requests of one line, at other steps, with other guidance and numbers of passes: each as it is alone."""
    wanted = [
        ("euler_a", "guided"),
        ("dpmpp_2m", "none"),
        ("heun", "rescaled"),
        ("unipc", "perturbed"),
        ("lcm", "edit"),
    ]
    runs = [Loops(name, kind, steps=4 + place) for place, (name, kind) in enumerate(wanted)]
    for loops in runs:
        loops.begin((1, *LATENTS))
    expected = [loops.host(unet) for loops in runs]
    engine, line = step_engine(tuple(range(1, 17))), Line(1)
    found: dict[int, Array] = {}
    holder = EngineCall(engine, {}, None, 1, engine.run)
    line.enter(holder)  # until all of them wait

    def draw(place: int) -> None:
        found[place] = runs[place].device(SharedEngine(engine, line, "steps"))

    threads = [Thread(target=draw, args=(place,)) for place in range(len(runs))]
    for thread in threads:
        thread.start()
    until(lambda: len(line._waiting) == len(runs))
    line.leave(holder)
    for thread in threads:
        thread.join()
    for place, array in enumerate(expected):
        assert_same(found[place], array)
    assert len(runs) in line.runs, "none was shared"


def test_what_a_step_has_no_place_for() -> None:
    """Runge-Kutta's first steps keep six vectors."""
    loops = Loops("pndm", steps=8, skip_prk_steps=False)
    assert not fits(trace(loops.schedule, loops.solver))
    assert fits(trace(Loops("pndm").schedule, Loops("pndm").solver))
