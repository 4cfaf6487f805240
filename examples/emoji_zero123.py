"""A tiny Zero123 made of the embedded emoji model: its U-Net with a second picture's channels, a new image encoder.

Used by `94_train_views.py`. Needs torch, diffusers and transformers.

The U-Net attends at its full size, too, as the embedded one does not: there a piece of the picture has to move from
one place to another. Those layers begin by passing on what they get.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

POSE = 4  # numbers of a pose, see emoji_views.View
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the embedded model leaves open."""

    vision_side: int = 64  # pixels a side that the image encoder is shown
    vision_patch: int = 16
    vision_width: int = 64
    vision_layers: int = 2


class Projection(nn.Module):
    """What the image encoder saw and a pose as one token, named as in the folders of Zero123."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.projection = nn.Linear(context + POSE, context)
        with torch.no_grad():
            self.projection.weight[:, :context] = torch.eye(context)
            nn.init.normal_(self.projection.weight[:, context:], std=0.5)
            nn.init.zeros_(self.projection.bias)

    def forward(self, embeds: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        """(N, context) and (N, 4) → (N, 1, context)."""
        token: torch.Tensor = self.projection(torch.cat([embeds, poses], dim=1))
        return token[:, None]


def scheduler() -> DDIMScheduler:
    """Zero123's own settings, which are the embedded model's."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def view_unet(still: UNet2DConditionModel) -> UNet2DConditionModel:
    """The embedded U-Net, blind to the second picture as it begins."""
    settings = {
        **still.config,
        "in_channels": 2 * still.config.in_channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * len(still.config.down_block_types),
        "up_block_types": ("CrossAttnUpBlock2D",) * len(still.config.up_block_types),
    }
    unet = UNet2DConditionModel.from_config(settings)
    weights = still.state_dict()
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    new, _ = unet.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for name in new:
            if ".proj_out." in name:
                nn.init.zeros_(unet.get_parameter(name))
    return unet


def parts_from_still(still: UNet2DConditionModel, sizes: Sizes) -> nn.ModuleDict:
    """What is trained: U-Net, image encoder and projection."""
    context = still.config.cross_attention_dim
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=2 * sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_width // 32,
            image_size=sizes.vision_side,
            patch_size=sizes.vision_patch,
            projection_dim=context,
            hidden_act="quick_gelu",
        )
    )
    return nn.ModuleDict(
        {"unet": view_unet(still), "image_encoder": image_encoder, "cc_projection": Projection(context)}
    )


def clip_pixels(pixels: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] as Zero123 shows them to CLIP: bicubic, nothing blurred before."""
    resized = F.interpolate(pixels, (sizes.vision_side,) * 2, mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
    return ((resized + 1) / 2 - mean) / std


@torch.inference_mode()
def draw_views(
    parts: nn.ModuleDict,
    vae: AutoencoderKL,
    pixels: torch.Tensor,
    poses: Sequence[tuple[float, float, float, float]],
    *,
    sizes: Sizes,
    steps: int,
    guidance: float,
    seed: int,
) -> torch.Tensor:
    """One picture (3, S, S) in [-1, 1] from several places, all with the same noise: (N, 3, S, S) in [-1, 1]."""
    seen = vae.encode(pixels[None]).latent_dist.mode().expand(len(poses), -1, -1, -1)  # unscaled, as in Zero123
    embeds = parts["image_encoder"](clip_pixels(pixels[None], sizes)).image_embeds.expand(len(poses), -1)
    token = parts["cc_projection"](embeds, torch.tensor(poses))
    context, picture = (torch.cat([one, torch.zeros_like(one)]) for one in (token, seen))
    ddim = scheduler()
    ddim.set_timesteps(steps)
    x = torch.randn(seen[:1].shape, generator=torch.Generator().manual_seed(seed)).expand_as(seen)
    for step in ddim.timesteps:
        predicted = parts["unet"](torch.cat([torch.cat([x, x]), picture], dim=1), step, context).sample
        told, untold = predicted.chunk(2)
        x = ddim.step(untold + guidance * (told - untold), step, x).prev_sample
    drawn: torch.Tensor = vae.decode(x / vae.config.scaling_factor).sample
    return drawn.clamp(-1, 1)


def save_checkpoint(parts: nn.ModuleDict, vae: AutoencoderKL, sizes: Sizes, folder: Path) -> None:
    """The folder in fp16, as diffusers' script for Zero123 writes it; there is no class in diffusers that would."""
    for name in ("unet", "image_encoder"):
        parts[name].half().save_pretrained(folder / name, safe_serialization=True)
    vae.half().save_pretrained(folder / "vae", safe_serialization=True)
    scheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessor(
        size={"shortest_edge": sizes.vision_side}, crop_size=sizes.vision_side, image_mean=CLIP_MEAN, image_std=CLIP_STD
    ).save_pretrained(folder / "feature_extractor")
    projection = folder / "cc_projection"
    projection.mkdir(parents=True, exist_ok=True)
    save_file(parts["cc_projection"].half().state_dict(), projection / "diffusion_pytorch_model.safetensors")
    _write(projection / "config.json", {"_class_name": "CCProjection"})
    _write(
        folder / "model_index.json",
        {
            "_class_name": "Zero1to3StableDiffusionPipeline",
            "cc_projection": ["pipeline_zero1to3", "CCProjection"],
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"wrote {folder}: {size / 1e6:.1f} MB", flush=True)


def load_checkpoint(folder: Path) -> tuple[nn.ModuleDict, AutoencoderKL]:
    """What was saved, in fp32."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", dtype=torch.float32)
    projection = Projection(unet.config.cross_attention_dim)
    projection.load_state_dict(load_file(folder / "cc_projection" / "diffusion_pytorch_model.safetensors"))
    parts = nn.ModuleDict({"unet": unet, "image_encoder": image_encoder, "cc_projection": projection})
    return parts.eval(), AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)


def _write(file: Path, settings: dict[str, object]) -> None:
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
