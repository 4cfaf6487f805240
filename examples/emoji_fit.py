"""Fits a network layer by layer to another one that differs in its normalisation, without a gradient.

Used by `93_train_video.py`. Needs torch and diffusers.

diffusers' temporal VAE always normalises in 32 groups, the embedded one in 8: with weights taken over as they are it
draws nothing to be recognised. One pass through both, first layer to last, mends most of that: every GroupNorm gets
the scales, every convolution the weights that bring its output nearest to the other network's, given what the layers
before it, fitted already, put in. A ResNet block's second convolution is fitted to the block's output, so that what
one block missed the next one can make good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

PULL = 1e-3  # towards the weights taken over, as a share of the inputs' mean square


def fit_norm(norm: nn.GroupNorm, given: torch.Tensor, wanted: torch.Tensor) -> None:
    """Sets a scale and a shift per channel by least squares; of the first channels, where fewer are wanted."""
    count = wanted.shape[1]
    plain = F.group_norm(given, norm.num_groups, eps=norm.eps)[:, :count]
    x, y = (value.transpose(0, 1).flatten(1) for value in (plain, wanted))
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    slope = ((x - mean_x) * (y - mean_y)).mean(1) / (x - mean_x).square().mean(1).clamp(min=1e-6)
    norm.weight[:count] = slope
    norm.bias[:count] = mean_y[:, 0] - slope * mean_x[:, 0]


def fit_convolution(layer: nn.Conv2d, given: torch.Tensor, wanted: torch.Tensor) -> None:
    """Sets weights and bias by ridge regression around the weights that are there; of the first outputs, as above.

    Inputs that are zero everywhere stay out of it.
    """
    count, live = wanted.shape[1], given.abs().amax(dim=(0, 2, 3)) > 0
    taps = layer.weight[0, 0].numel()
    inputs = int(live.sum()) * taps + 1
    square, mixed = torch.zeros(inputs, inputs), torch.zeros(inputs, count)
    for part, goal in zip(given.split(8), wanted.split(8), strict=True):
        missing = goal - layer.forward(part)[:, :count]  # not by a call, which would run its hooks
        x = F.unfold(part[:, live], layer.kernel_size, padding=layer.padding, stride=layer.stride)  # type: ignore[arg-type]
        x = torch.cat([x, torch.ones(len(x), 1, x.shape[2])], dim=1).transpose(0, 1).flatten(1)
        square += x @ x.T
        mixed += x @ missing.flatten(2).transpose(0, 1).flatten(1).T
    pull = PULL * square.diagonal().mean() * torch.eye(inputs)
    change = torch.linalg.solve((square + pull).double(), mixed.double()).float()
    weight = layer.weight[:count].clone()
    weight[:, live] += change[:-1].T.reshape(count, -1, *layer.kernel_size)
    layer.weight[:count] = weight
    layer.bias[:count] += change[-1]  # type: ignore[index]


def plain_name(name: str) -> str:
    """A spatio-temporal layer's name in the still network."""
    return name.replace(".spatial_res_block", "")


def fit_layers(
    still: nn.Module,
    run_still: Callable[[], object],
    fitted: nn.Module,
    run_fitted: Callable[[], object],
    instead: dict[str, torch.Tensor],
) -> None:
    """Fits every GroupNorm and Conv2d of a network to the other's of the same name, in the order in which they run.

    Args:
        still: what is copied; one run of it with the data gives the outputs that are wanted.
        fitted: what is changed, in one run with the same data.
        instead: outputs of layers and ResNet blocks of ``fitted`` that are wanted instead, by name in ``still``.
    """
    wanted: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            if isinstance(out, torch.Tensor):
                wanted[name] = out.detach()

        return hook

    hooks = [module.register_forward_hook(remember(name)) for name, module in still.named_modules()]
    with torch.no_grad():
        run_still()
    for handle in hooks:
        handle.remove()
    wanted.update(instead)

    entered: dict[str, torch.Tensor] = {}  # what went into a ResNet block

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            entered[name] = given[0]

        return hook

    def fit(name: str, block: nn.Module | None) -> Callable[..., Any]:
        def hook(module: nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor | None:
            target = wanted.get(plain_name(name))
            if name.endswith(".conv2") and isinstance(block, ResnetBlock2D):
                parent = name.removesuffix(".conv2")
                before, target = entered[parent], wanted.get(plain_name(parent))
                kept = before if block.conv_shortcut is None else block.conv_shortcut(before)
                if target is not None and target.shape[1] <= kept.shape[1]:
                    target = target - kept[:, : target.shape[1]]
            if target is None or target.shape[1] > out.shape[1]:
                return None
            if isinstance(module, nn.GroupNorm):
                fit_norm(module, given[0], target)
            else:
                fit_convolution(cast(nn.Conv2d, module), given[0], target)
            return cast(torch.Tensor, module.forward(given[0]))

        return hook

    modules, hooks = dict(fitted.named_modules()), []
    for name, module in modules.items():
        if isinstance(module, ResnetBlock2D):
            hooks.append(module.register_forward_pre_hook(enter(name)))
        if isinstance(module, (nn.GroupNorm, nn.Conv2d)) and not name.endswith(".conv_shortcut"):
            hooks.append(module.register_forward_hook(fit(name, modules.get(name.rpartition(".")[0]))))
    with torch.no_grad():
        run_fitted()
    for handle in hooks:
        handle.remove()
