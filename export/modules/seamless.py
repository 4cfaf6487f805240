"""Convolutions that wrap around, so that a picture's edges meet.

Padding becomes slices and a concatenation, which every backend has; ONNX's own Pad with mode "wrap" is missing from
TensorRT's parser.
"""

from typing import Any, TypeVar

import torch

from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import CheckpointError

_Module = TypeVar("_Module", bound=torch.nn.Module)


def seamless_module(module: _Module, seamless: Seamless) -> _Module:
    """Patches every convolution below ``module`` to wrap on the chosen axes and to pad with zeros on the others.

    The weights stay where they are; the module is changed and returned.

    Raises:
        CheckpointError: a convolution that pads in another way.
    """
    if seamless is Seamless.NONE:
        return module
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            _wrap(layer, seamless)
    for layer in module.modules():
        if _pads_itself(layer):
            _wrap_downsampling(layer, seamless)
    return module


def _wrap(conv: torch.nn.Conv2d, seamless: Seamless) -> None:
    """Moves the padding on the wrapped axes out of a convolution."""
    if not isinstance(conv.padding, tuple) or conv.padding_mode != "zeros":
        raise CheckpointError(f"got {conv}, expected zero padding by numbers; build it without seamless")
    rows, columns = conv.padding
    down, across = rows if seamless.wraps_y else 0, columns if seamless.wraps_x else 0
    if down or across:
        conv.padding = (rows - down, columns - across)
        conv.register_forward_pre_hook(lambda _, args: (_wrapped(args[0], (across, across), (down, down)),))


def _pads_itself(layer: torch.nn.Module) -> bool:
    """Whether a layer is the VAE encoder's downsampling, which pads by one at the right and the bottom alone."""
    from diffusers.models.downsampling import Downsample2D

    return isinstance(layer, Downsample2D) and layer.use_conv and layer.padding == 0


def _wrap_downsampling(layer: Any, seamless: Seamless) -> None:
    """The same for that padding, which the layer adds in front of its convolution."""
    layer.padding = 1  # anything but 0: the layer then adds none itself
    zeros = (0, 0 if seamless.wraps_x else 1, 0, 0 if seamless.wraps_y else 1)
    across, down = (0, 1 if seamless.wraps_x else 0), (0, 1 if seamless.wraps_y else 0)

    def pad(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        padded = _wrapped(args[0], across, down)
        return (torch.nn.functional.pad(padded, zeros) if any(zeros) else padded,)

    layer.conv.register_forward_pre_hook(pad)


def _wrapped(x: torch.Tensor, across: tuple[int, int], down: tuple[int, int]) -> torch.Tensor:
    """x (B, C, h, w) with columns (left, right) and rows (top, bottom) of its other side added."""
    for axis, (before, after) in ((3, across), (2, down)):
        size = x.shape[axis]
        parts = [x]
        if before:
            parts.insert(0, x.narrow(axis, size - before, before))
        if after:
            parts.append(x.narrow(axis, 0, after))
        x = torch.cat(parts, axis) if len(parts) > 1 else x
    return x
