"""Which machine an engine is for, which backend is taken, and what is refused."""

import builtins
import dataclasses
import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInDriver, StandInRTX

import latentrt
from latentrt.building import destination
from latentrt.building.compiling import EnginesToMake
from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.cuda import CudaPython
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.ort_cuda.model import Device
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt import backend as tensorrt
from latentrt.engines.backends.tensorrt.backend import TensorRT, TensorRTRTX
from latentrt.engines.bundle import checked_files
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import LEFT_BY_RUNS
from latentrt.engines.machine import gpu_machine, gpu_of_machine
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.store import store as cache
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in, identity_of
from latentrt.verifying import verify


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> StandInRTX:
    """A machine with a GPU: TensorRT-RTX on the stand-in device, for everything."""
    compiler = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, compiler)
    return compiler


def test_there_is_a_compiler_for_every_backend() -> None:
    """And each says its own name."""
    assert set(COMPILERS) == set(Backend)
    assert all(compiler.backend == backend for backend, compiler in COMPILERS.items())


@pytest.mark.parametrize("field", ["component", "onnx_sha256", "backend_version", "machine", "flags", "shapes"])
def test_every_part_of_an_identity_counts(tiny_bundle: Path, field: str) -> None:
    """Change one, and the key is another."""
    unet = Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")
    identity = identity_of(unet, OrtCpu(), "linux x86_64")
    value = (("a", "b"),) if field == "flags" else ("8x8",) if field == "shapes" else "other"
    assert dataclasses.replace(identity, **{field: value}).key != identity.key
    assert dataclasses.replace(identity).key == identity.key


def test_names_of_machines() -> None:
    """The architecture is the last word."""
    machine = gpu_machine("sm89")
    assert gpu_of_machine(machine) == "sm89"
    assert len(machine.split()) == 3
    named = gpu_machine("sm75", "NVIDIA Quadro RTX 6000/8000")
    assert named.split()[2:] == ["NVIDIA-Quadro-RTX-6000-8000", "sm75"]  # a part of a file's name, too


def test_plans_of_tensorrt_are_bound_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of one architecture are two machines to TensorRT, and one to TensorRT-RTX."""
    driver = StandInDriver()
    machines = {}
    for compiler in (TensorRT(), TensorRTRTX()):
        monkeypatch.setattr(compiler, "_driver", lambda: driver)
        for model in ("NVIDIA L40S", "NVIDIA GeForce RTX 4090"):
            driver.sold_as = model
            machines[compiler.backend, model] = compiler.here()
    assert len(set(machines.values())) == 3
    assert {gpu_of_machine(machine) for machine in machines.values()} == {"sm89"}
    assert machines[Backend.TENSORRT, "NVIDIA L40S"] == gpu_machine("sm89", "NVIDIA L40S")


def test_targets_of_tensorrt_rtx() -> None:
    """One per architecture, each once, however it is spelled."""
    pytest.importorskip("tensorrt_rtx")
    targets = TensorRTRTX().targets(["sm89", "SM120", "sm89 "], 64)
    assert targets == tuple(Target(machine=gpu_machine(gpu), workspace_mb=64) for gpu in ("sm89", "sm120"))


@pytest.mark.parametrize(
    ("backend", "gpus", "error", "words"),
    [
        ("tensorrt-rtx", ["sm1"], latentrt.RequestError, r"got gpu 'sm1', expected one of sm75, .*sm121"),
        ("tensorrt-rtx", ["", "sm89"], latentrt.RequestError, r"got gpu '', expected one of sm75"),
        ("tensorrt-rtx", ["current"], latentrt.RequestError, r"got gpu 'current'"),
        ("tensorrt-rtx", [], latentrt.EngineError, r"no NVIDIA GPU.*--gpu, one of sm75"),
        ("ort-cpu", ["sm89"], latentrt.RequestError, r"got gpu sm89 for backend ort-cpu.*tensorrt-rtx"),
        ("ort-cuda", ["sm89"], latentrt.RequestError, r"got gpu sm89 for backend ort-cuda.*tensorrt-rtx"),
        ("ort-cuda", [], latentrt.EngineError, "no NVIDIA GPU"),
        ("tensorrt", ["sm89"], latentrt.RequestError, r"got gpu sm89 for backend tensorrt,.*tensorrt-rtx"),
        (
            "tensorrt",
            [],
            latentrt.EngineError,
            r"on the GPU that it compiles for: .*no NVIDIA GPU.*tensorrt-rtx.*--gpu",
        ),
    ],
)
def test_targets_that_are_refused(
    backend: str, gpus: list[str], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without a GPU: a driver that counts none."""
    pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    none = (runtime.cudaError_t.cudaErrorNoDevice, None)
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: none)
    with pytest.raises(error, match=words):
        COMPILERS[Backend(backend)].targets(gpus)


def test_a_gpu_that_tensorrt_rtx_does_not_know(rtx: StandInRTX) -> None:
    """A data centre's: the other backend is named."""
    rtx.driver.capability = (9, 0)
    with pytest.raises(latentrt.EngineError, match=r"GPU is sm90, expected one of sm89, sm120.*backend tensorrt"):
        rtx.targets([])


@pytest.mark.parametrize("failure", [ImportError("no module"), OSError("libnvinfer.so.10: cannot open")])
def test_tensorrt_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Neither the package nor its library: the extra is named."""

    def refuse(name: str) -> Any:
        raise failure

    monkeypatch.setattr(tensorrt, "import_module", refuse)
    for compiler, words in ((TensorRT(), r"latentrt\[tensorrt\]"), (TensorRTRTX(), r"tensorrt-rtx .*latentrt\[rtx\]")):
        with pytest.raises(latentrt.EngineError, match=words):
            compiler.version()


def test_cuda_python_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with the extras that bring it."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(latentrt.EngineError, match=r"needs the package cuda-python; install latentrt\[tensorrt\]"):
        CudaPython()


@pytest.mark.parametrize(
    ("backend", "precision", "gpus", "megabytes"),
    [
        ("ort-cpu", Precision.FP32, 0, 960),
        ("ort-cpu", Precision.FP16, 0, 760),
        ("tensorrt-rtx", Precision.FP16, 2, 760),
        ("tensorrt-rtx", Precision.FP32, 1, 960),
    ],
)
def test_space_for_a_bundle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rtx: StandInRTX,
    backend: Backend,
    precision: Precision,
    gpus: int,
    megabytes: int,
) -> None:
    """For a hundred million weights: the CPU's engines hold them in fp32 whatever the ONNX's precision."""
    compiler = COMPILERS[backend]
    engines = EnginesToMake(compiler=compiler, targets=compiler.targets(["sm89", "sm120"][:gpus]))
    free = [megabytes * 2**20 - 1]
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    with pytest.raises(latentrt.OutputError, match=f"the bundle needs about {megabytes} MB"):
        destination.check_space(tmp_path / "new.bundle", 100 * 2**20, precision, engines)
    free[0] += 1
    destination.check_space(tmp_path / "new.bundle", 100 * 2**20, precision, engines)


class TestOnAGpu:
    """The whole way on the stand-in device, whose plans ONNX Runtime computes: static batches, gates, pictures."""

    @pytest.fixture
    def both(self, planned_bundle: Path, tmp_path: Path, rtx: StandInRTX) -> Path:
        """The tiny bundle with engines for the CPU and for the GPU."""
        return Path(shutil.copytree(planned_bundle, tmp_path / "tiny.bundle"))

    def test_engines_for_the_gpu_that_is_there_are_measured(self, both: Path, rtx: StandInRTX) -> None:
        """Figures of every probe, and nothing of them stays on the device."""
        engines = [engine for engine in engines_in(both) if engine.backend == Backend.TENSORRT_RTX]
        assert sorted(engine.component for engine in engines) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
        for engine in engines:
            assert engine.machine == gpu_machine("sm89")
            assert engine.parity is not None
            assert engine.parity.relative_error < 1e-5
        assert not rtx.driver.live
        assert latentrt.build(both, backend="tensorrt-rtx", gpus=["sm89"]).up_to_date
        assert not latentrt.build(both, backend="tensorrt-rtx", gpus=["sm120"]).up_to_date
        assert [e.parity for e in engines_in(both) if e.machine == gpu_machine("sm120")] == [None] * 4
        assert {figures.psnr > 100 for figures in verify(both).values()} == {True}

    def test_auto_takes_the_best_that_runs(self, both: Path, rtx: StandInRTX) -> None:
        """The same picture on both, within the gate; closing gives the device back."""
        pictures = {}
        for backend in ("auto", "ort-cpu"):
            with latentrt.open(both, backend=backend) as pipe:
                options = {"num_inference_steps": 3, "seed": 5, "width": 32, "height": 32, "output_type": "np"}
                pictures[pipe.backend] = np.stack(pipe(["a cat"] * 3, **options).images)
        assert list(pictures) == ["tensorrt-rtx", "ort-cpu"]
        np.testing.assert_allclose(pictures["tensorrt-rtx"], pictures["ort-cpu"], atol=2e-4)
        assert "launch" in rtx.driver.log
        assert not rtx.driver.live

    def test_more_chunks_than_compiled(self, both: Path) -> None:
        """The way out is the backend that takes them."""
        prompt = "a cat on a mat, " * 30
        with (
            latentrt.open(both) as pipe,
            pytest.raises(latentrt.RequestError, match=r"a prompt of \d chunks.*backend ort-cpu"),
        ):
            pipe(prompt, long_prompt="chunk", num_inference_steps=1, width=32, height=32)
        with latentrt.open(both, backend="ort-cpu") as pipe:
            pipe(prompt, long_prompt="chunk", num_inference_steps=1, width=32, height=32)

    def test_another_gpu(self, both: Path, rtx: StandInRTX) -> None:
        """By name; what was compiled and what is here are both told, and auto goes on to the CPU."""
        rtx.driver.capability = (12, 0)
        with pytest.raises(
            latentrt.EngineError,
            match=r"compiled for another machine \(got '.* sm89', expected '.* sm120'\).*--backend tensorrt-rtx",
        ):
            latentrt.open(both, backend="tensorrt-rtx")
        with latentrt.open(both) as pipe:
            assert pipe.backend == "ort-cpu"

    def test_another_version(self, both: Path, rtx: StandInRTX, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plans are bound to it."""
        monkeypatch.setattr(rtx, "version", lambda: "2.0")
        with pytest.raises(latentrt.EngineError, match=r"compiled by TensorRT-RTX 1\.0\.stand-in, installed is 2\.0"):
            latentrt.open(both, backend="tensorrt-rtx")

    def test_too_little_memory(self, both: Path, rtx: StandInRTX) -> None:
        """In MB; whatever was opened before is given back."""
        rtx.driver.free_bytes = 2**21
        with pytest.raises(latentrt.EngineError, match=r"needs 3 MB of device memory, 2 MB are free"):
            latentrt.open(both, backend="tensorrt-rtx")
        assert not rtx.driver.live

    def test_a_corrupted_plan(self, both: Path, rtx: StandInRTX) -> None:
        """Its digest tells, whatever its size; building mends it."""
        engine = next(e for e in engines_in(both) if (e.backend, e.component) == (Backend.TENSORRT_RTX, "unet"))
        plan = both / "engines" / engine.key / "model.plan"
        plan.write_text(plan.read_text().upper())
        for backend in ("auto", "tensorrt-rtx"):
            with pytest.raises(latentrt.BundleError, match=r"model\.plan was altered"):
                latentrt.open(both, backend=backend)
        assert not latentrt.build(both, backend="tensorrt-rtx").up_to_date
        latentrt.open(both, backend="tensorrt-rtx").close()

    def test_a_plan_is_hashed_once_and_only_when_it_is_opened(
        self, both: Path, rtx: StandInRTX, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The encoder of pictures when it is first asked for; verify hashes no plan twice."""
        names = {e.key: e.component for e in engines_in(both) if e.backend == Backend.TENSORRT_RTX}
        plans: list[str] = []
        real = checked_files.sha256_of_file

        def spy(path: Path) -> str:
            if path.name == "model.plan":
                plans.append(names[path.parent.name])
            return real(path)

        monkeypatch.setattr(checked_files, "sha256_of_file", spy)
        with latentrt.open(both) as pipe:
            assert sorted(plans) == ["text_encoder", "unet", "vae_decoder"]
            picture = np.zeros((32, 32, 3), np.uint8)
            pipe.img2img("a cat", image=picture, num_inference_steps=2, strength=0.5)
            assert plans[3:] == ["vae_encoder"]
        plans.clear()
        verify(both)
        assert sorted(plans) == sorted(names.values())

    def test_verify_measures_what_was_compiled_elsewhere(
        self, both: Path, rtx: StandInRTX, command: Callable[..., Any]
    ) -> None:
        """On the backend that is asked for; the figures stay in the engines' records, which stay whole."""
        latentrt.build(both, backend="tensorrt-rtx", gpus=["sm120"])
        rtx.driver.capability = (12, 0)

        def unmeasured() -> int:
            return sum(engine.parity is None for engine in engines_in(both))

        assert unmeasured() == 4
        launched = len(rtx.driver.log)
        assert command("verify", both, "--backend", "ort-cpu").status == 0
        assert (unmeasured(), len(rtx.driver.log)) == (4, launched)
        refused = command("verify", both, "--backend", "cpu")
        assert refused.status == 2
        assert "got backend 'cpu', expected one of auto, " in refused.stderr
        before = {path: path.stat().st_mtime_ns for path in both.rglob("*") if path.is_file()}
        assert command("verify", both, "--backend", "tensorrt-rtx").status == 0
        assert unmeasured() == 0
        changed = {
            path.name for path in both.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns
        }
        assert {name for name in changed if not name.endswith(LEFT_BY_RUNS)} == {"engine.json"}
        assert "–" not in command("inspect", both).stdout
        assert latentrt.build(both, backend="tensorrt-rtx", gpus=["sm120"]).up_to_date

    def test_verify_leaves_a_bundle_alone_that_cannot_be_written(
        self, both: Path, rtx: StandInRTX, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its engines are measured all the same."""
        latentrt.build(both, backend="tensorrt-rtx", gpus=["sm120"])
        rtx.driver.capability = (12, 0)

        def refuse(path: Path, write: Any) -> None:
            raise latentrt.OutputError("read-only")

        monkeypatch.setattr(cache, "write_file", refuse)
        assert len(verify(both)) == 4
        assert sum(engine.parity is None for engine in engines_in(both)) == 4

    def test_closing_goes_on_behind_a_model_that_fails(self, both: Path, rtx: StandInRTX) -> None:
        """The first failure is told, and the others give their memory back all the same."""
        components = OpenComponents(open_bundle(both), Backend.TENSORRT_RTX, threads=None)
        first = next(iter(components._models.values()))
        close = first.close

        def fail() -> None:
            close()
            raise latentrt.EngineError("a stand-in's failure")

        first.close = fail  # type: ignore[method-assign]
        with pytest.raises(latentrt.EngineError, match="a stand-in's failure"):
            components.close()
        assert not rtx.driver.live

    def test_a_wrong_plan_fails_its_gate(
        self, tiny_copy: Path, rtx: StandInRTX, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A plan that computes something else, on the GPU that it is for; the engine is not kept."""
        real = rtx.open

        def wrong(component: Component, folder: Path, *, threads: int | None) -> Any:
            model = real(component, folder, threads=threads)
            module = rtx.modules[-1]
            compute = module._compute

            def off(inputs: Any) -> Any:
                return {name: array * np.float32(1.01) for name, array in compute(inputs).items()}

            model.plan.compute = off
            return model

        monkeypatch.setattr(rtx, "open", wrong)
        with pytest.raises(latentrt.ParityError, match=r"text_encoder \(fp32\) differs"):
            latentrt.build(tiny_copy, backend="tensorrt-rtx")
        assert {engine.backend for engine in engines_in(tiny_copy)} == {Backend.ORT_CPU}
        assert not rtx.driver.live

    def test_a_workspace_makes_another_engine(self, both: Path) -> None:
        """Asked for, it is compiled again; not asked for, any will do."""
        assert not latentrt.build(both, backend="tensorrt-rtx", workspace_mb=64).up_to_date
        assert {e.workspace_mb for e in engines_in(both) if e.backend == Backend.TENSORRT_RTX} == {64}
        assert latentrt.build(both, backend="tensorrt-rtx", workspace_mb=64).up_to_date
        assert latentrt.build(both, backend="tensorrt-rtx").up_to_date


class FakeCuda:
    """cuda-python's calling convention: a status first, results behind it."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host", cudaMemcpyDeviceToDevice="on device"
    )
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, answers: dict[str, tuple[Any, ...]]) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def cudaGetErrorString(self, status: Any) -> tuple[int, bytes]:  # noqa: N802
        return 0, b"out of memory"

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            return self.answers.get(name, (0,))

        return call


@pytest.fixture
def cuda_python() -> Iterator[Callable[[dict[str, tuple[Any, ...]]], tuple[CudaPython, FakeCuda]]]:
    """The real driver over a fake of its module."""

    def make(answers: dict[str, tuple[Any, ...]]) -> tuple[CudaPython, FakeCuda]:
        driver, fake = CudaPython.__new__(CudaPython), FakeCuda(answers)
        driver._cuda = fake
        return driver, fake

    return make


def test_the_driver_passes_its_arguments_on(cuda_python: Any) -> None:
    """Directions, modes, and the recording that is destroyed once it is instantiated."""
    driver, fake = cuda_python(
        {
            "cudaMalloc": (0, 4096),
            "cudaMemGetInfo": (0, 7, 9),
            "cudaStreamEndCapture": (0, 11),
            "cudaGraphInstantiate": (0, 12),
            "cudaDeviceGetAttribute": (0, 8),
            "cudaGetDeviceProperties": (0, SimpleNamespace(name=b"NVIDIA L40S")),
        }
    )
    assert driver.malloc(10) == 4096
    assert driver.free_memory() == 7
    assert driver.compute_capability() == (8, 8)
    assert driver.model() == "NVIDIA L40S"
    driver.copy_to_device(1, 2, 3, 4)
    driver.copy_to_host(1, 2, 3, 4)
    driver.copy_on_device(1, 2, 3, 4)
    driver.clear(1, 3, 4)
    driver.begin_capture(4)
    assert driver.end_capture(4) == 12
    assert fake.calls[5:] == [
        ("cudaMemcpyAsync", 1, 2, 3, "to device", 4),
        ("cudaMemcpyAsync", 1, 2, 3, "to host", 4),
        ("cudaMemcpyAsync", 1, 2, 3, "on device", 4),
        ("cudaMemsetAsync", 1, 0, 3, 4),
        ("cudaStreamBeginCapture", 4, "local"),
        ("cudaStreamEndCapture", 4),
        ("cudaGraphInstantiate", 11, 0),
        ("cudaGraphDestroy", 11),
    ]


def test_all_engines_know_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would take what another left there through the host. One that is not there is looked for again."""
    cuda = importlib.import_module("latentrt.engines.backends.cuda")
    monkeypatch.setattr(cuda, "CudaPython", StandInDriver)
    cuda.cuda_device.cache_clear()
    try:
        drivers = [compiler._driver() for compiler in (TensorRT(), TensorRT(), TensorRTRTX())]
        assert {id(driver) for driver in [*drivers, Device().driver()]} == {id(cuda.cuda_device())}
    finally:
        cuda.cuda_device.cache_clear()


def test_what_cuda_refuses_is_said(cuda_python: Any) -> None:
    """With CUDA's own words; a recording that cannot be instantiated is destroyed all the same."""
    driver, fake = cuda_python({"cudaMalloc": (2, None), "cudaStreamEndCapture": (0, 11), "cudaGraphInstantiate": (2,)})
    with pytest.raises(latentrt.EngineError, match="cudaMalloc failed: out of memory"):
        driver.malloc(10)
    with pytest.raises(latentrt.EngineError, match="cudaGraphInstantiate failed"):
        driver.end_capture(4)
    assert fake.calls[-1] == ("cudaGraphDestroy", 11)


def test_the_stand_in_answers_every_call_of_the_driver() -> None:
    """Otherwise the runner would be tested on another driver than it has."""
    calls = {name for name in vars(CudaPython) if not name.startswith("_")}
    assert calls == {name for name in vars(StandInDriver) if not name.startswith("_")} - {"live", "enqueue", "view"}
    cuda = importlib.import_module("latentrt.engines.backends.cuda")
    assert calls == {name for name in vars(cuda.Driver) if not name.startswith("_")}
