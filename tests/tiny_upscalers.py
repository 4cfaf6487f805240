"""Tiny upscalers with random weights, as trainers save them, and as ONNX files."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

State = dict[str, torch.Tensor]


def require_spandrel() -> None:
    """Skips the test where it is not installed."""
    if find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")


def rrdb_state(*, blocks: int = 2, channels: int = 8, growth: int = 32, inputs: int = 3, seed: int = 1) -> State:
    """Real-ESRGAN's RRDBNet in its own names; its residual is small, so that pictures stay pictures.

    Inputs: 3 for x4, 12 for x2, which takes blocks of 2x2 pixels.
    """
    generator = torch.Generator().manual_seed(seed)

    def convolution(name: str, taken: int, given: int) -> State:
        weight = torch.randn((given, taken, 3, 3), generator=generator) * 0.5 / (taken * 9) ** 0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(given, generator=generator) * 0.1}

    state = convolution("conv_first", inputs, channels)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for index in range(1, 6):
                given = channels if index == 5 else growth
                state |= convolution(f"body.{block}.rdb{dense}.conv{index}", channels + (index - 1) * growth, given)
    for name, given in (("conv_body", channels), ("conv_up1", channels), ("conv_up2", channels), ("conv_hr", channels)):
        state |= convolution(name, channels, given)
    return state | convolution("conv_last", channels, 3)


def compact_state(*, scale: int = 2, layers: int = 2, channels: int = 8, seed: int = 2) -> State:
    """SRVGGNetCompact in its own names: the picture's pixels repeated, and what the network adds."""
    generator = torch.Generator().manual_seed(seed)
    widths = [3, *[channels] * (layers + 1), 3 * scale**2]
    state: State = {}
    for index, (taken, given) in enumerate(pairwise(widths)):
        state[f"body.{2 * index}.weight"] = torch.randn((given, taken, 3, 3), generator=generator) * 0.15
        state[f"body.{2 * index}.bias"] = torch.zeros(given)
        if index <= layers:
            state[f"body.{2 * index + 1}.weight"] = torch.full((given,), 0.25)
    return state


def saved(path: Path, state: State, wrapper: str | None = "params_ema") -> Path:
    """Saves weights as trainers do, wrapped; returns the path."""
    torch.save(state if wrapper is None else {wrapper: state}, path)
    return path


def reference(state: Mapping[str, torch.Tensor], picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What spandrel's module makes of a picture (H, W, 3) in [0, 1], as one piece: (H', W', 3), cut to [0, 1]."""
    from latentrt.export.upscalers.spandrel_networks import _without_torchvision

    with _without_torchvision():
        import spandrel

    found = spandrel.MAIN_REGISTRY.load(dict(state))
    pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())
    result: np.ndarray[Any, Any] = found(pixels)[0].numpy().transpose(1, 2, 0)
    return result


def onnx_upscaler(
    path: Path,
    *,
    scale: int = 2,
    size: tuple[int | str, int | str] = ("h", "w"),
    batch: int | str = 1,
    half: bool = False,
    body: Callable[..., list[Any]] | None = None,
    channels: int = 3,
    inputs: int = 1,
    outside: bool = False,
) -> Path:
    """An ONNX file that repeats pixels, or computes ``body``; returns the path.

    Args:
        path: the file.
        scale: how often pixels are repeated.
        size: height and width as declared.
        batch: as declared.
        half: floats of 16 bits.
        body: makes the nodes from "in" to "out", given onnx.helper.
        channels: of the input.
        inputs: how many there are.
        outside: weights in a file beside it.
    """
    import onnx
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weight = np.zeros((channels, channels, 3, 3), np.float16 if half else np.float32)
    weight[range(channels), range(channels), 1, 1] = 1.0
    nodes = (
        [
            helper.make_node("Conv", ["in", "weight"], ["same"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("Resize", ["same", "", "scales"], ["out"], mode="nearest", name="resize"),
        ]
        if body is None
        else body(helper)
    )
    given = [helper.make_tensor_value_info(name, kind, [batch, channels, *size]) for name in ("in", "second")[:inputs]]
    result = helper.make_tensor_value_info("out", kind, None)
    scales = onnx.numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    initializers = [onnx.numpy_helper.from_array(weight, "weight"), scales]
    graph = helper.make_graph(nodes, "upscaler", given, [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.save(
        inferred,
        path,
        save_as_external_data=outside,
        location=f"{path.name}.data" if outside else None,
        size_threshold=0,
    )
    return path
