"""Plans that take weights as inputs, on a stand-in for the device: what is bound, shared, copied and given back."""

import gc
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StandInDriver, StandInTensorRT, StandInTensorRTRTX

from latentrt.engines.backends.tensorrt import device_weights
from latentrt.engines.backends.tensorrt.run import ChangedModel, TensorRTModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array, TensorSpec

PAIR, WIDE = Profile(width=32, height=32, batch=2), Profile(width=48, height=32)
CONV, LINEAR, NORM = "conv_in.weight", "time_embedding.linear_1.weight", "conv_norm_out.bias"
TAKEN = 6  # weights that the stand-in plan takes, of the U-Net's 208


@pytest.fixture(params=[StandInTensorRT, StandInTensorRTRTX])
def trt_class(request: pytest.FixtureRequest) -> type[StandInTensorRT]:
    """Either module."""
    kind: type[StandInTensorRT] = request.param
    return kind


@pytest.fixture
def unet(tiny_bundle: Path) -> Component:
    """The tiny U-Net."""
    return Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")


@pytest.fixture
def weights(tiny_bundle: Path) -> ComponentWeights:
    """Its weights by name."""
    return open_bundle(tiny_bundle).weights("unet")


@pytest.fixture
def taken(weights: ComponentWeights) -> dict[str, TensorSpec]:
    """A few of them, as inputs of a plan."""
    places = weights.initializers
    first = [row.places[0].initializer for name, row in weights.named.weights.items() if name in (CONV, LINEAR, NORM)]
    names = list(dict.fromkeys([*filter(None, first), *places]))[:TAKEN]
    return {name: TensorSpec(shape=places[name].shape, dtype=np.dtype(places[name].dtype)) for name in names}


def computed(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """A U-Net that depends on every number of every weight."""
    total = inputs["sample"].astype(np.float64) + inputs["timestep"][:, None, None, None]
    for place, name in enumerate(sorted(inputs)):
        if name not in ("sample", "timestep", "encoder_hidden_states"):
            flat = inputs[name].astype(np.float64).ravel()
            total = total + (place + 1) * np.dot(flat, np.cos(np.arange(len(flat))))
    return {"out_sample": total.astype(np.float32)}


Opened = Callable[..., TensorRTModel]


@pytest.fixture
def opened(
    unet: Component, taken: dict[str, TensorSpec], trt_class: type[StandInTensorRT], tmp_path: Path
) -> Callable[..., tuple[TensorRTModel, StandInTensorRT]]:
    """Opens a stand-in plan that takes them."""

    def open_plan(driver: StandInDriver | None = None, **more: TensorSpec) -> tuple[TensorRTModel, StandInTensorRT]:
        plan = tmp_path / "model.plan"
        plan.write_text(json.dumps("plan"))
        trt = trt_class(driver or StandInDriver(), unet, computed, {**taken, **more})
        return TensorRTModel(trt, trt.driver, unet, plan, maker="TensorRT"), trt

    return open_plan


def random_inputs(model: TensorRTModel | ChangedModel, profile: Profile, seed: int) -> dict[str, Array]:
    """At a profile's one batch."""
    random = np.random.default_rng(seed)
    spec = model.engine(Shapes(profile=profile)).spec
    return {
        name: random.normal(size=tensor.sized(spec.batches[0])).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
    }


def run(model: TensorRTModel | ChangedModel, profile: Profile, seed: int) -> Array:
    """One call."""
    return model.engine(Shapes(profile=profile)).run(random_inputs(model, profile, seed))["out_sample"]


def changes(*names: str, factor: float = 2.0) -> Changes:
    """Weights times a factor."""
    return Changes(
        key=f"{names} {factor}", weights={name: lambda weight: weight * np.float32(factor) for name in names}
    )


def expected(
    model: TensorRTModel | ChangedModel,
    weights: ComponentWeights,
    taken: Mapping[str, TensorSpec],
    changed: Changes | None,
    profile: Profile,
    seed: int,
) -> Array:
    """What a call with the bundle's weights gives, some of them changed."""
    arrays = {name: np.array(weights.stored(weights.initializers[name])) for name in taken}
    for name, change in changed.weights.items() if changed else ():
        for place, content in weights.placed(name, change(np.asarray(weights.array(name), np.float32))):
            if place.initializer in arrays:
                arrays[str(place.initializer)] = content
    return computed({**random_inputs(model, profile, seed), **arrays})["out_sample"]


def test_weights_are_those_of_the_bundle(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copied piece by piece, once for all shapes, and never with a run."""
    monkeypatch.setattr(device_weights, "_PIECE", 100)  # no weight's size is a multiple of it
    model, trt = opened()
    copied = trt.driver.log.count("copy_to_device")
    assert copied > TAKEN
    assert trt.driver.live == {"device": TAKEN + 1, "stream": 1}
    for seed, profile in enumerate((PAIR, WIDE, PAIR)):
        np.testing.assert_array_equal(run(model, profile, seed), expected(model, weights, taken, None, profile, seed))
    assert trt.driver.log.count("copy_to_device") == copied + 4 * 3  # two runs and two recordings
    assert model.own_bytes == 0
    model.close()
    assert not trt.driver.live


def test_sets_of_weights_beside_each_other(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
) -> None:
    """Each has its own numbers, base among them, whatever ran in between; A, B, A is A."""
    model, trt = opened()
    base = run(model, PAIR, 0)
    sets = (None, changes(CONV), changes(CONV, LINEAR, NORM, factor=0.5))
    models = [model if one is None else model.changed(weights, one) for one in sets]
    for seed, index in enumerate((1, 2, 1, 0, 2, 0, 1)):
        for profile in (PAIR, WIDE):
            np.testing.assert_array_equal(
                run(models[index], profile, seed), expected(models[index], weights, taken, sets[index], profile, seed)
            )
    again = model.changed(weights, changes(CONV))
    np.testing.assert_array_equal(run(again, PAIR, 0), run(models[1], PAIR, 0))
    np.testing.assert_array_equal(run(model, PAIR, 0), base)
    assert len(trt.kernel_caches) == (1 if trt.rtx else 0)  # compiled once for all contexts
    model.close()
    assert not trt.driver.live


def test_what_is_shared_and_what_is_not(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]], weights: ComponentWeights
) -> None:
    """A set takes the memory of what it touches; closing it, once or twice, frees that alone."""
    model, trt = opened()
    run(model, PAIR, 0)
    before = trt.driver.live
    changed = model.changed(weights, changes(CONV, NORM))
    assert changed.own_bytes == weights.array(CONV).nbytes + weights.array(NORM).nbytes
    assert trt.driver.live == before + type(before)({"device": 2})
    run(changed, PAIR, 0)
    assert trt.driver.live == before + type(before)({"device": 2 + 4, "pinned": 4, "graph": 1})
    assert changed.own_bytes > weights.array(CONV).nbytes + weights.array(NORM).nbytes
    engine, inputs = changed.engine(Shapes(profile=PAIR)), random_inputs(changed, PAIR, 0)
    changed.close()
    changed.close()
    assert trt.driver.live == before
    for use in (lambda: engine.run(inputs), lambda: changed.engine(Shapes(profile=PAIR))):
        with pytest.raises(EngineError, match="closed; open the bundle again"):
            use()
    run(model, PAIR, 1)
    model.close()


def test_plans_of_one_component_share_its_weights(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
) -> None:
    """The bundle's, and those of a set of LoRAs; the second plan goes on when the first is closed."""
    plain, trt = opened()
    alone, change = trt.driver.live, changes(CONV, NORM)
    variant, _ = opened(trt.driver)
    assert trt.driver.live == alone + type(alone)({"device": 1, "stream": 1})  # scratch memory
    first, second = plain.changed(weights, change), variant.changed(weights, change)
    assert trt.driver.live["device"] == alone["device"] + 1 + 2
    assert first.own_bytes == weights.array(CONV).nbytes + weights.array(NORM).nbytes
    assert second.own_bytes == 0
    plain.close()
    for one, changed in ((variant, None), (second, change)):
        np.testing.assert_array_equal(run(one, WIDE, 1), expected(one, weights, taken, changed, WIDE, 1))
    variant.close()
    assert not trt.driver.live
    other, one = opened()
    another, two = opened()  # another device
    assert one.driver.live == two.driver.live == alone
    other.close()
    another.close()


def test_a_set_that_nobody_has_any_more_frees_itself(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
) -> None:
    """Put out of a cache, it goes on for the calls that have it; a plan goes likewise."""
    model, trt = opened()
    before, change = trt.driver.live, changes(CONV)
    engine = model.changed(weights, change).engine(Shapes(profile=WIDE))
    inputs = random_inputs(model, WIDE, 0)
    run(model, WIDE, 0)
    for _ in range(2):
        result = engine.run(inputs)["out_sample"]
        np.testing.assert_array_equal(result, expected(model, weights, taken, change, WIDE, 0))
    without = trt.driver.live - type(before)({"device": 5, "pinned": 4, "graph": 1})
    del engine
    assert trt.driver.live == without
    run(model, WIDE, 1)
    del model
    assert not trt.driver.live


def test_closing_the_plan_closes_what_shares_it(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]], weights: ComponentWeights
) -> None:
    """In whichever order, nothing is left, and nothing runs on memory that was freed."""
    model, trt = opened()
    changed = model.changed(weights, changes(CONV))
    engine, inputs = changed.engine(Shapes(profile=WIDE)), random_inputs(changed, WIDE, 0)
    engine.run(inputs)
    model.close()
    changed.close()
    assert not trt.driver.live
    gc.collect()
    assert trt.open_engines == 0
    for use in (lambda: engine.run(inputs), lambda: model.changed(weights, changes(CONV))):
        with pytest.raises(EngineError, match="closed; open the bundle again"):
            use()


def test_whatever_fails_nothing_of_a_set_stays(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
) -> None:
    """Every call to the driver in turn, as the plan is opened and as weights change; what was open goes on."""
    reference = StandInDriver()
    model, _ = opened(reference)
    opening = len(reference.log)
    changed = model.changed(weights, changes(CONV, LINEAR))
    calls = len(reference.log)
    changed.close()
    for place, name in enumerate(reference.log[:calls]):
        if name in ("stream_destroy", "host_free"):
            continue  # what CUDA does not take back stays
        driver = StandInDriver(fail=place)
        if place < opening:
            with pytest.raises(EngineError, match="a stand-in's failure"):
                opened(driver)
            assert not driver.live, place
            continue
        model, _ = opened(driver)
        before = driver.live
        with pytest.raises(EngineError, match="a stand-in's failure"):
            model.changed(weights, changes(CONV, LINEAR))
        driver.fail = None
        assert driver.live - before == {}, place
        np.testing.assert_array_equal(run(model, WIDE, 1), expected(model, weights, taken, None, WIDE, 1))
        model.close()
        assert not driver.live, place


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (changes("conv_inn.weight"), RequestError, "unet has no weight 'conv_inn.weight'"),
        (changes(CONV, factor=float("nan")), RequestError, f"got numbers up to nan for unet's weight '{CONV}'"),
        (
            Changes(key="x", weights={CONV: lambda weight: weight[:1]}),
            RequestError,
            rf"got \(1, .*for unet's weight '{CONV}', expected",
        ),
        (changes("up_blocks.0.resnets.0.conv1.weight"), EngineError, "does not take .* as an input; .*--lora-ready"),
    ],
)
def test_weights_that_cannot_be_taken(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    change: Changes,
    error: type[Exception],
    words: str,
) -> None:
    """Said in one sentence, also behind weights that could; nothing stays."""
    model, trt = opened()
    before = trt.driver.live
    with pytest.raises(error, match=words):
        model.changed(weights, Changes(key="y", weights={**changes(NORM).weights, **change.weights}))
    assert trt.driver.live == before
    model.close()


def test_memory_is_counted_before_weights_take_it(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]], weights: ComponentWeights
) -> None:
    """In MB; the base stays open."""
    model, trt = opened()
    before, trt.driver.free_bytes = trt.driver.live, 100
    with pytest.raises(EngineError, match=r"a weight of unet needs 1 MB of device memory, 0 MB are free"):
        model.changed(weights, changes(CONV))
    assert trt.driver.live == before
    model.close()


def test_a_plan_that_takes_what_the_bundle_does_not_have(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
) -> None:
    """It is another bundle's."""
    driver = StandInDriver()
    with pytest.raises(EngineError, match=r"the plan of unet has other inputs than the bundle, such as conv_out_of"):
        opened(driver, conv_out_of=TensorSpec(shape=(1,), dtype=np.dtype(np.float32)))
    assert not driver.live


def test_a_plan_of_constants_gives_no_other_weights(
    unet: Component, weights: ComponentWeights, trt_class: type[StandInTensorRT], tmp_path: Path
) -> None:
    """Where nobody can compile another one."""
    (tmp_path / "model.plan").write_text("1")
    trt = trt_class(StandInDriver(), unet, computed)
    model = TensorRTModel(trt, trt.driver, unet, tmp_path / "model.plan", maker="TensorRT")
    with pytest.raises(EngineError, match=r"the engine of unet takes no other weights; .*--lora-ready"):
        model.changed(weights, changes(CONV))
    model.close()


def test_threads_take_turns(
    opened: Callable[..., tuple[TensorRTModel, StandInTensorRT]],
    weights: ComponentWeights,
    taken: dict[str, TensorSpec],
) -> None:
    """On one plan, with sets that come and go meanwhile."""
    model, trt = opened()

    def work(thread: int) -> None:
        factor = 1.0 + thread
        for seed in range(8):
            change = changes(CONV, factor=factor) if thread else None
            one = model if change is None else model.changed(weights, change)
            np.testing.assert_array_equal(run(one, PAIR, seed), expected(one, weights, taken, change, PAIR, seed))
            if change is not None:
                one.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    model.close()
    assert not trt.driver.live
