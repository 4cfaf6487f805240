"""Zeros that TensorRT sees: in networks that TensorRT-RTX parses, and in a plan that it builds without a GPU."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.backends.tensorrt.sparse_layers import sparse_layers
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.pruning.layers import pruned_by
from latentrt.engines.pruning.two_of_four import is_two_of_four
from latentrt.engines.spec import Array
from latentrt.engines.store.store import engines_in
from latentrt.quantization.settings import Effort

trt = pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")

CHANNELS, SIDE = 32, 8


def graph(kernel: Array, matrix: Array, *, steps: bool = False) -> Any:
    """A convolution and a product with a matrix (inputs, outputs); weights in eight bits with ``steps``."""
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32 if steps else kernel.dtype))
    nodes, weights = [], {"kernel": kernel, "matrix": matrix}
    if steps:
        weights |= {"step": np.float32(0.02), "activation": np.float32(0.1), "zero": np.int8(0)}
        for name in ("sample", "kernel", "matrix"):
            rounded = name
            if name == "sample":
                rounded = "sample.rounded"
                nodes.append(helper.make_node("QuantizeLinear", [name, "activation", "zero"], [rounded]))
            step = "activation" if name == "sample" else "step"
            nodes.append(helper.make_node("DequantizeLinear", [rounded, step, "zero"], [f"{name}.wide"]))
    end = ".wide" if steps else ""
    nodes += [
        helper.make_node("Conv", [f"sample{end}", f"kernel{end}"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["b", f"matrix{end}"], ["out"], name="matmul"),
    ]
    shape = [1, CHANNELS, SIDE, SIDE]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("sample", kind, shape)],
            [helper.make_tensor_value_info("out", kind, [1, SIDE, SIDE, CHANNELS])],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("pruned", [(), ("kernel",), ("matrix",), ("kernel", "matrix")])
def test_layers_whose_zeros_a_network_has(dtype: type, pruned: tuple[str, ...]) -> None:
    """Of a convolution along its input channels, of a product along its inputs; behind Q/DQ, too."""
    drawn = np.random.default_rng(0)
    kernel = drawn.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    matrix = drawn.normal(size=(CHANNELS, CHANNELS)).astype(np.float32)
    ones = np.ones(CHANNELS, np.float32)
    kernel = pruned_by(kernel, ones) if "kernel" in pruned else kernel
    matrix = pruned_by(matrix, ones).T if "matrix" in pruned else matrix
    factor = 20 if dtype is np.int8 else 1
    model = graph(
        (factor * kernel).astype(dtype), np.ascontiguousarray(factor * matrix).astype(dtype), steps=dtype is np.int8
    )
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    expected = {"kernel": "CONVOLUTION", "matrix": "MATRIX_MULTIPLY"}
    assert sparse_layers(trt, network) == {expected[name]: 1 for name in pruned}


@pytest.mark.slow
def test_a_plan_of_a_pruned_unet(
    pruned_bundle: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is built for sm89 with the builder's eyes on zeros; the network has as many such layers as the bundle says."""
    bundle = shutil.copytree(pruned_bundle, tmp_path / "pruned.bundle")
    flags: dict[int, bool] = {}

    class Watching(trt.Builder):  # type: ignore[misc]
        def build_serialized_network(self, network: Any, config: Any) -> Any:
            flags[network.num_layers] = config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
            return super().build_serialized_network(network, config)

    monkeypatch.setattr(trt, "Builder", Watching)
    latentrt.build(bundle, backend="tensorrt-rtx", gpus=["sm89"])
    record = open_bundle(bundle).manifest.components["unet"].sparsity
    assert record is not None
    plans = {engine.component: engine for engine in engines_in(bundle) if engine.backend == "tensorrt-rtx"}
    contents = plans["unet"].contents
    assert contents is not None
    assert sum(contents.sparse.values()) == sum(layer.pruned for layer in record.layers.values())
    assert contents.sparse["CONVOLUTION"] > 10
    assert plans["unet"].flags["sparsity"] == "2:4"
    assert sum(flags.values()) == 1
    assert flags[max(flags)]
    shown = " ".join(command("inspect", str(bundle)).stdout.split())
    assert f"{sum(contents.sparse.values())} with zeros 2:4" in shown
    assert all(plan.contents is not None and not plan.contents.sparse for name, plan in plans.items() if name != "unet")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_plan_of_what_is_pruned_and_rounded(
    precision: str, emoji_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sm89, of the embedded model: rounded weights have the zeros, and the builder is told to look for them."""
    effort = Effort(steps=2, pictures=2, calls=1)
    monkeypatch.setattr("latentrt.sparsity.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", effort)
    made = latentrt.build(
        shutil.copytree(emoji_bundle, tmp_path / "whole.bundle"),
        tmp_path / "both.bundle",
        sparsity="2:4",
        precision=precision,
        backend="tensorrt-rtx",
        gpus=["sm89"],
        prompts=int8_prompts,
        quality=20.0,
    ).bundle
    unet = made.manifest.components["unet"]
    assert unet.sparsity is not None
    assert unet.quantization is not None
    assert unet.quantization.psnr_mean >= 20.0
    pruned = {path for path, layer in unet.sparsity.layers.items() if layer.pruned}
    both = {path for path in pruned if unet.quantization.nodes[path].rounded}
    assert len(both) > 5
    stored = 0
    for row in made.weights("unet").named.rounded.values():
        numbers = np.memmap(made.root / row.file, np.uint8, "r", row.offset, row.shape)
        bits = numbers & 0x7F if precision == "fp8" else numbers  # fp8 has a zero of either sign
        sparse = is_two_of_four(bits, 1 - row.axis)
        assert sparse or not any(path.endswith(row.weight.removesuffix(".weight")) for path in both)
        stored += sparse
    assert stored >= len(both)
    plan = next(engine for engine in engines_in(made.root) if engine.component == "unet" and engine.contents)
    assert plan.flags["sparsity"] == "2:4"
    assert plan.contents is not None
    # TensorRT's Python does not show numbers in fp8
    assert sum(plan.contents.sparse.values()) == (len(both) if precision == "int8" else 0)
