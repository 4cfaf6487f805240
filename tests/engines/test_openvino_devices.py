"""OpenVINO's devices of fixed shapes, with its CPU in the device's place: no GPU or NPU of Intel's has run this."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_engines import changeable, changes_of, component_of, decibels, drawn_inputs, weights_of

import latentrt
from latentrt.building.compiling import engines_to_make
from latentrt.engines.backends.openvino.devices import backend as devices
from latentrt.engines.backends.openvino.devices.backend import OpenVinoGpu
from latentrt.engines.backends.openvino.records import GRAPHS_FILE
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import BundleError, EngineError, RequestError
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.store.compile import compile_component
from latentrt.engines.store.store import compiled_folder, engines_in, stored_engine, target_identity
from latentrt.verifying import verify

pytest.importorskip("openvino")
GPU, NPU = Backend.OPENVINO_GPU, Backend.OPENVINO_NPU
TEXT = "text_encoder"
EXACT, CHANGED = 100.0, 90.0  # dB


class OnCpu(OpenVinoGpu):
    """The GPU's code on the device that is here."""

    device = "CPU"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    compiler = OnCpu()
    monkeypatch.setitem(COMPILERS, GPU, compiler)
    return compiler


def engine_of(component: Component, compiler: OpenVinoGpu) -> Path:
    """Its folder; compiled and gated."""
    (target,) = compiler.targets(())
    bundle = BundleFolder(root=component.root, manifest=component.manifest)
    made = compile_component(component, compiler, target, bundle.probes(component.name))
    assert made.parity is not None
    assert made.contents is not None
    assert made.contents.layers
    return compiled_folder(component, GPU)


def test_a_text_encoder_of_fixed_shapes(tiny_copy: Path, on_cpu: OnCpu) -> None:
    """As on ort-cpu; LoRAs compile it anew; other sizes, batches and prompts are refused, and so are altered files."""
    part = component_of(tiny_copy, TEXT)
    folder = engine_of(part, on_cpu)
    profile = part.manifest.profiles[0]
    model = on_cpu.open(part, folder, threads=None)
    ort = COMPILERS[Backend.ORT_CPU].open(part, compiled_folder(part, Backend.ORT_CPU), threads=1)
    engine, theirs = model.engine(Shapes(profile=profile)), ort.engine(Shapes(profile=profile))
    (batch,) = engine.spec.batches
    assert batch == part.largest_batch(profile)
    inputs = drawn_inputs(engine, batch)
    alone = engine.run(inputs)
    assert decibels(alone, theirs.run(inputs)) > EXACT
    with pytest.raises(RequestError, match=rf"with batch one of {batch}; give exactly these"):
        engine.run(drawn_inputs(engine, 1))
    with pytest.raises(RequestError, match="prompt of 2 chunks"):
        model.engine(Shapes(profile=profile, chunks=2))
    with pytest.raises(RequestError, match="got size 64x64, but the engine of text_encoder was compiled for 32x32x2"):
        model.engine(Shapes(profile=Profile(width=64, height=64)))
    changes = changes_of(changeable(part)[:8])
    with pytest.warns(UserWarning, match="compiling text_encoder for openvino-gpu with these adapters, as no engine"):
        changed = model.changed(weights_of(part), changes)
    found = changed.engine(Shapes(profile=profile)).run(inputs)
    assert decibels(found, ort.changed(weights_of(part), changes).engine(Shapes(profile=profile)).run(inputs)) > CHANGED
    assert decibels(found, alone) < 60
    assert changed.own_bytes > model.own_bytes == 0
    np.testing.assert_array_equal(*(engine.run(inputs)[name] for name in 2 * list(alone)[:1]))
    for one in (changed, model, ort):
        one.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(inputs)
    check_damages(part, folder, on_cpu)


def check_damages(part: Component, folder: Path, compiler: OpenVinoGpu) -> None:
    """Before OpenVINO reads them: each by its digest, and by its engine's, where it has been opened already."""
    blob = folder / "graph-0.blob"
    whole = blob.read_bytes()
    identity = target_identity(part, compiler, *compiler.targets(()))
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 1
    for content in (whole[:5000], b"", bytes(turned)):
        blob.write_bytes(content)
        with pytest.raises(BundleError, match="build the bundle again"):
            stored_engine(part.root, identity, largest_hashed=compiler.largest_hashed)
        with pytest.raises(EngineError, match=r"graph-0\.blob.*build the bundle again"):
            compiler.open(part, folder, threads=None)
    blob.write_bytes(whole)
    for text in ("{", '{"files": {}}'):
        (folder / GRAPHS_FILE).write_text(text)
        with pytest.raises(EngineError, match=r"graphs\.json.*build the bundle again"):
            compiler.open(part, folder, threads=None)


@pytest.mark.parametrize(("backend", "driver"), [(GPU, "GPU driver with OpenCL"), (NPU, "NPU driver")])
def test_where_the_device_is_not(backend: Backend, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names what there is, and what to install."""
    monkeypatch.setattr(devices, "devices", lambda: ("CPU",))
    words = rf"backend {backend} needs a device .PU, but OpenVINO finds CPU here; install Intel's {driver}"
    with pytest.raises(EngineError, match=words):
        engines_to_make(backend, (), None)


def test_a_machine_is_the_device_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the first; its name has no spaces."""
    monkeypatch.setattr(devices, "devices", lambda: ("CPU", "GPU.0", "GPU.1"))
    monkeypatch.setattr(devices, "device_name", lambda device: f"Intel(R) Arc(TM) A770 ({device})")
    assert COMPILERS[GPU].here().split()[2:] == ["Intel-R-Arc-TM-A770-GPU", "GPU"]


def test_an_npu_takes_no_fp32(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is compiled; bf16 and int8 on either device, too."""
    monkeypatch.setattr(devices, "devices", lambda: ("CPU", "GPU", "NPU"))
    monkeypatch.setattr(devices, "device_name", lambda device: device)
    compiler = COMPILERS[NPU]
    (target,) = compiler.targets(())
    with pytest.raises(RequestError, match=r"got text_encoder in fp32 for backend openvino-npu, expected it in fp16"):
        compiler.compile(component_of(tiny_bundle, TEXT), target, tmp_path, None)
    for backend in (GPU, NPU):
        with pytest.raises(RequestError, match=f"got precision bf16 for backend {backend}"):
            engines_to_make(backend, (), None).check_precision(Precision.BF16)
        with pytest.raises(RequestError, match=f"got precision int8 for backend {backend}, for which none is made"):
            latentrt.build(tiny_bundle, tmp_path / "int8", precision="int8", backend=backend.value)
    assert not (tmp_path / "int8").exists()


def test_a_device_is_named_with_openvino_alone(
    command: Callable[..., Any], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU and NPU are backends of their own, which are not here."""
    monkeypatch.setattr(devices, "devices", lambda: ("CPU",))
    for arguments, words in (
        (("--backend", "openvino", "--device", "TPU"), "got device TPU for backend openvino, expected CPU, GPU or NPU"),
        (("--device", "GPU"), "got device GPU for backend ort-cpu"),
        (("--backend", "openvino", "--device", "npu"), "backend openvino-npu needs a device NPU"),
    ):
        done = command("build", tiny_bundle, *arguments)
        assert done.status != 0
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_bundle", "half_bundle"])
@pytest.mark.filterwarnings("ignore:compiling ")
def test_a_bundle_draws_at_its_profiles(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, on_cpu: OnCpu
) -> None:
    """All components, with a second U-Net for added inputs; one picture is filled up to two."""
    bundle = shutil.copytree(request.getfixturevalue(name), tmp_path / "bundle")
    latentrt.build(bundle, backend="openvino-gpu", added=[one.value for one in AddedInputs])
    assert len([one for one in engines_in(bundle) if one.backend is GPU]) == 1 + len(
        component_of(bundle, TEXT).manifest.components
    )
    assert all(figures.psnr > 50 for figures in verify(bundle, backend="openvino-gpu").values())
    options = {"num_inference_steps": 3, "seed": 7, "width": 32, "height": 32}
    with latentrt.open(bundle, backend="openvino-gpu") as ours, latentrt.open(bundle, backend="ort-cpu") as theirs:
        assert (ours.backend, theirs.backend) == (GPU, Backend.ORT_CPU)
        for more in ({}, {"freeu": latentrt.FreeU()}):
            found, expected = (
                np.asarray(pipe("a red apple", **options, **more).images[0]).astype(float) for pipe in (ours, theirs)
            )
            assert np.abs(found - expected).max() <= 3
        with pytest.raises(RequestError, match="size 64x64"):
            ours("a red apple", **{**options, "width": 64, "height": 64})


@pytest.mark.slow
def test_added_inputs_are_filled_up(tiny_copy: Path, on_cpu: OnCpu) -> None:
    """One image prompt of four tokens, where several of more were compiled; what is left out is neutral."""
    added = frozenset(AddedInputs)
    part = Component(root=tiny_copy, manifest=component_of(tiny_copy, TEXT).manifest, name="unet", added=added)
    model = on_cpu.open(part, engine_of(part, on_cpu), threads=None)
    plain = component_of(tiny_copy, "unet")
    ort = COMPILERS[Backend.ORT_CPU].open(plain, compiled_folder(plain, Backend.ORT_CPU), threads=1)
    for which in (*({one} for one in AddedInputs), added):
        shapes = Shapes(profile=part.manifest.profiles[0], added=frozenset(which), image_prompts=1, image_tokens=4)
        ours, theirs = model.engine(shapes), ort.engine(shapes)
        for leave_out in (False, True):
            inputs = drawn_inputs(ours, ours.spec.batches[0], leave_out=leave_out)
            assert decibels(ours.run(inputs), theirs.run(inputs)) > EXACT
    with pytest.raises(EngineError, match="was not compiled for it; build one with --with"):
        on_cpu.open(plain, engine_of(plain, on_cpu), threads=None).engine(shapes)
