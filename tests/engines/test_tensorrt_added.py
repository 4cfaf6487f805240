"""Plans that take added inputs, and results that stay on the device, on a stand-in for it: what is copied, and when."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StandInDriver, StandInTensorRT, StandInTensorRTRTX

from latentrt.engines.backends.tensorrt.run import TensorRTModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.component import ComponentRecord, TensorRecord
from latentrt.engines.bundle.unet.added_inputs import (
    FIXED_IMAGE_TOKENS,
    KEYS,
    MID_RESIDUAL,
    SCALES,
    VALUES,
    added_inputs,
    image_prompt_mask,
)
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array, EngineSpec, Tensor

PAIR = Profile(width=32, height=32, batch=2)
BATCH = 4
CONTROL = Shapes(profile=PAIR, added=frozenset({AddedInputs.CONTROL}))
PROMPTS = Shapes(
    profile=PAIR, added=frozenset({AddedInputs.IMAGE_PROMPT}), image_prompts=2, image_tokens=FIXED_IMAGE_TOKENS
)
ALL = frozenset(AddedInputs)

Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@pytest.fixture
def unet(tiny_bundle: Path) -> Component:
    """The tiny U-Net, with all added inputs."""
    return Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet", added=ALL)


@pytest.fixture
def net(unet: Component) -> Component:
    """A component that makes the U-Net's residuals of its sample."""
    residuals = added_inputs(unet.structure, CONTROL, unet.manifest.latents.size(PAIR))
    sample = unet.record.inputs["sample"]
    record = ComponentRecord.model_construct(
        kind=ComponentKind.CONTROL,
        onnx=unet.record.onnx,  # another graph's, which nobody reads
        weights=unet.record.weights,
        inputs={"sample": sample},
        outputs={
            name: TensorRecord(shape=tensor.shape, dtype="float32")
            for name, tensor in residuals.items()
            if "residual" in name
        },
        batch_per_picture=2,
    )
    manifest = unet.manifest.model_copy(update={"components": {"control": record}, "profiles": (PAIR,)})
    return Component(root=unet.root, manifest=manifest, name="control")


class Device:
    """A stand-in device, plans that are opened on it, and what the U-Net's plan was given."""

    def __init__(self, folder: Path, module: type[StandInTensorRT]) -> None:
        self.driver = StandInDriver()
        self.seen: list[Mapping[str, Array]] = []
        self._folder, self._module = folder, module

    def open(self, component: Component, compute: Compute | None = None) -> TensorRTModel:
        """A plan of a component."""
        plan = self._folder / "model.plan"
        plan.write_text(json.dumps("plan"))
        trt = self._module(self.driver, component, compute or self._noted)
        return TensorRTModel(trt, self.driver, component, plan, maker="TensorRT")

    def _noted(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.seen.append(inputs)
        total = sum(array.astype(np.float64).sum() for name, array in inputs.items() if name != "sample")
        return {"out_sample": inputs["sample"] + np.float32(total)}

    def since(self, place: int) -> Counter[str]:
        """Which calls there were behind a place of the log."""
        return Counter(self.driver.log[place:])


@pytest.fixture(params=[StandInTensorRT, StandInTensorRTRTX])
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Device:
    """With either module."""
    return Device(tmp_path, request.param)


def residuals_of(inputs: Mapping[str, Array], net: Component) -> Mapping[str, Array]:
    """What the stand-in net computes: every output distinct, and dependent on the sample."""
    outputs = net.static_shapes[0].spec.outputs
    mean = inputs["sample"].mean((1, 2, 3))[:, None, None, None]
    return {
        name: np.broadcast_to(mean + place, tensor.sized(BATCH)).astype(np.float32)
        for place, (name, tensor) in enumerate(outputs.items())
    }


def own_inputs(spec: EngineSpec, seed: int = 0) -> dict[str, Tensor]:
    """Random ones for all that may not be left out."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=tensor.sized(BATCH)).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
        if tensor.neutral is None
    }


def given(spec: EngineSpec, seed: int = 1) -> dict[str, Tensor]:
    """Random ones for all that may be left out."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=tensor.sized(BATCH)).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
        if tensor.neutral is not None
    }


def test_what_a_call_leaves_out_is_neutral(device: Device, unet: Component) -> None:
    """Before it was ever given, behind runs that gave it in each way, and with graphs that are replayed."""
    model = device.open(unet)
    engine = model.engine(replace(PROMPTS, added=ALL))
    own, more = own_inputs(engine.spec), given(engine.spec)
    fixed = {name: np.array(array) for name, array in more.items()}
    for array in fixed.values():
        array.flags.writeable = False
    for call in ({}, more, {}, {}, fixed, {}, {MID_RESIDUAL: more[MID_RESIDUAL]}, {}, more, {}):
        engine.run({**own, **call})
        for name, tensor in engine.spec.inputs.items():
            expected = {**own, **call}.get(name, np.full(tensor.sized(BATCH), tensor.neutral, tensor.dtype))
            np.testing.assert_array_equal(device.seen[-1][name], expected)
    assert engine.spec.inputs[image_prompt_mask(0)].neutral == 1.0
    begin = len(device.driver.log)
    engine.run(own)
    assert device.since(begin) == {"launch": 1, "stream_synchronize": 1}
    model.close()
    assert not device.driver.live


def test_fewer_image_prompts_of_fewer_tokens(device: Device, unet: Component) -> None:
    """Tokens are repeated, which a softmax does not see; prompts that are not given are neutral."""
    model = device.open(unet)
    engine = model.engine(replace(PROMPTS, image_prompts=1, image_tokens=4))
    own, more = own_inputs(engine.spec), given(engine.spec)
    assert {more[name].shape[1] for name in more} == {1}
    assert more[KEYS].shape[2] == 4
    engine.run({**own, **more})
    (seen,) = device.seen
    for name in (KEYS, VALUES):
        np.testing.assert_array_equal(seen[name][:, :1], np.tile(more[name], (1, 1, FIXED_IMAGE_TOKENS // 4, 1)))
        assert not seen[name][:, 1:].any()
    np.testing.assert_array_equal(seen[SCALES][:, :1], more[SCALES])
    assert not seen[SCALES][:, 1:].any()
    mask = image_prompt_mask(0)
    np.testing.assert_array_equal(seen[mask][:, :1], more[mask])
    assert (seen[mask][:, 1:] == 1.0).all()
    model.close()


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (replace(PROMPTS, image_prompts=3), r"got 3 image prompts at once, .* compiled for 2; .*ort-cpu"),
        (replace(PROMPTS, image_tokens=257), r"image prompts of 257 tokens, .* compiled for 16, .*ort-cpu"),
        (replace(PROMPTS, image_tokens=32), r"image prompts of 32 tokens"),
    ],
)
def test_image_prompts_that_were_not_compiled(device: Device, unet: Component, shapes: Shapes, said: str) -> None:
    """Refused with what would run them."""
    model = device.open(unet)
    with pytest.raises(RequestError, match=said):
        model.engine(shapes)
    model.close()


def test_a_plan_that_takes_none(device: Device, unet: Component) -> None:
    """The plain one; and the one with all lets a call give what it asked for alone."""
    plain = device.open(replace(unet, added=frozenset()))
    with pytest.raises(EngineError, match=r"adds control, but the engine of unet was not compiled.*--with control"):
        plain.engine(CONTROL)
    model = device.open(unet)
    engine = model.engine(CONTROL)
    assert KEYS not in engine.spec.inputs
    assert MID_RESIDUAL in engine.spec.inputs
    assert set(model.engine(Shapes(profile=PAIR)).spec.inputs) == {"sample", "timestep", "encoder_hidden_states"}
    with pytest.raises(RequestError, match="give exactly these"):
        engine.run({**own_inputs(engine.spec), **given(model.engine(PROMPTS).spec)})
    plain.close()
    model.close()


def test_residuals_stay_on_the_device(device: Device, unet: Component, net: Component) -> None:
    """From the net's plan to the U-Net's: copied there alone, launched as graphs, and complete when they are taken."""
    nets, unets = device.open(net, lambda inputs: residuals_of(inputs, net)), device.open(unet)
    control, engine = nets.engine(Shapes(profile=PAIR)), unets.engine(CONTROL)
    count = len(net.record.outputs)
    for step in range(4):
        begin = len(device.driver.log)
        sample = own_inputs(control.spec, seed=step)
        residuals = control.run_kept(sample)
        own = own_inputs(engine.spec, seed=step)
        result = engine.run({**own, **residuals})["out_sample"]
        calls = device.since(begin)
        expected = residuals_of(sample, net)
        for name in expected:
            np.testing.assert_array_equal(device.seen[-1][name], expected[name])
        total = sum(device.seen[-1][name].astype(np.float64).sum() for name in device.seen[-1] if name != "sample")
        np.testing.assert_array_equal(result, own["sample"] + np.float32(total))
        if step > 1:  # recorded are the copies of the net's sample, of the U-Net's inputs and of its result
            assert calls == {"launch": 2, "copy_on_device": 2 * count, "stream_synchronize": 2}
    assert engine.graph_refused is None  # type: ignore[attr-defined]
    del residuals
    nets.close()
    unets.close()
    assert not device.driver.live


def test_nothing_passes_the_host_but_what_comes_from_there(device: Device, unet: Component, net: Component) -> None:
    """Counted in bytes, of the runs that are not recorded yet: a net's outputs have no pinned memory at all."""
    nets, unets = device.open(net, lambda inputs: residuals_of(inputs, net)), device.open(unet)
    control, engine = nets.engine(Shapes(profile=PAIR)), unets.engine(CONTROL)
    driver, passed = device.driver, []
    for name in ("copy_to_device", "copy_to_host"):

        def copy(*arguments: int, real: Callable[..., None] = getattr(driver, name)) -> None:
            passed.append(arguments[2])
            real(*arguments)

        setattr(driver, name, copy)
    sample, own = own_inputs(control.spec), own_inputs(engine.spec)
    residuals = control.run_kept(sample)
    unets.engine(CONTROL)
    passed_by_net = sum(passed)
    engine.run({**own, **residuals})
    sizes = [array.nbytes for array in (*sample.values(), *own.values())]  # type: ignore[union-attr]
    result = int(np.prod(engine.spec.outputs["out_sample"].sized(BATCH))) * 4
    masks = sum(
        int(np.prod(tensor.sized(BATCH))) * 4 for tensor in unet.static_shapes[0].spec.inputs.values() if tensor.neutral
    )
    assert passed_by_net == 2 * sizes[0]  # run, and recorded
    assert sum(passed) - passed_by_net == 2 * (sum(sizes[1:]) + result) + masks
    assert driver.live["pinned"] == 1 + 3 + 1 + sum(
        bool(tensor.neutral) for tensor in unet.static_shapes[0].spec.inputs.values()
    )
    del residuals
    nets.close()
    unets.close()


def test_results_that_are_held_stay_as_they_are(device: Device, net: Component) -> None:
    """Further runs write elsewhere; memory is used again once nobody has it, and given back when all is closed."""
    model = device.open(net, lambda inputs: residuals_of(inputs, net))
    control = model.engine(Shapes(profile=PAIR))
    samples = [own_inputs(control.spec, seed) for seed in range(3)]
    held = [control.run_kept(sample) for sample in samples]
    for sample, results in zip(samples, held, strict=True):
        for name, expected in residuals_of(sample, net).items():  # type: ignore[arg-type]
            tensor = results[name]
            np.testing.assert_array_equal(tensor.numpy(), expected)  # type: ignore[union-attr]
            assert (tensor.shape, tensor.dtype, tensor.ndim) == (expected.shape, expected.dtype, 4)
    live = device.driver.live["device"]
    del held[1:], results, tensor
    for sample in samples:
        control.run_kept(sample)
    assert device.driver.live["device"] == live
    model.close()
    assert device.driver.live == {"device": 1}  # what is still held
    name, expected = next(iter(residuals_of(samples[0], net).items()))  # type: ignore[arg-type]
    np.testing.assert_array_equal(held[0][name].numpy(), expected)  # type: ignore[union-attr]
    held.clear()
    assert not device.driver.live


def test_what_cannot_change_is_copied_once(device: Device, unet: Component, net: Component) -> None:
    """An array that cannot be written to, and one on the device; another in its place is copied."""
    nets, unets = device.open(net, lambda inputs: residuals_of(inputs, net)), device.open(unet)
    control, engine = nets.engine(Shapes(profile=PAIR)), unets.engine(replace(PROMPTS, added=ALL))
    residuals = control.run_kept(own_inputs(control.spec))
    keys = [np.array(given(engine.spec, seed)[KEYS]) for seed in range(2)]
    for array in keys:
        array.flags.writeable = False
    view = keys[0][:]  # whose owner may be another's
    calls: list[tuple[dict[str, Tensor], int, int]] = [
        ({KEYS: keys[0], **residuals}, 1, len(residuals)),
        ({KEYS: keys[0], **residuals}, 0, 0),
        ({KEYS: keys[1], **residuals}, 1, 0),
        ({KEYS: keys[0]}, 1, 0),
    ]
    own = own_inputs(engine.spec)
    engine.run({**own, **calls[0][0]})
    engine.run(own)
    for call, uploaded, on_device in calls:
        begin = len(device.driver.log)
        engine.run({**own, **call})
        counts = device.since(begin)
        assert (counts["copy_to_device"], counts["copy_on_device"], counts["launch"]) == (uploaded, on_device, 1)
        np.testing.assert_array_equal(device.seen[-1][KEYS], call[KEYS])
    for _ in range(2):
        begin = len(device.driver.log)
        engine.run({**own, KEYS: view})
    assert device.since(begin)["launch"] == 1
    np.testing.assert_array_equal(device.seen[-1][KEYS], view)
    del residuals, calls, call
    nets.close()
    unets.close()
    assert not device.driver.live


def test_whatever_fails_the_next_run_is_right(unet: Component, net: Component, tmp_path: Path) -> None:
    """Every call to the driver of two steps in turn: the sentence, and then a run that is neutral where it must be."""
    places = 0
    for place in range(10_000):
        device = Device(tmp_path, StandInTensorRT)
        nets, unets = device.open(net, lambda inputs: residuals_of(inputs, net)), device.open(unet)
        control, engine = nets.engine(Shapes(profile=PAIR)), unets.engine(CONTROL)
        own, driver = own_inputs(engine.spec), device.driver
        driver.fail = len(driver.log) + 5 * place
        with suppress(EngineError):
            for sample in (own_inputs(control.spec, 1), own_inputs(control.spec, 2)):
                engine.run({**own, **control.run_kept(sample)})
                engine.run(own)
        ended = driver.fail >= len(driver.log)
        driver.fail = None
        engine.run(own)
        assert not device.seen[-1][MID_RESIDUAL].any()
        nets.close()
        unets.close()
        assert not driver.live, place
        places += 1
        if ended:
            break
    assert places > 10


def test_arrays_of_another_device(device: Device, unet: Component, net: Component) -> None:
    """They come through the host: right, if slow."""
    other = Device(device._folder, StandInTensorRT)
    nets, unets = other.open(net, lambda inputs: residuals_of(inputs, net)), device.open(unet)
    control, engine = nets.engine(Shapes(profile=PAIR)), unets.engine(CONTROL)
    sample = own_inputs(control.spec)
    engine.run({**own_inputs(engine.spec), **control.run_kept(sample)})
    for name, expected in residuals_of(sample, net).items():  # type: ignore[arg-type]
        np.testing.assert_array_equal(device.seen[-1][name], expected)
    assert not device.since(0)["copy_on_device"]
    nets.close()
    unets.close()
