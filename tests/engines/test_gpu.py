"""The GPU backends on a real GPU, end to end: built, gated, drawn with, closed. Run with ``pytest -m gpu``."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from net_steps import ControlledUnet
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.describing import describe
from latentrt.engines.backends.cuda import CudaPython
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in
from latentrt.verifying import verify

pytestmark = pytest.mark.gpu

# What a CUDA context, its modules and its pools may keep beyond a model that was closed
_KEPT_MEGABYTES = 64
# A gate's relative error at every model call, through a sampler's steps
_OPTIONS = {"num_inference_steps": 8, "seed": 5, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(params=["tensorrt", "tensorrt-rtx", "ort-cuda"])
def backend(request: pytest.FixtureRequest) -> str:
    """A GPU backend that is installed, on a machine that has a GPU."""
    name = str(request.param)
    try:
        COMPILERS[Backend(name)].version()
        COMPILERS[Backend(name)].here()
    except latentrt.EngineError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def bundle(emoji_bundle: Path, backend: str, tmp_path: Path) -> Path:
    """The embedded model's bundle with engines of the backend, which passed their gates as they were built."""
    folder = shutil.copytree(emoji_bundle, tmp_path / "emoji.bundle")
    build_engines(folder, backend)
    return folder


def build_engines(
    bundle: Path, backend: str, *, lora_ready: bool = False, added: Sequence[str | AddedInputs] = ()
) -> None:
    """Adds engines of a backend to a bundle."""
    try:
        assert not latentrt.build(bundle, backend=backend, lora_ready=lora_ready, added=added).up_to_date
    except latentrt.EngineError as error:
        if "choose the backend tensorrt" in str(error):
            pytest.skip(str(error))  # a data centre's GPU, which TensorRT-RTX does not compile for
        raise


def test_engines_are_measured_and_repeat_their_figures(bundle: Path, backend: str) -> None:
    """At the build and again by verify."""
    engines = [engine for engine in engines_in(bundle) if engine.backend == backend]
    assert len(engines) == 4
    assert all(engine.parity is not None and engine.parity.relative_error < 1e-4 for engine in engines)
    verify(bundle)
    if backend != "ort-cuda":
        assert all(engine.contents is not None and engine.contents.device_memory for engine in engines)
    assert all(row["fits_this_machine"] for row in describe(bundle)["engines"])


def test_pictures_are_those_of_the_cpu(bundle: Path, backend: str) -> None:
    """Auto takes the GPU; the second picture comes from recorded graphs."""
    pictures = {}
    for name in ("auto", "ort-cpu"):
        with latentrt.open(bundle, backend=name) as pipe:
            pipe("a cat", **_OPTIONS)
            pictures[pipe.backend] = np.asarray(pipe("dog face", **_OPTIONS).images[0])
    assert list(pictures) == [backend, "ort-cpu"]
    error = pictures[backend].astype(np.float64) - pictures["ort-cpu"]
    assert 10 * np.log10(1.0 / np.mean(error**2)) > 45


def test_runs_are_recorded_as_graphs(bundle: Path, backend: str) -> None:
    """No component is refused its graph."""
    with latentrt.open(bundle, backend=backend) as pipe:
        pipe("a cat", **_OPTIONS)
        pipe("a cat", **_OPTIONS)
        profile = pipe.manifest.profiles[0]
        for name in ("text_encoder", "unet", "vae_decoder"):
            engine = pipe._components.engine(name, Shapes(profile=profile))
            owner = engine if hasattr(engine, "graph_refused") else engine._model  # type: ignore[attr-defined]
            assert owner.graph_refused is None, name


def test_closing_frees_the_device(bundle: Path, backend: str) -> None:
    """After the first time, which leaves CUDA's own context behind, memory does not grow."""
    driver, free = CudaPython(), []
    for _ in range(3):
        with latentrt.open(bundle, backend=backend) as pipe:
            pipe("a cat", **_OPTIONS)
        free.append(driver.free_memory())
    assert free[0] - free[-1] < _KEPT_MEGABYTES * 2**20


@pytest.fixture
def loras(emoji_bundle: Path, tmp_path: Path) -> list[Path]:
    """Two LoRAs for the embedded model's U-Net and text encoder."""
    return [save_tiny_lora(tmp_path / f"{name}.safetensors", emoji_bundle, seed=seed) for seed, name in enumerate("ab")]


def drawn_with(bundle: Path, backend: str, loras: list[Path]) -> dict[str, np.ndarray]:
    """Pictures without, with one, with the other, with the first again and with weight 0."""
    calls = {"without": None, "a": {"a": 0.8}, "b": {"b": 1.0}, "a again": {"a": 0.8}, "zero": {"a": 0.0}}
    with latentrt.open(bundle, backend=backend, lora_cache=1) as pipe:
        for path in loras:
            pipe.load_lora(path)
        return {name: np.asarray(pipe("a cat", **_OPTIONS, loras=call).images[0]) for name, call in calls.items()}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of pictures in [0, 1], in dB."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(1.0 / error)) if error else float("inf")


@pytest.mark.filterwarnings("ignore:building a tensorrt")
def test_loras_are_those_of_the_cpu(bundle: Path, backend: str, loras: list[Path]) -> None:
    """As ort-cpu draws with them; a plan of a set on TensorRT. Nothing of a set is left behind."""
    pictures, reference = drawn_with(bundle, backend, loras), drawn_with(bundle, "ort-cpu", loras)
    for name in ("without", "a", "b"):
        assert psnr(pictures[name], reference[name]) > 45, name
    assert psnr(pictures["a"], pictures["without"]) < 40
    np.testing.assert_array_equal(pictures["a"], pictures["a again"])
    np.testing.assert_array_equal(pictures["without"], pictures["zero"])


@pytest.mark.filterwarnings("ignore:building a tensorrt")
def test_weights_as_inputs_draw_what_constants_do(bundle: Path, backend: str, loras: list[Path]) -> None:
    """LoRA-ready engines against plans with the LoRAs in their weights; they are opened as soon as they are there."""
    if backend == "ort-cuda":
        pytest.skip("its engines take LoRAs as they are")
    constants = drawn_with(bundle, backend, loras)
    build_engines(bundle, backend, lora_ready=True)
    plans = len(engines_in(bundle))
    inputs = drawn_with(bundle, backend, loras)
    assert len(engines_in(bundle)) == plans
    for name in ("without", "a", "b"):
        assert psnr(inputs[name], constants[name]) > 45, name
    np.testing.assert_array_equal(inputs["a"], inputs["a again"])
    np.testing.assert_array_equal(inputs["without"], inputs["zero"])


def test_sets_of_loras_give_their_memory_back(bundle: Path, backend: str, loras: list[Path]) -> None:
    """Those that are put out of the cache, beside a model that stays open."""
    if backend != "ort-cuda":
        build_engines(bundle, backend, lora_ready=True)
    driver, free = CudaPython(), []
    with latentrt.open(bundle, backend=backend, lora_cache=1) as pipe:
        pipe.load_lora(loras[0])
        for weight in (0.3, 0.4, 0.5, 0.6):
            pipe("a cat", **_OPTIONS, loras={"a": weight})
            free.append(driver.free_memory())
    assert free[0] - free[-1] < _KEPT_MEGABYTES * 2**20


def close_to(result: np.ndarray, expected: np.ndarray) -> bool:
    """By a gate's relative error in fp32."""
    return bool(np.linalg.norm(result - expected) < 1e-4 * np.linalg.norm(expected))


def test_residuals_of_nets_stay_on_the_device(tiny_bundle: Path, tiny_net: Path, backend: str, tmp_path: Path) -> None:
    """Two nets and the U-Net, recorded and replayed, against ort-cpu; what was added before is not there any more."""
    model, net = (
        Path(shutil.copytree(source, tmp_path / name)) for source, name in ((tiny_bundle, "model"), (tiny_net, "net"))
    )
    build_engines(model, backend, added=() if backend == "ort-cuda" else ("control",))
    build_engines(net, backend)
    gpu, cpu = ControlledUnet(model, net, Backend(backend)), ControlledUnet(model, net, Backend.ORT_CPU)
    for seed in range(3):
        assert close_to(gpu.step(seed), cpu.step(seed))
    assert close_to(gpu.plain(3), cpu.plain(3))
    assert close_to(gpu.step(4), cpu.step(4))
    free = CudaPython().free_memory()
    for seed in range(8):
        gpu.step(seed)
    assert free - CudaPython().free_memory() < _KEPT_MEGABYTES * 2**20
    gpu.close()
    cpu.close()


def test_image_prompts_are_those_of_the_cpu(tiny_bundle: Path, backend: str, tmp_path: Path) -> None:
    """One of four tokens and two of sixteen, given and left out."""
    model = Path(shutil.copytree(tiny_bundle, tmp_path / "model"))
    build_engines(model, backend, added=() if backend == "ort-cuda" else tuple(AddedInputs))
    gpu, cpu = (OpenComponents(open_bundle(model), Backend(name), threads=None) for name in (backend, "ort-cpu"))
    profile, random = Profile(width=32, height=32, batch=2), np.random.default_rng(0)
    for prompts, tokens in ((1, 4), (2, 16), (1, 4)):
        shapes = Shapes(profile=profile, added=frozenset(AddedInputs), image_prompts=prompts, image_tokens=tokens)
        engine, reference = (components.engine("unet", shapes) for components in (gpu, cpu))
        inputs = {
            name: random.normal(size=tensor.sized(4)).astype(tensor.dtype)
            for name, tensor in engine.spec.inputs.items()
        }
        own = {name: array for name, array in inputs.items() if engine.spec.inputs[name].neutral is None}
        for given in (inputs, own, inputs):
            assert close_to(engine.run(given)["out_sample"], reference.run(given)["out_sample"])
    gpu.close()
    cpu.close()
