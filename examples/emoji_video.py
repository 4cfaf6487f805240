"""A tiny Stable Video Diffusion made of the embedded emoji model: its layers where shapes fit, new ones at rest.

Used by `93_train_video.py`. Needs torch, diffusers and transformers.

Three things keep the weights from doing at once what they did. The spatio-temporal classes normalise in 32 groups, the
embedded model in 16 and 8: emoji_fit.py finds weights that come near all the same. In the VAE's layers at full size a
group would be one channel, and colours would be lost: 96 idle channels beside the 32 give the embedded model's groups.
And U-Nets of SVD are told a level of noise where the embedded one is told a step: `fit_time_embedding` translates.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

sys.path.insert(0, str(Path(__file__).parent))
import emoji_fit


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the embedded model leaves open."""

    frames: int = 8
    vae_width: int = 128  # channels at full size, four to a group; the embedded VAE's 32 and idle ones
    deepest: int = 128  # channels at 4×4, where the embedded U-Net has 160
    attends: tuple[bool, ...] = (False, True, False)  # by level; the middle does always
    time_id_width: int = 32  # of each of frame rate, motion bucket and noise augmentation
    vision_width: int = 64
    vision_layers: int = 2
    vision_patch: int = 16  # of the 224 pixels a side that the pipeline gives


def scheduler() -> EulerDiscreteScheduler:
    """Stable Video Diffusion's own settings."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=True,
        interpolation_type="linear",
        sigma_min=0.002,
        sigma_max=700.0,
    )


def vision_encoder(sizes: Sizes, context: int) -> CLIPVisionModelWithProjection:
    """A CLIP vision tower of a few layers, untrained."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=2 * sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_width // 32,
            image_size=224,
            patch_size=sizes.vision_patch,
            projection_dim=context,
            hidden_act="gelu",
        )
    )


def copy_where_it_fits(weights: dict[str, torch.Tensor], target: nn.Module) -> list[str]:
    """Copies still weights into a spatio-temporal model; returns what found no place.

    A ResNet block of the one is the spatial half of one of the other. 1×1 convolutions become linear, and a
    convolution that got more input channels begins with none of them.
    """
    own, left = target.state_dict(), []
    for name, value in weights.items():
        spatial = name
        if ".resnets." in name:
            head, _, rest = name.partition(".resnets.")
            number, _, rest = rest.partition(".")
            spatial = f"{head}.resnets.{number}.spatial_res_block.{rest}"
        place = next((key for key in (name, spatial) if key in own), None)
        if place is None:
            left.append(name)
            continue
        there = own[place]
        if value.numel() == there.numel():
            there.copy_(value.reshape(there.shape))
        elif value.ndim == there.ndim and all(few <= many for few, many in zip(value.shape, there.shape, strict=True)):
            there.zero_()[tuple(slice(size) for size in value.shape)] = value
        else:
            left.append(name)
    return left


def rest_in_time(model: nn.Module) -> None:
    """Temporal layers that pass on what they get: the last layer of every branch begins at zero."""
    for name, module in model.named_modules():
        last = name.endswith(("temporal_res_block.conv2", "time_pos_embed.linear_2")) or (
            "temporal_transformer_blocks" in name and name.endswith(("to_out.0", "net.2"))
        )
        if last and isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith("time_conv_out") and isinstance(module, nn.Conv3d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight[:, :, 1, 0, 0] = torch.eye(module.out_channels)


def temporal_vae(still: AutoencoderKL, sizes: Sizes) -> AutoencoderKLTemporalDecoder:
    """The embedded VAE with a temporal decoder, without its decoder's attention and what follows in the middle."""
    config = still.config
    vae = AutoencoderKLTemporalDecoder(
        sample_size=config.sample_size,
        latent_channels=config.latent_channels,
        down_block_types=config.down_block_types,
        block_out_channels=(sizes.vae_width, *config.block_out_channels[1:]),
        layers_per_block=config.layers_per_block,
        scaling_factor=config.scaling_factor,
        force_upcast=True,
    )
    weights = dict(still.state_dict())
    after, before = weights.pop("post_quant_conv.weight"), weights.pop("post_quant_conv.bias")
    first = weights["decoder.conv_in.weight"]
    weights["decoder.conv_in.weight"] = torch.einsum("oihw,ij->ojhw", first, after[:, :, 0, 0])
    weights["decoder.conv_in.bias"] = weights["decoder.conv_in.bias"] + torch.einsum("oihw,i->o", first, before)
    copy_where_it_fits(weights, vae)
    rest_in_time(vae)
    return vae


def spatio_temporal_unet(still: UNet2DConditionModel, sizes: Sizes) -> UNetSpatioTemporalConditionModel:
    """The embedded U-Net with layers over time and a second picture's channels."""
    config = still.config
    channels = (*config.block_out_channels[:-1], sizes.deepest)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=[config.sample_size] * 2,  # one number would mean that clips are wide, as in SVD
        in_channels=2 * config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(f"{'CrossAttn' * attends}DownBlockSpatioTemporal" for attends in sizes.attends),
        up_block_types=tuple(f"{'CrossAttn' * attends}UpBlockSpatioTemporal" for attends in reversed(sizes.attends)),
        block_out_channels=channels,
        layers_per_block=config.layers_per_block,
        num_attention_heads=tuple(count // 32 for count in channels),
        cross_attention_dim=config.cross_attention_dim,
        addition_time_embed_dim=sizes.time_id_width,
        projection_class_embeddings_input_dim=3 * sizes.time_id_width,
        num_frames=sizes.frames,
    )
    copy_where_it_fits(still.state_dict(), unet)
    rest_in_time(unet)
    nn.init.zeros_(unet.add_embedding.linear_2.weight)
    nn.init.zeros_(unet.add_embedding.linear_2.bias)
    return unet


def fit_time_embedding(
    still: UNet2DConditionModel, unet: UNetSpatioTemporalConditionModel, alphas: torch.Tensor
) -> float:
    """Teaches the U-Net's time embedding what the still one says of the same noise; returns the error left, relative.

    alphas: ᾱ of the still model by step. Levels above its last are read as its last.
    """
    sigmas = torch.exp(torch.linspace(math.log(0.002), math.log(700), 512))
    with torch.no_grad():
        wanted = still.time_embedding(still.time_proj(steps_of(sigmas, alphas)))
    told = unet.time_proj(0.25 * sigmas.log())
    optimizer, rounds, rate = torch.optim.Adam(unet.time_embedding.parameters()), 500, 5e-3
    for done in range(rounds):
        optimizer.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * done / rounds))
        optimizer.zero_grad()
        error = (unet.time_embedding(told) - wanted).square().mean()
        error.backward()
        optimizer.step()
    return float(error.detach() / wanted.var())


def steps_of(sigmas: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """The still model's steps of the same noise."""
    return torch.searchsorted(((1 - alphas) / alphas).sqrt(), sigmas).clamp(max=len(alphas) - 1)


def fit_vae(still: AutoencoderKL, vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor) -> None:
    """Fits the temporal VAE to the embedded one; latents stay the embedded one's."""
    emoji_fit.fit_layers(still.encoder, lambda: still.encoder(frames), vae.encoder, lambda: vae.encoder(frames), {})
    middle: list[torch.Tensor] = []
    hook = still.decoder.mid_block.register_forward_hook(lambda module, given, out: middle.append(out))
    with torch.no_grad():
        latents = still.encode(frames).latent_dist.mean
        still.decode(latents)
    hook.remove()
    emoji_fit.fit_layers(
        still.decoder,
        lambda: still.decoder(still.post_quant_conv(latents)),
        vae.decoder,
        lambda: vae.decode(latents, num_frames=2),
        {"mid_block.resnets.0": middle[0], "conv_out": frames},
    )


def fit_unet(
    still: StableDiffusionPipeline, unet: UNetSpatioTemporalConditionModel, frames: torch.Tensor, prompts: list[str]
) -> None:
    """Fits the U-Net, shown no picture, to the embedded one, and its last layer to the velocity of still frames."""
    alphas = still.scheduler.alphas_cumprod
    fit_time_embedding(still.unet, unet, alphas)
    sigmas = torch.exp(torch.linspace(math.log(0.05), math.log(14), len(frames)))[torch.randperm(len(frames))]
    with torch.no_grad():
        z = still.vae.encode(frames).latent_dist.mean * still.vae.config.scaling_factor
        tokens = still.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        text = still.text_encoder(tokens).last_hidden_state
    sigma, noise = sigmas.view(-1, 1, 1, 1), torch.randn(z.shape)
    norm = (sigma.square() + 1).sqrt()
    noisy = (z + sigma * noise) / norm
    emoji_fit.fit_layers(
        still.unet,
        lambda: still.unet(noisy, steps_of(sigmas, alphas), text),
        unet,
        lambda: unet(
            torch.cat([noisy, torch.zeros_like(noisy)], dim=1)[:, None],
            0.25 * sigmas.log(),
            torch.zeros(len(frames), 1, text.shape[2]),
            torch.zeros(len(frames), 3),
        ),
        {"conv_out": (noise - sigma * z) / norm},
    )
