"""Plans that TensorRT-RTX really builds, on a machine without a GPU: what is in them, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentrt.engines.backends.tensorrt.build import (
    PlanBuilder,
    _read_timing_cache,
    _write_timing_cache,
    user_timing_cache,
)
from latentrt.engines.backends.tensorrt.contents import check_precision, counts_with_weights, kernels_from_inspection
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.component import ComponentRecord, FileRecord, ParityRecord, TensorRecord
from latentrt.engines.errors import EngineError
from latentrt.engines.progress import StageTimer

trt = pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")

CHANNELS, SIDE = 256, 8


def graph(dtype: str, *, operator: str = "Relu", output: str = "latent") -> Any:
    """Convolution, an operator, matrix product: weights of one dtype, batch by 256 by 8 by 8."""
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    random = np.random.default_rng(0)
    kernel = random.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(dtype) * np.dtype(dtype).type(0.02)
    matrix = random.normal(size=(SIDE, SIDE)).astype(dtype)
    shape = ["batch", CHANNELS, SIDE, SIDE]
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["sample", "kernel"], ["a"], name="/conv", pads=[1, 1, 1, 1]),
                helper.make_node(operator, ["a"], ["b"], name="/middle"),
                helper.make_node("MatMul", ["b", "matrix"], [output], name="/matmul"),
            ],
            "small",
            [helper.make_tensor_value_info("sample", kind, shape)],
            [helper.make_tensor_value_info(output, kind, shape)],
            [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@pytest.fixture
def small(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Component]:
    """A bundle whose only component is a small graph, with two profiles of different batches."""
    manifest = open_bundle(tiny_bundle).manifest

    def make(model: Any, dtype: str = "float32", precision: str = "fp32") -> Component:
        onnx.save(model, tmp_path / "model.onnx")
        size = (tmp_path / "model.onnx").stat().st_size
        tensor = TensorRecord.model_construct(shape=("batch", CHANNELS, SIDE, SIDE), dtype=dtype)
        record = ComponentRecord.model_construct(
            kind=ComponentKind.UNET,
            onnx="model.onnx",
            weights=None,
            precision=precision,
            inputs={"sample": tensor},
            outputs={"latent": tensor},
            probes="",
            parity=ParityRecord(relative_error=0.0, psnr=0.0, cases=1),
            batch_per_picture=1,
            parameters=CHANNELS * CHANNELS * 9 + SIDE * SIDE,
        )
        files = {"model.onnx": FileRecord(size=size, sha256="0" * 64)}
        changed = manifest.model_copy(update={"components": {"unet": record}, "files": files})
        return Component(root=tmp_path, manifest=changed, name="unet")

    return make


def built(component: Component, folder: Path, progress: Any = None) -> tuple[Any, Path]:
    """The plan for an sm89 and what was seen of it."""
    builder = PlanBuilder(trt, maker="TensorRT-RTX", workspace_mb=None, progress=progress)
    plan = folder / "model.plan"
    return builder.build(component, plan, trt.ComputeCapability.SM89, None), plan


@pytest.mark.parametrize(("dtype", "asked"), [("float32", "fp32"), ("float16", "fp16")])
def test_a_plan_has_the_precision_of_its_onnx(
    small: Callable[..., Component], tmp_path: Path, dtype: str, asked: str
) -> None:
    """Layers are counted by dtype; what was asked for is built, and the other precision fails by name before that."""
    contents, plan = built(small(graph(dtype), dtype, asked), tmp_path)
    assert contents.layers["CONVOLUTION"] == {dtype: 1}
    assert counts_with_weights(contents.layers) == {dtype: 2}
    plan.unlink()
    other, recorder = "fp16" if asked == "fp32" else "fp32", Recorder()
    with pytest.raises(EngineError, match=rf"unet was asked for in {other}.*2 {dtype}.*--precision {other}"):
        built(small(graph(dtype), dtype, other), tmp_path, recorder)
    assert not plan.exists()
    assert recorder.told == []


def asked_fp16(onnx_bytes: int) -> Any:
    """A component of 10⁹ parameters that was asked for in fp16."""
    return SimpleNamespace(
        name="unet",
        record=SimpleNamespace(precision="fp16", parameters=10**9, quantization=None),
        onnx_bytes=onnx_bytes,
    )


@pytest.mark.parametrize(("fp32", "passes"), [(0, True), (40, True), (60, False), (100, False)])
def test_islands_are_exceptions(fp32: int, passes: bool) -> None:
    """Of an fp16 engine's layers with weights most are fp16."""
    layers = {
        "CONVOLUTION": {"float16": 100 - fp32, "float32": fp32},
        "NORMALIZATION": {"float32": 500},
        "ELEMENTWISE": {"float32": 500},
    }
    if passes:
        check_precision(asked_fp16(2 * 10**9), layers, plan_bytes=2 * 10**9)
        return
    with pytest.raises(EngineError, match=f"its layers with weights are {100 - fp32} float16, {fp32} float32"):
        check_precision(asked_fp16(2 * 10**9), layers)


def test_sizes_that_tell_of_another_precision() -> None:
    """Weights of four bytes in an fp16 bundle, and a plan that widened them: each is named."""
    layers = {"CONVOLUTION": {"float16": 10}}
    with pytest.raises(EngineError, match=r"its ONNX has 4\.0 bytes a parameter"):
        check_precision(asked_fp16(4 * 10**9), layers)
    with pytest.raises(EngineError, match=r"its plan has 3815 MB for an ONNX of 1908 MB"):
        check_precision(asked_fp16(2 * 10**9), layers, plan_bytes=4 * 10**9)


def test_a_node_that_the_parser_refuses_is_named(small: Callable[..., Component], tmp_path: Path) -> None:
    """With its operator and the parser's reason; no plan is left."""
    component = small(graph("float32", operator="Frobnicate"))
    with pytest.raises(EngineError, match=r"TensorRT-RTX cannot parse the ONNX of unet: node '/middle' \(Frobnicate\)"):
        built(component, tmp_path)
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", None])
def test_a_file_that_is_no_onnx(small: Callable[..., Component], tmp_path: Path, content: bytes | None) -> None:
    """Empty, text, missing: the parser's reason, no traceback."""
    component = small(graph("float32"))
    (tmp_path / "model.onnx").unlink() if content is None else (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"the ONNX of unet.*build the bundle again"):
        built(component, tmp_path)


def test_tensors_are_held_against_the_spec(small: Callable[..., Component], tmp_path: Path) -> None:
    """Another name, another dtype: every difference is named before anything is built."""
    with pytest.raises(EngineError, match=r"no output latent; an output other too many|an output other.*no output lat"):
        built(small(graph("float32", output="other")), tmp_path)
    with pytest.raises(EngineError, match=r"input sample is .*float16 instead of \(2, 256, 8, 8\) float32.*output lat"):
        built(small(graph("float16")), tmp_path)


class Recorder(StageTimer):
    """Keeps what the builder tells of its phases."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int, int]] = []

    def phase(self, name: str, done: int, total: int) -> None:
        """Keeps it."""
        self.told.append((name, done, total))


def test_the_builder_tells_how_far_it_is(small: Callable[..., Component], tmp_path: Path) -> None:
    """Phases by name, from nothing to all of their steps."""
    recorder = Recorder()
    built(small(graph("float32")), tmp_path, recorder)
    assert len({name for name, _, _ in recorder.told}) > 2
    assert all(0 <= done <= total for _, done, total in recorder.told)
    assert any(done == total for _, done, total in recorder.told)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("a fault of the bar")])
def test_what_fails_in_a_report_ends_the_build(
    small: Callable[..., Component], tmp_path: Path, failure: BaseException
) -> None:
    """Ctrl-C arrives in a callback of the builder's: it must not pass through C++."""

    class Failing(Recorder):
        def phase(self, name: str, done: int, total: int) -> None:
            raise failure

    with pytest.raises(type(failure)):
        built(small(graph("float32")), tmp_path, Failing())
    assert not (tmp_path / "model.plan").exists()


def test_workspace_reaches_the_builder(small: Callable[..., Component], tmp_path: Path) -> None:
    """As bytes in the pool of that name."""
    limits = []
    real = trt.Builder

    class Builder(real):  # type: ignore[misc, valid-type]
        def build_serialized_network(self, network: Any, config: Any) -> Any:
            limits.append(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))
            return super().build_serialized_network(network, config)

    module = SimpleNamespace(**{name: getattr(trt, name) for name in dir(trt) if name[0] != "_"})
    module.Builder = Builder
    PlanBuilder(module, maker="TensorRT-RTX", workspace_mb=64, progress=None).build(
        small(graph("float32")), tmp_path / "model.plan", trt.ComputeCapability.SM89, None
    )
    assert limits == [64 * 2**20]


class Timings:
    """A configuration that holds a timing cache, as TensorRT's: it takes what it wrote, or nothing."""

    def __init__(self) -> None:
        self.cache: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return content if content in (b"", b"timings") else None

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"timings")


def test_timing_cache_is_kept_and_begun_anew_where_damaged(tmp_path: Path) -> None:
    """Missing, whole, damaged; a place that cannot be written costs nothing but time."""
    path = tmp_path / "new" / "x.timing"
    config = Timings()
    assert _read_timing_cache(config, path) == b""
    _write_timing_cache(config, path)
    assert path.read_bytes() == b"timings"
    assert _read_timing_cache(config, path) == b"timings"
    path.write_bytes(b"junk")
    assert _read_timing_cache(config, path) == b""
    assert _read_timing_cache(config, None) is None
    (tmp_path / "file").touch()
    _write_timing_cache(config, tmp_path / "file" / "x.timing")
    assert [each.name for each in path.parent.iterdir()] == ["x.timing"]


def test_timing_cache_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One file per version and machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    path = user_timing_cache("tensorrt", "10.13", "linux x86_64 sm89")
    assert path == tmp_path / "latentrt" / "tensorrt-10.13-linux-x86_64-sm89.timing"


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        ('{"Layers": [{"LayerType": "kgen"}, {"LayerType": "gemm"}, {"LayerType": "kgen"}]}', {"gemm": 1, "kgen": 2}),
        ('{"Layers": ["only a name"]}', None),
        ("{}", None),
        ("", None),
    ],
)
def test_kernels_are_counted_where_the_inspector_tells_them(text: str, kernels: dict[str, int] | None) -> None:
    """Names alone tell nothing."""
    assert kernels_from_inspection(text) == kernels
