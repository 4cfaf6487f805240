"""Engines of a model of videos: its frames are in the U-Net's shape, and are the decoder's batch, which is exact."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openvino_engines import component_of, decibels, drawn_inputs
from shared import no_preview_fitted
from stand_ins import StandInRTX

import latentrt
from latentrt.engines.backends.compiler import Compiler, Target
from latentrt.engines.backends.openvino.devices.backend import OpenVinoGpu
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.store.compile import compile_component
from latentrt.engines.store.store import compiled_folder

FOUR, THREE = Profile(width=32, height=32, frames=4), Profile(width=48, height=32, frames=3)
CLOSE = 90.0  # dB


def engine_of(component: Component, compiler: Compiler) -> None:
    """Compiles and gates it."""
    (target,) = compiler.targets(())
    probes = BundleFolder(root=component.root, manifest=component.manifest).probes(component.name)
    assert compile_component(component, compiler, target, probes).parity is not None


@pytest.fixture
def decoder(tiny_svd_bundle: Path, tmp_path: Path) -> Component:
    """The temporal decoder of a copy."""
    return component_of(Path(shutil.copytree(tiny_svd_bundle, tmp_path / "svd.bundle")), VAE_DECODER)


@pytest.fixture
def on_cpu(decoder: Component) -> Iterator[Engine]:
    """The decoder on ort-cpu."""
    folder = compiled_folder(decoder, Backend.ORT_CPU)
    model = COMPILERS[Backend.ORT_CPU].open(decoder, folder, threads=1)
    yield model.engine(Shapes(profile=FOUR))
    model.close()


def test_shapes_of_a_video(tiny_svd_bundle: Path) -> None:
    """The U-Net has frames; the decoder's batch is up to as many, in chunks of up to four where shapes are fixed."""
    unet, decoder = (component_of(tiny_svd_bundle, name) for name in (UNET, VAE_DECODER))
    spec = unet.spec_of_any_batch(Shapes(profile=THREE))
    assert spec.inputs["sample"].shape == ("batch", 3, 8, 16, 24)
    assert spec.batches == (1, 2)
    assert [shape.spec.inputs["sample"].sized(2) for shape in unet.static_shapes] == [
        (2, 4, 8, 16, 16),
        (2, 3, 8, 16, 24),
    ]
    assert decoder.spec_of_any_batch(Shapes(profile=THREE)).batches == (1, 2, 3)
    assert [(shape.spec.batches, shape.profiles) for shape in decoder.static_shapes] == [
        *(((batch,), (FOUR,)) for batch in (1, 2, 3, 4)),
        *(((batch,), (THREE,)) for batch in (1, 2, 3)),
    ]


def test_any_chunk_on_the_cpu(on_cpu: Engine) -> None:
    """Every number of frames up to the profile's; more, or a chunk that was filled up, is another video."""
    three, four = drawn_inputs(on_cpu, 3), drawn_inputs(on_cpu, 4)
    assert on_cpu.run(three)["sample"].shape == (3, 3, 32, 32)
    first = on_cpu.run({"latent_sample": four["latent_sample"][:3]})["sample"]
    assert np.abs(on_cpu.run(four)["sample"][:3] - first).max() > 1e-3
    with pytest.raises(RequestError, match="batch one of 1, 2, 3, 4"):
        on_cpu.run({"latent_sample": np.concatenate([four["latent_sample"], four["latent_sample"]])})


def test_chunks_of_fixed_shapes(decoder: Component, on_cpu: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in device each chunk has a shape of its own; they are one engine, which is bound as it is called."""
    rtx = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, rtx)
    engine_of(decoder, rtx)
    model = rtx.open(decoder, compiled_folder(decoder, Backend.TENSORRT_RTX), threads=None)
    engine = model.engine(Shapes(profile=FOUR))
    assert engine.spec.batches == (1, 2, 3, 4)
    assert model.engine(Shapes(profile=THREE)).spec.batches == (1, 2, 3)
    before = rtx.driver.live["pinned"]
    for batch in (3, 1):
        inputs = drawn_inputs(engine, batch, seed=batch)
        np.testing.assert_allclose(engine.run(inputs)["sample"], on_cpu.run(inputs)["sample"], rtol=0, atol=1e-5)
    assert rtx.driver.live["pinned"] - before == 2 * 2  # an input and a result each
    with pytest.raises(RequestError, match="batch one of 1, 2, 3, 4"):
        engine.run(drawn_inputs(engine, 5))
    engine.close()
    assert not rtx.driver.live


@pytest.mark.slow
@pytest.mark.parametrize("name", [VAE_DECODER, UNET])
def test_on_openvino(tiny_svd_bundle: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its CPU plugin, which takes any chunk, and by the code of its devices, which take those compiled."""
    pytest.importorskip("openvino")

    class OnCpu(OpenVinoGpu):
        """The GPU's code on the device that is here."""

        device = "CPU"

    component = component_of(Path(shutil.copytree(tiny_svd_bundle, tmp_path / "svd.bundle")), name)
    device, backends = OnCpu(), (Backend.OPENVINO, Backend.OPENVINO_GPU)
    monkeypatch.setitem(COMPILERS, Backend.OPENVINO_GPU, device)
    ort = COMPILERS[Backend.ORT_CPU].open(component, compiled_folder(component, Backend.ORT_CPU), threads=1)
    for backend in backends:
        engine_of(component, COMPILERS[backend])
        model = COMPILERS[backend].open(component, compiled_folder(component, backend), threads=1)
        for profile in (FOUR, THREE):
            engine, theirs = model.engine(Shapes(profile=profile)), ort.engine(Shapes(profile=profile))
            for batch in {engine.spec.batches[0], engine.spec.batches[-1]}:
                inputs = drawn_inputs(engine, batch)
                assert decibels(engine.run(inputs), theirs.run(inputs)) > CLOSE
        model.close()
    ort.close()


@pytest.mark.slow
class TestReallyBuilt:
    """Plans that TensorRT-RTX builds, for a GPU that is not here."""

    @pytest.mark.parametrize("name", [UNET, VAE_DECODER])
    def test_plans(self, tiny_svd_bundle: Path, tmp_path: Path, name: str) -> None:
        """Of the U-Net and of the temporal decoder, each with the shapes of the bundle."""
        pytest.importorskip("tensorrt_rtx")
        component = component_of(tiny_svd_bundle, name)
        contents = TensorRTRTX().compile(component, Target(machine=gpu_machine("sm89")), tmp_path, None)
        assert contents is not None
        for got, static in zip(contents.shapes, component.static_shapes, strict=True):
            for side in ("inputs", "outputs"):
                shapes = {key: record.shape for key, record in getattr(got, side).items()}
                tensors = getattr(static.spec, side)
                assert shapes == {key: tensor.sized(static.spec.batches[0]) for key, tensor in tensors.items()}


@pytest.mark.slow
def test_halved(tiny_svd_checkpoint: Path, tmp_path: Path) -> None:
    """In fp16 the U-Net and the image encoder are halved, and the autoencoder stays; the U-Net's plan is built, too."""
    root = tmp_path / "half.bundle"
    with no_preview_fitted():
        latentrt.build(tiny_svd_checkpoint, root, precision="fp16", profiles=["32x32x3f"])
    manifest = BundleFolder(root=root, manifest=component_of(root, UNET).manifest).manifest
    assert {name: record.precision for name, record in manifest.components.items()} == {
        "image_encoder": Precision.FP16,
        UNET: Precision.FP16,
        VAE_ENCODER: Precision.FP32,
        VAE_DECODER: Precision.FP32,
    }
    assert manifest.components[UNET].islands
    pytest.importorskip("tensorrt_rtx")
    latentrt.build(root, backend="tensorrt-rtx", gpus=["sm89"])
