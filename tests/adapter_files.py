"""Models by the shapes of their weights, and adapters' files for them, without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from latentrt.engines.spec import Array

Shapes = dict[str, tuple[int, ...]]


def unet_shapes(
    channels: Sequence[int] = (320, 640, 1280, 1280),
    attending: Sequence[int] = (1, 1, 1, 0),
    context: int = 768,
    *,
    layers: int = 2,
    linear: bool = False,
    added: int = 0,
    in_channels: int = 4,
) -> Shapes:
    """The weights of a U-Net as diffusers has it; those of Stable Diffusion 1.x unless told otherwise.

    Args:
        channels: of each level.
        attending: transformer blocks in each attention of a level.
        context: the width of what cross-attention reads.
        layers: residual blocks in a level.
        linear: whether attentions begin with linears instead of convolutions of 1x1.
        added: inputs of SDXL's second embedding; 0 for none.
        in_channels: of the first convolution.
    """
    shapes: Shapes = {}
    time = 4 * channels[0]

    def module(path: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{path}.weight"] = shape
        if bias:
            shapes[f"{path}.bias"] = shape[:1]

    def resnet(path: str, before: int, after: int) -> None:
        module(f"{path}.norm1", before)
        module(f"{path}.conv1", after, before, 3, 3)
        module(f"{path}.time_emb_proj", after, time)
        module(f"{path}.norm2", after)
        module(f"{path}.conv2", after, after, 3, 3)
        if before != after:
            module(f"{path}.conv_shortcut", after, before, 1, 1)

    def attention(path: str, width: int, depth: int) -> None:
        ones = () if linear else (1, 1)
        module(f"{path}.norm", width)
        module(f"{path}.proj_in", width, width, *ones)
        for number in range(depth):
            block = f"{path}.transformer_blocks.{number}"
            for attn, inputs in (("attn1", width), ("attn2", context)):
                module(f"{block}.{attn}.to_q", width, width, bias=False)
                module(f"{block}.{attn}.to_k", width, inputs, bias=False)
                module(f"{block}.{attn}.to_v", width, inputs, bias=False)
                module(f"{block}.{attn}.to_out.0", width, width)
            module(f"{block}.ff.net.0.proj", 8 * width, width)
            module(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                module(f"{block}.{norm}", width)
        module(f"{path}.proj_out", width, width, *ones)

    module("conv_in", channels[0], in_channels, 3, 3)
    module("time_embedding.linear_1", time, channels[0])
    module("time_embedding.linear_2", time, time)
    if added:
        module("add_embedding.linear_1", time, added)
        module("add_embedding.linear_2", time, time)
    skips = [channels[0]]
    for level, (width, depth) in enumerate(zip(channels, attending, strict=True)):
        for layer in range(layers):
            resnet(f"down_blocks.{level}.resnets.{layer}", skips[-1], width)
            if depth:
                attention(f"down_blocks.{level}.attentions.{layer}", width, depth)
            skips.append(width)
        if level + 1 < len(channels):
            module(f"down_blocks.{level}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    resnet("mid_block.resnets.0", channels[-1], channels[-1])
    attention("mid_block.attentions.0", channels[-1], attending[-1] or 1)
    resnet("mid_block.resnets.1", channels[-1], channels[-1])
    before = channels[-1]
    for level, (width, depth) in enumerate(zip(reversed(channels), reversed(attending), strict=True)):
        for layer in range(layers + 1):
            resnet(f"up_blocks.{level}.resnets.{layer}", before + skips.pop(), width)
            before = width
            if depth:
                attention(f"up_blocks.{level}.attentions.{layer}", width, depth)
        if level + 1 < len(channels):
            module(f"up_blocks.{level}.upsamplers.0.conv", width, width, 3, 3)
    module("conv_norm_out", channels[0])
    module("conv_out", 4, channels[0], 3, 3)
    return shapes


def encoder_shapes(width: int = 768, layers: int = 12, projection: int = 0) -> Shapes:
    """The weights of a CLIP text encoder, CLIP-L's unless told otherwise."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, width),
        "text_model.embeddings.position_embedding.weight": (77, width),
        "text_model.final_layer_norm.weight": (width,),
        "text_model.final_layer_norm.bias": (width,),
    }
    for number in range(layers):
        layer = f"text_model.encoder.layers.{number}"
        parts = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        parts |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for part, shape in parts.items():
            shapes |= {f"{layer}.{part}.weight": shape, f"{layer}.{part}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    if projection:
        shapes["text_projection.weight"] = (projection, width)
    return shapes


# Of full width where it matters, and of few blocks
_SMALL: dict[str, Any] = {"channels": (32, 64), "attending": (1, 0)}
MODELS: Mapping[str, tuple[dict[str, Shapes], str]] = {
    "sd1": (
        {"unet": unet_shapes(**_SMALL), "text_encoder": encoder_shapes(layers=2)},
        "Stable Diffusion 1.x",
    ),
    "sd1-inpaint": (
        {"unet": unet_shapes(**_SMALL, in_channels=9), "text_encoder": encoder_shapes(layers=2)},
        "Stable Diffusion 1.x",
    ),
    "sd2": (
        {"unet": unet_shapes(**_SMALL, context=1024, linear=True), "text_encoder": encoder_shapes(1024, 2)},
        "Stable Diffusion 2.x",
    ),
    "sdxl": (
        {
            "unet": unet_shapes((32, 64, 64), (0, 2, 3), 2048, linear=True, added=64),
            "text_encoder": encoder_shapes(layers=2),
            "text_encoder_2": encoder_shapes(1280, 2, 1280),
        },
        "SDXL",
    ),
    "sdxl-refiner": (
        {
            "unet": unet_shapes((32, 64, 64), (0, 2, 2), 1280, linear=True, added=64),
            "text_encoder_2": encoder_shapes(1280, 2, 1280),
        },
        "SDXL's refiner",
    ),
}


def lora_of(stem: str, shape: tuple[int, ...], rank: int = 2, seed: int = 0) -> dict[str, Array]:
    """kohya's three tensors for a module, under its name there."""
    generator = np.random.default_rng([seed, len(stem), *shape])
    down = generator.normal(size=(rank, *shape[1:])).astype(np.float32)
    up = generator.normal(size=(shape[0], rank, *(1 for _ in shape[2:]))).astype(np.float32)
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": np.float32(1.0)[None][0:1]}


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, dict(metadata or {}) or None
    )
    return path


def save_peft(folder: Path, tensors: Mapping[str, Array], config: Mapping[str, Any]) -> Path:
    """Writes a folder as PEFT does."""
    save(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(dict(config)), "utf-8")
    return folder
