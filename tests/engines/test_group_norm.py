"""Group norms made of operators that ONNX Runtime has kernels for, against float64."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from latentrt.engines.graphs.editor import serialized
from latentrt.engines.graphs.group_norm import GroupNorm, replace_group_norms

CHANNELS, GROUPS, EPSILON = 64, 16, 1e-3
SCALE, BIAS = np.random.default_rng(1).normal(size=(2, CHANNELS))


def model_of(dtype: Any, shape: list[str | int], *, weights: bool = True) -> Any:
    """One norm over the symbolic shape given."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = helper.make_tensor_value_info
    scale, bias = (numpy_helper.from_array(array.astype(dtype), name) for array, name in ((SCALE, "s"), (BIAS, "b")))
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=GROUPS, epsilon=EPSILON)
    inputs = [value("x", kind, shape)] + ([] if weights else [value(name, kind, [CHANNELS]) for name in "sb"])
    graph = helper.make_graph([node], "norm", inputs, [value("y", kind, shape)], [scale, bias] if weights else [])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))


def ran(model: Any, x: Any) -> Any:
    """What ONNX Runtime computes."""
    graph = serialized(model)
    onnx.checker.check_model(graph)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def expected(x: Any) -> Any:
    """PyTorch's, in float64."""
    wide = (torch.tensor(array.astype(np.float64)) for array in (x, SCALE.astype(x.dtype), BIAS.astype(x.dtype)))
    array, scale, bias = wide
    return torch.nn.functional.group_norm(array, GROUPS, scale, bias, EPSILON).numpy()


@pytest.mark.parametrize("way", GroupNorm)
@pytest.mark.parametrize(
    ("shape", "dtype", "bound"),
    [
        ((2, CHANNELS, 7, 9), np.float32, 5e-7),
        ((1, CHANNELS, 33), np.float32, 5e-7),
        ((2, CHANNELS, 8, 5), np.float16, 4e-4),
    ],
)
def test_it_is_the_same_norm(way: GroupNorm, shape: tuple[int, ...], dtype: Any, bound: float) -> None:
    """Of any rank and size that the graph leaves open, around a mean that is not zero, in either precision."""
    x = (np.random.default_rng(0).normal(size=shape) + 3.0).astype(dtype)
    model = model_of(dtype, ["n", CHANNELS, "h", "w"][: len(shape)])
    assert replace_group_norms(model, way) == 1
    assert all(node.op_type != "GroupNormalization" for node in model.graph)
    result = ran(model, x)
    assert result.dtype == dtype
    assert result.shape == shape
    error = np.linalg.norm(result - expected(x)) / np.linalg.norm(expected(x))
    assert error < bound


@pytest.mark.slow
def test_planes_of_a_picture_lose_nothing() -> None:
    """Where ONNX Runtime's own expansion is off by more than 1e-5."""
    x = (np.random.default_rng(0).normal(size=(1, CHANNELS, 512, 512)) + 3.0).astype(np.float32)
    model = model_of(np.float32, ["n", CHANNELS, "h", "w"])
    before = ran(model, x)
    replace_group_norms(model, GroupNorm.EXACT)
    after, true = ran(model, x), expected(x)
    assert np.linalg.norm(after - true) < 2e-7 * np.linalg.norm(true) < np.linalg.norm(before - true)


def test_a_scale_that_is_computed_stays() -> None:
    """Its number of channels is not known."""
    model = model_of(np.float32, ["n", CHANNELS, "h", "w"], weights=False)
    assert replace_group_norms(model, GroupNorm.FAST) == 0
    assert model.graph[0].op_type == "GroupNormalization"
