"""Tiny random IP-Adapters and their image encoder, as they are published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

PATCH, SIDE = 8, 32
WIDTH, PROJECTED = 64, 48  # of the encoder's patches, and of its vector of the whole
KINDS = ("base", "plus", "full")


def save_image_encoder(folder: Path, **settings: Any) -> Path:
    """Saves a ``CLIPVisionModelWithProjection`` with pictures of 32×32 pixels; returns the folder."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(11)
    config = CLIPVisionConfig(
        **{
            "hidden_size": WIDTH,
            "intermediate_size": 128,
            "projection_dim": PROJECTED,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": "gelu",
            **settings,
        }
    )
    encoder = CLIPVisionModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():  # as initialised, pictures hardly differ
        scale = 0.3 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=generator) + (
            "norm" in name and "weight" in name
        )
    encoder.save_pretrained(folder)
    return folder


def adapter_tensors(unet: Any, kind: str = "base", *, seed: int = 21) -> dict[str, dict[str, torch.Tensor]]:
    """The two dictionaries of an adapter's ``.bin`` for a U-Net of diffusers.

    ``kind`` is base, plus or full, or faceid, which nothing draws with.
    """
    context = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)

    def norm(name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + drawn(width), f"{name}.bias": drawn(width)}

    own: dict[str, torch.Tensor] = {}
    if kind == "base":
        own = {"proj.weight": drawn(4 * context, PROJECTED), "proj.bias": drawn(4 * context), **norm("norm", context)}
    elif kind == "full":
        own = {
            "proj.0.weight": drawn(WIDTH, WIDTH),
            "proj.0.bias": drawn(WIDTH),
            "proj.2.weight": drawn(context, WIDTH),
            "proj.2.bias": drawn(context),
            **norm("proj.3", context),
        }
    elif kind == "plus":
        width, inner = 96, 128
        own = {
            "latents": drawn(1, 8, width),
            "proj_in.weight": drawn(width, WIDTH),
            "proj_in.bias": drawn(width),
            "proj_out.weight": drawn(context, width),
            "proj_out.bias": drawn(context),
            **norm("norm_out", context),
        }
        for layer in range(4):  # diffusers knows no other number
            own |= {
                **norm(f"layers.{layer}.0.norm1", width),
                **norm(f"layers.{layer}.0.norm2", width),
                f"layers.{layer}.0.to_q.weight": drawn(inner, width),
                f"layers.{layer}.0.to_kv.weight": drawn(2 * inner, width),
                f"layers.{layer}.0.to_out.weight": drawn(width, inner),
                **norm(f"layers.{layer}.1.0", width),
                f"layers.{layer}.1.1.weight": drawn(4 * width, width),
                f"layers.{layer}.1.3.weight": drawn(width, 4 * width),
            }
    else:
        own = {"proj.0.weight": drawn(1024, 512), "proj.2.weight": drawn(4 * context, 1024), **norm("norm", context)}
    attentions = [name for name in unet.attn_processors if "attn2" in name]
    layers = {}
    for index, name in enumerate(attentions):  # the library's order, as files have it
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
        for one in "kv":
            layers[f"{2 * index + 1}.to_{one}_ip.weight"] = 1.5 * drawn(width, context)
    return {"image_proj": own, "ip_adapter": layers}


def save_adapter(path: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """Saves an adapter as a ``.bin``, or as safetensors with prefixes; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({f"{part}.{key}": value for part, rows in tensors.items() for key, value in rows.items()}, path)
    else:
        torch.save({part: dict(rows) for part, rows in tensors.items()}, path)
    return path


def save_adapter_for(path: Path, checkpoint: Path, kind: str = "base", *, seed: int = 21) -> Path:
    """Saves one for a checkpoint's U-Net."""
    import diffusers

    unet = diffusers.UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    return save_adapter(path, adapter_tensors(unet, kind, seed=seed))
