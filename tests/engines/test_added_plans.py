"""Engines of a U-Net with added inputs beside the plain one: built, found, opened on demand; really built, too."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInRTX

import latentrt
from latentrt.describing import describe
from latentrt.engines.backends.compiler import Target, WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import EngineManifest
from latentrt.engines.bundle.unet.added_inputs import FIXED_IMAGE_TOKENS, KEYS, MID_RESIDUAL
from latentrt.engines.changes import Changes
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array, EngineSpec
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in
from latentrt.quantization.settings import Effort
from latentrt.verifying import verify

PAIR = Shapes(profile=Profile(width=32, height=32, batch=2))
CONTROL, IMAGE_PROMPT = frozenset({AddedInputs.CONTROL}), frozenset({AddedInputs.IMAGE_PROMPT})
ALL = frozenset(AddedInputs)


def with_added(added: frozenset[AddedInputs]) -> Shapes:
    """What an engine is opened for."""
    return replace(PAIR, added=added, image_prompts=2, image_tokens=FIXED_IMAGE_TOKENS)


def inputs_of(spec: EngineSpec, *, given: bool = True) -> dict[str, Array]:
    """Random ones for a whole batch, with those that may be left out or without."""
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=tensor.sized(spec.batches[-1])).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
        if given or tensor.neutral is None
    }


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> StandInRTX:
    """A machine with a GPU: TensorRT-RTX on the stand-in device, for everything."""
    compiler = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, compiler)
    return compiler


@pytest.fixture
def bundle(tiny_copy: Path, rtx: StandInRTX) -> Path:
    """The tiny bundle with plain plans, and a U-Net's with control inputs."""
    assert not latentrt.build(tiny_copy, backend="tensorrt-rtx", added="control").up_to_date
    return tiny_copy


def plans_of(root: Path) -> dict[str, EngineManifest]:
    """The U-Net's, by what is added."""
    engines = [e for e in engines_in(root) if (e.component, e.backend) == ("unet", Backend.TENSORRT_RTX)]
    return {engine.flags.get("added", ""): engine for engine in engines}


def opened(root: Path, backend: Backend = Backend.TENSORRT_RTX) -> OpenComponents[Any]:
    """Its components."""
    return OpenComponents(open_bundle(root), backend, threads=1)


def test_a_second_plan_is_built_and_listed(bundle: Path, command: Callable[..., Any]) -> None:
    """Of the U-Net alone; it passed the gate with nothing added. Each combination is one more."""
    plans = plans_of(bundle)
    assert set(plans) == {"", "control"}
    assert plans["control"].parity == plans[""].parity is not None
    assert sum(engine.backend == Backend.TENSORRT_RTX for engine in engines_in(bundle)) == 5
    contents = plans["control"].contents
    assert contents is not None
    assert {MID_RESIDUAL, "down_residual_0", "feature_0"} <= contents.shapes[0].inputs.keys()
    for added in ((), "control", ["control"], [AddedInputs.CONTROL]):
        assert latentrt.build(bundle, backend="tensorrt-rtx", added=added).up_to_date
    assert not latentrt.build(bundle, backend="tensorrt-rtx", added=["image-prompt", "control"]).up_to_date
    assert set(plans_of(bundle)) == {"", "control", "control,image-prompt"}
    assert plans_of(bundle)["control,image-prompt"].flags["image_prompts"] == f"2x{FIXED_IMAGE_TOKENS}"
    shown = " ".join(command("inspect", bundle).stdout.split())
    assert "tensorrt-rtx sm89, with control " in shown
    assert "with control and image-prompt" in shown
    described = [engine for engine in describe(bundle)["engines"] if engine["added"]]
    assert sorted(engine["added"] for engine in described) == [["control"], ["control", "image-prompt"]]
    assert all(engine["fits_this_machine"] for engine in described)


def test_it_is_opened_when_a_call_needs_it(bundle: Path, rtx: StandInRTX) -> None:
    """Beside the plain one, which calls that add nothing go on with. Neutral, it gives the same; fed, what CPUs do."""
    components, cpu = opened(bundle), opened(bundle, Backend.ORT_CPU)
    plans = len(rtx.modules)
    plain = components.engine("unet", PAIR)
    shapes = with_added(CONTROL)
    assert len(rtx.modules) == plans
    engine = components.engine("unet", shapes)
    assert len(rtx.modules) == plans + 1
    assert components.engine("unet", shapes).spec == engine.spec
    assert len(rtx.modules) == plans + 1
    inputs = inputs_of(engine.spec)
    own = {name: inputs[name] for name in plain.spec.inputs}
    fed, neutral = engine.run(inputs)["out_sample"], engine.run(own)["out_sample"]
    np.testing.assert_array_equal(neutral, plain.run(own)["out_sample"])
    expected = cpu.engine("unet", shapes).run(inputs)["out_sample"]
    np.testing.assert_allclose(fed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(fed - neutral).max() > 0.1 * np.abs(expected).max()
    components.close()
    cpu.close()
    assert not rtx.driver.live


def test_the_smallest_that_holds_what_is_asked(bundle: Path, rtx: StandInRTX) -> None:
    """Control and image prompts by the plan of both, control alone by its own; perturbed attention by none of them."""
    latentrt.build(bundle, backend="tensorrt-rtx", added="control,image-prompt")
    components = opened(bundle)
    for added, label in ((CONTROL, "unet with control"), (IMAGE_PROMPT, "unet with control,image-prompt")):
        engine = components.engine("unet", with_added(added))
        assert (MID_RESIDUAL in engine.spec.inputs, KEYS in engine.spec.inputs) == (
            AddedInputs.CONTROL in added,
            AddedInputs.IMAGE_PROMPT in added,
        )
        assert label in rtx.components
    assert "unet with image-prompt" not in rtx.components
    with pytest.raises(latentrt.EngineError, match=r"--with perturbed-attention$"):
        components.engine("unet", with_added(frozenset({AddedInputs.PERTURBED_ATTENTION})))
    components.close()


def test_where_there_is_none(bundle: Path) -> None:
    """Said with what makes one; it is found as soon as it is there, by the same open bundle."""
    components = opened(bundle)
    for added, text in ((IMAGE_PROMPT, "image-prompt"), (CONTROL | IMAGE_PROMPT, "control,image-prompt")):
        said = (
            rf"has no tensorrt-rtx engine of unet with {text}; .*latentrt build .*--backend tensorrt-rtx --with {text}$"
        )
        with pytest.raises(latentrt.EngineError, match=said):
            components.engine("unet", with_added(added))
    latentrt.build(bundle, backend="tensorrt-rtx", added="image-prompt")
    components.engine("unet", with_added(IMAGE_PROMPT))
    with pytest.raises(latentrt.EngineError, match=r"--with control,image-prompt$"):
        components.engine("unet", with_added(CONTROL | IMAGE_PROMPT))
    components.close()


def test_where_plans_take_weights_the_next_one_does(tiny_copy: Path, rtx: StandInRTX) -> None:
    """Else what is named would build a plain one, too."""
    latentrt.build(tiny_copy, backend="tensorrt-rtx", lora_ready=True)
    components = opened(tiny_copy)
    with pytest.raises(latentrt.EngineError, match=r"--backend tensorrt-rtx --lora-ready --with control$"):
        components.engine("unet", with_added(CONTROL))
    components.close()


@pytest.mark.parametrize("lora_ready", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_together_with_changed_weights(tiny_copy: Path, rtx: StandInRTX, lora_ready: bool) -> None:
    """LoRA-ready plans take both; else one is built of the set. As CPUs compute it."""
    latentrt.build(tiny_copy, backend="tensorrt-rtx", lora_ready=lora_ready, added="control")
    components, cpu = opened(tiny_copy), opened(tiny_copy, Backend.ORT_CPU)
    shapes = with_added(CONTROL)
    changes = Changes(key="x", weights={"conv_in.weight": lambda weight: weight * np.float32(1.5)})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        engine = components.engine("unet", shapes, changes)
    assert len(told) == (not lora_ready)
    inputs = inputs_of(engine.spec)
    expected = cpu.engine("unet", shapes, changes).run(inputs)["out_sample"]
    for one, close in ((engine, True), (components.engine("unet", shapes), False)):
        error = np.abs(one.run(inputs)["out_sample"] - expected).max()
        assert (error < 1e-4 * np.abs(expected).max()) == close
    own = inputs_of(engine.spec, given=False)
    plain = components.engine("unet", PAIR).run(own)["out_sample"]
    np.testing.assert_array_equal(components.engine("unet", shapes).run(own)["out_sample"], plain)
    flags = {(plan.flags.get("added"), plan.flags.get("weights")) for plan in engines_in(tiny_copy)}
    assert ("control", "inputs" if lora_ready else None) in flags
    components.close()
    cpu.close()
    assert not rtx.driver.live


def test_all_of_them_are_verified(bundle: Path) -> None:
    """With what is recorded: nothing added."""
    figures = verify(bundle, backend="tensorrt-rtx")
    assert figures["unet with control"] == figures["unet"]
    assert len(figures) == 5


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cuda"])
def test_other_backends_take_them_as_they_are(tiny_copy: Path, backend: str) -> None:
    """Said before anything is built."""
    with pytest.raises(
        latentrt.RequestError, match=f"got added inputs control for backend {backend}, whose engines take them"
    ):
        latentrt.build(tiny_copy, backend=backend, added="control")


def test_unknown_inputs(tiny_copy: Path, rtx: StandInRTX, command: Callable[..., Any]) -> None:
    """Named, with those that there are."""
    ran = command("build", tiny_copy, "--backend", "tensorrt-rtx", "--with", "control,depth")
    assert ran.status != 0
    assert "got added input 'depth', expected one of control, image-prompt, perturbed-attention, freeu" in " ".join(
        ran.stderr.split()
    )


class TestReallyBuilt:
    """By TensorRT-RTX, for a GPU that is not here."""

    @pytest.mark.parametrize(
        ("root", "added"),
        [
            ("tiny_bundle", ALL),
            *[
                pytest.param(root, added, marks=pytest.mark.slow)
                for root in ("half_bundle", "sdxl", "sd2")
                for added in (CONTROL, ALL)
            ],
        ],
        ids=lambda value: value if isinstance(value, str) else "+".join(sorted(value)),  # sets have no order
    )
    def test_plans_with_added_inputs(
        self,
        root: str,
        added: frozenset[AddedInputs],
        request: pytest.FixtureRequest,
        family_bundle: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        """With all profiles; the inputs are at full size, with as many convolutions as the bundle has."""
        pytest.importorskip("tensorrt_rtx")
        folder = Path(request.getfixturevalue(root)) if root.endswith("_bundle") else family_bundle(root)
        component = Component(root=folder, manifest=open_bundle(folder).manifest, name="unet", added=added)
        contents = TensorRTRTX().compile(component, Target(machine=gpu_machine("sm89")), tmp_path, None)
        assert contents is not None
        inputs = {name: record.shape for name, record in contents.shapes[0].inputs.items()}
        spec = component.static_shapes[0].spec
        assert inputs == {name: tensor.sized(spec.batches[0]) for name, tensor in spec.inputs.items()}
        convolutions = sum(node.op_type == "Conv" for node in load_graph(component.onnx).graph)
        assert sum(contents.layers["CONVOLUTION"].values()) == convolutions

    @pytest.mark.slow
    def test_in_eight_bits(self, exports: None, int8_prompts: Path, tmp_path: Path) -> None:
        """As a model is built: as many layers are quantized as in the plain plan. A minute."""
        pytest.importorskip("tensorrt_rtx")
        root = tmp_path / "int8.bundle"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3, calls=2))
            latentrt.build(
                "emoji",
                root,
                precision="int8",
                prompts=int8_prompts,
                quality=20.0,
                backend="tensorrt-rtx",
                gpus=["sm89"],
                added=tuple(AddedInputs),
            )
        quantized = [plan.contents.quantized for plan in plans_of(root).values() if plan.contents is not None]
        assert quantized[0] == quantized[1]
        assert sum(quantized[0].values()) > 100

    @pytest.mark.slow
    def test_weights_as_inputs_too(self, half_bundle: Path, tmp_path: Path) -> None:
        """In fp16, with all that can be added."""
        pytest.importorskip("tensorrt_rtx")
        unet = Component(root=half_bundle, manifest=open_bundle(half_bundle).manifest, name="unet", added=ALL)
        target = Target(machine=gpu_machine("sm89"), weights=WeightsAs.INPUTS)
        contents = TensorRTRTX().compile(unet, target, tmp_path, None)
        assert contents is not None
        assert set(contents.weight_inputs) == set(open_bundle(half_bundle).weights("unet").initializers)
