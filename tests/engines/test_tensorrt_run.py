"""The runner of TensorRT plans on a stand-in for the device: what it allocates, binds, records and gives back."""

import gc
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StandInDriver, StandInRuntimeCache, StandInRuntimeConfig, StandInTensorRT, StandInTensorRTRTX

from latentrt.engines.backends.tensorrt.run import TensorRTModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Profile, Shapes, profile_from_text
from latentrt.engines.spec import Array

PAIR, WIDE = Profile(width=32, height=32, batch=2), Profile(width=48, height=32)


def affine(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """A U-Net that depends on every element of every input."""
    context = inputs["encoder_hidden_states"].sum((1, 2))[:, None, None, None]
    return {"out_sample": inputs["sample"] * 2 + inputs["timestep"][:, None, None, None] + context}


@pytest.fixture
def unet(tiny_bundle: Path) -> Component:
    """The tiny U-Net: static shapes for 4 samples of 32×32 and for 2 of 48×32."""
    return Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")


Opened = Callable[..., tuple[TensorRTModel, StandInTensorRT]]


@pytest.fixture(params=[StandInTensorRT, StandInTensorRTRTX])
def opened(unet: Component, tmp_path: Path, request: pytest.FixtureRequest) -> Opened:
    """Opens a stand-in plan of the U-Net, with either module."""

    def open_plan(
        driver: StandInDriver | None = None, content: str = json.dumps("plan"), **attributes: object
    ) -> tuple[TensorRTModel, StandInTensorRT]:
        plan = tmp_path / "model.plan"
        plan.write_text(content)
        trt = request.param(driver or StandInDriver(), unet, affine)
        for name, value in attributes.items():
            setattr(trt, name, value)
        return TensorRTModel(trt, trt.driver, unet, plan, maker="TensorRT-RTX"), trt

    return open_plan


def inputs_for(model: TensorRTModel, profile: Profile, seed: int) -> dict[str, Array]:
    """Random inputs at a profile's one batch."""
    random = np.random.default_rng(seed)
    spec = model.engine(Shapes(profile=profile)).spec
    return {
        name: random.normal(size=tensor.sized(spec.batches[0])).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
    }


def test_every_run_computes_from_its_own_inputs(opened: Opened) -> None:
    """Warm-up, recording and replay give the same; profiles alternate; arrays handed out stay as they were."""
    model, _ = opened()
    kept = []
    for seed in range(4):
        for profile in (PAIR, WIDE):
            inputs = inputs_for(model, profile, seed)
            kept.append((model.engine(Shapes(profile=profile)).run(inputs)["out_sample"], affine(inputs)["out_sample"]))
    for got, expected in kept:
        np.testing.assert_array_equal(got, expected)
    model.close()


def test_a_run_is_recorded_behind_the_first_and_launched_from_then_on(opened: Opened) -> None:
    """Buffers and addresses are made once, pinned memory with the first run; a later one is two calls."""
    model, trt = opened()
    engine, inputs = model.engine(Shapes(profile=PAIR)), inputs_for(model, PAIR, 0)
    log = trt.driver.log
    bound = len(log)
    engine.run(inputs)
    run = ["copy_to_device"] * 3 + ["execute_async_v3", "copy_to_host"]
    first = [name for name in log[bound:] if name != "host_alloc"]
    assert first == [*run, "stream_synchronize", "begin_capture", *run, "end_capture"]
    assert log.count("host_alloc") == 4
    bound = len(log)
    for _ in range(3):
        model.engine(Shapes(profile=PAIR)).run(inputs)
    assert log[bound:] == ["launch", "stream_synchronize"] * 3
    assert log.count("set_tensor_address") == 4
    assert engine.graph_refused is None
    model.close()


def test_closing_gives_everything_back(opened: Opened) -> None:
    """Twice is as once; afterwards the model and its engines are refused."""
    model, trt = opened()
    for profile in (PAIR, WIDE):
        model.engine(Shapes(profile=profile)).run(inputs_for(model, profile, 1))
    assert trt.driver.live == {"device": 9, "pinned": 8, "stream": 1, "graph": 2}
    engine, inputs = model.engine(Shapes(profile=PAIR)), inputs_for(model, PAIR, 1)
    with engine as same:
        assert same is engine
    engine.close()
    model.close()
    assert not trt.driver.live
    gc.collect()
    assert trt.open_engines == 0
    for use in (lambda: engine.run(inputs), lambda: model.engine(Shapes(profile=PAIR))):
        with pytest.raises(EngineError, match="closed; open the bundle again"):
            use()


def test_whatever_fails_nothing_stays_allocated(opened: Opened) -> None:
    """Every call to the driver in turn, through opening, binding, three runs and closing."""
    reference = StandInDriver()
    model, _ = opened(reference)
    for _ in range(3):
        model.engine(Shapes(profile=PAIR)).run(inputs_for(model, PAIR, 2))
    calls = reference.log[:]
    freeing = {"free", "host_free", "stream_destroy", "graph_destroy"}
    assert not freeing & set(calls)
    refused = 0
    for place, name in enumerate(calls):
        if name in ("create_execution_context", "execute_async_v3") or name.startswith("set_"):
            continue  # TensorRT's, which answer False: below
        driver = StandInDriver(fail=place)
        model = None
        try:
            model, _ = opened(driver)
            for _ in range(3):
                inputs = inputs_for(model, PAIR, 2)
                np.testing.assert_array_equal(
                    model.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"], affine(inputs)["out_sample"]
                )
        except EngineError as error:
            refused += "a stand-in's failure" in str(error)
        if model is not None:
            model.close()
        assert not driver.live, (place, name)
    assert refused > 10
    model, _ = opened()
    model.close()


@pytest.mark.parametrize(
    "call",
    [
        "create_execution_context",
        "set_optimization_profile_async",
        "set_tensor_address",
        "set_input_shape",
        "execute_async_v3",
    ],
)
def test_what_tensorrt_refuses_is_said_and_given_back(opened: Opened, call: str) -> None:
    """A call that answers False; once it is mended, the same model runs."""
    model, trt = opened(refuse=call)
    before = trt.driver.live
    with pytest.raises(EngineError, match=r"TensorRT cannot (create|select|bind|size|run)"):
        model.engine(Shapes(profile=PAIR)).run(inputs_for(model, PAIR, 3))
    if call != "execute_async_v3":
        assert trt.driver.live == before
    trt.refuse = None
    inputs = inputs_for(model, PAIR, 3)
    np.testing.assert_array_equal(
        model.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"], affine(inputs)["out_sample"]
    )
    model.close()
    assert not trt.driver.live


@pytest.mark.parametrize("call", ["begin_capture", "execute_async_v3", "end_capture"])
def test_a_plan_that_cannot_be_recorded_runs_without(opened: Opened, call: str) -> None:
    """Right results, the reason kept, recording not tried again, and the stream usable."""
    model, trt = opened()
    inputs = inputs_for(model, PAIR, 4)
    engine, driver = model.engine(Shapes(profile=PAIR)), trt.driver
    offset = {"begin_capture": 10, "execute_async_v3": 14, "end_capture": 16}[call]
    if call == "execute_async_v3":
        begin = driver.begin_capture

        def refuse_from_here(stream: int) -> None:
            begin(stream)
            trt.refuse = call

        driver.begin_capture = refuse_from_here  # type: ignore[method-assign]
    else:
        driver.fail = len(driver.log) + offset
    first = engine.run(inputs)["out_sample"]
    trt.refuse, driver.fail = None, None
    assert engine.graph_refused is not None
    np.testing.assert_array_equal(first, affine(inputs)["out_sample"])
    np.testing.assert_array_equal(engine.run(inputs)["out_sample"], first)
    assert driver.log.count("begin_capture") == 1
    model.close()
    assert not driver.live


def test_an_interrupted_recording_is_ended(opened: Opened) -> None:
    """Ctrl-C between its begin and its end: the stream runs again, and the graph is made by the next run."""
    model, trt = opened()
    inputs = inputs_for(model, PAIR, 6)
    engine, driver = model.engine(Shapes(profile=PAIR)), trt.driver
    copy = driver.copy_to_device

    def interrupted(device: int, host: int, size: int, stream: int) -> None:
        if driver.recordings:
            raise KeyboardInterrupt
        copy(device, host, size, stream)

    driver.copy_to_device = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.run(inputs)
    driver.copy_to_device = copy  # type: ignore[method-assign]
    assert not driver.recordings
    for _ in range(2):
        np.testing.assert_array_equal(engine.run(inputs)["out_sample"], affine(inputs)["out_sample"])
    assert driver.log[-2:] == ["launch", "stream_synchronize"]
    model.close()
    assert not driver.live


def test_the_stand_in_is_configured_as_the_module_is() -> None:
    """Otherwise the branch of TensorRT-RTX would be tested on another module than it has."""
    trt = pytest.importorskip("tensorrt_rtx")
    module = StandInTensorRTRTX.__new__(StandInTensorRTRTX)
    for stand_in, real, own in (
        (StandInRuntimeConfig(module), trt.IRuntimeConfig, "allocation"),
        (StandInRuntimeCache(module), trt.IRuntimeCache, "kernels"),
    ):
        names = {name for name in {*vars(stand_in), *vars(type(stand_in))} if not name.startswith("_")}
        assert names - {own} <= set(dir(real))
    strategies = trt.DynamicShapesKernelSpecializationStrategy.__members__
    assert set(vars(StandInTensorRTRTX.DynamicShapesKernelSpecializationStrategy)) == set(strategies)


@pytest.mark.parametrize(
    ("free", "what"),
    [
        (3, r"the weights of unet needs 1 MB of device memory, 0 MB are free"),
        (2**21, r"a run of unet needs 3 MB of device memory, 2 MB are free"),
    ],
)
def test_memory_is_counted_before_it_is_taken(opened: Opened, free: int, what: str) -> None:
    """Weights, then scratch; nothing is allocated."""
    driver = StandInDriver(free=free)
    with pytest.raises(EngineError, match=what):
        opened(driver)
    assert set(driver.log) == {"free_memory"}


def test_buffers_are_counted_before_they_are_taken(opened: Opened) -> None:
    """The memory went elsewhere after the plan was opened."""
    model, trt = opened()
    trt.driver.free_bytes = 100
    before = trt.driver.live
    with pytest.raises(EngineError, match=r"unet's inputs and outputs needs 1 MB of device memory, 0 MB are free"):
        model.engine(Shapes(profile=PAIR))
    assert trt.driver.live == before
    model.close()


def test_threads_take_turns(opened: Opened) -> None:
    """Two threads, one plan: each gets the answers to its own inputs."""
    model, _ = opened()

    def work(thread: int) -> None:
        profile = (PAIR, WIDE)[thread % 2]
        for seed in range(30):
            inputs = inputs_for(model, profile, 100 * thread + seed)
            np.testing.assert_array_equal(
                model.engine(Shapes(profile=profile)).run(inputs)["out_sample"], affine(inputs)["out_sample"]
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    model.close()


@pytest.mark.parametrize("spoil", ["shape", "dtype", "batch", "name"])
def test_inputs_are_checked_before_they_are_copied(opened: Opened, spoil: str) -> None:
    """As on every backend; the one batch is named."""
    model, trt = opened()
    inputs = inputs_for(model, PAIR, 5)
    changes = {
        "shape": {"sample": inputs["sample"][..., :-1]},
        "dtype": {"sample": inputs["sample"].astype(np.float64)},
        "batch": {name: inputs[name][:3] for name in ("sample", "encoder_hidden_states")},
        "name": {"mask": inputs["sample"]},
    }
    before = len(trt.driver.log)
    with pytest.raises(RequestError, match="with batch one of 4; give exactly these"):
        model.engine(Shapes(profile=PAIR)).run({**inputs, **changes[spoil]})
    assert trt.driver.log[before:] == []
    model.close()


@pytest.mark.parametrize("size", ["64x64", "32x48", "32x32", "8x8"])
def test_a_size_that_was_not_compiled(opened: Opened, size: str) -> None:
    """The U-Net runs at its profiles alone."""
    model, _ = opened()
    with pytest.raises(RequestError, match=rf"{size}.*compiled for 32x32x2, 48x32; .*--profile {size}"):
        model.engine(Shapes(profile=profile_from_text(size)))
    model.close()


def test_a_prompt_of_more_chunks_than_compiled(opened: Opened) -> None:
    """Refused with what would run it."""
    model, _ = opened()
    with pytest.raises(RequestError, match=r"a prompt of 3 chunks.*compiled for prompts of one.*ort-cpu"):
        model.engine(Shapes(profile=PAIR, chunks=3))
    model.close()


@pytest.mark.parametrize(("size", "served"), [("16x16", 32), ("32x32", 32), ("40x8", 48), ("48x32", 48)])
def test_tiles_take_the_smallest_engine_that_holds_them(
    tiny_bundle: Path, tmp_path: Path, size: str, served: int
) -> None:
    """The autoencoder is asked for sizes that are no profile's."""
    decoder = Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="vae_decoder")
    plan = tmp_path / "model.plan"
    plan.write_text('"plan"')
    trt = StandInTensorRT(StandInDriver(), decoder, lambda inputs: {})
    model = TensorRTModel(trt, trt.driver, decoder, plan, maker="TensorRT")
    assert model.engine(Shapes(profile=profile_from_text(size))).spec.outputs["sample"].shape[3] == served
    with pytest.raises(RequestError, match="compiled for 32x32x2, 48x32"):
        model.engine(Shapes(profile=profile_from_text("56x32")))
    model.close()


def test_a_plan_that_cannot_be_opened(opened: Opened) -> None:
    """TensorRT answers None: the first error that it logged is the reason."""
    driver = StandInDriver()
    with pytest.raises(
        EngineError, match=r"TensorRT-RTX cannot open '.*model.plan': Magic tag does not match; build the engine again"
    ):
        opened(driver, content="no plan")
    assert not driver.live


def test_a_plan_of_other_shapes(opened: Opened) -> None:
    """Refused before anything is bound."""
    driver = StandInDriver()
    with pytest.raises(EngineError, match="other inputs, outputs or profiles than the bundle"):
        opened(driver, profiles_too_many=1)
    assert not driver.live
