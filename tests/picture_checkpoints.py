"""Tiny random checkpoints that are told of a picture, in diffusers' layout: videos, views, edits, variations.

Their sizes follow the same rules as those in ``checkpoints.py``.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoints import save_parts, tiny_text_encoder, tiny_unet, tiny_vae

WIDTH = 32
"""Of the image encoder's embedding, and of the token that the U-Net attends to."""
IMAGE_SIZE = 32
FRAMES = 4
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_svd(
    folder: Path,
    *,
    frames: int = FRAMES,
    scheduler: Mapping[str, Any] | None = None,
    blocks: Mapping[str, Any] | None = None,
) -> Path:
    """Stable Video Diffusion in small: pictures of 32 pixels and 4 frames, 16×16 latents.

    ``blocks`` are settings over those of its U-Net.
    """
    import diffusers

    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "num_attention_heads": (2, 4),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "num_frames": frames,
    }
    unet = diffusers.UNetSpatioTemporalConditionModel(**{**usual, **(blocks or {})})
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        sample_size=32,
        force_upcast=True,
    )
    _mix(unet, vae)
    parts = {
        "unet": unet,
        "vae": vae,
        "image_encoder": tiny_image_encoder("gelu"),
        "feature_extractor": _feature_extractor(),
        "scheduler": diffusers.EulerDiscreteScheduler(
            **{
                **_BETAS,
                "prediction_type": "v_prediction",
                "use_karras_sigmas": True,
                "sigma_min": 0.002,
                "sigma_max": 700.0,
                "timestep_spacing": "leading",
                "timestep_type": "continuous",
                "steps_offset": 1,
                **(scheduler or {}),
            }
        ),
    }
    save_parts(folder, "StableVideoDiffusionPipeline", parts, {})
    return folder


def save_zero123(
    folder: Path,
    *,
    pipeline: str = "Zero1to3StableDiffusionPipeline",
    scheduler: Mapping[str, Any] | None = None,
) -> Path:
    """Zero123 in small: pictures of 32 pixels; the projection of the pose is random, so that every number counts.

    ``pipeline`` is one of the two classes, which call that projection and its tensors by different names.
    """
    import diffusers

    parts = {
        "unet": tiny_unet("sd1", in_channels=8, cross_attention_dim=WIDTH),
        "vae": tiny_vae(),
        "image_encoder": tiny_image_encoder("quick_gelu"),
        "feature_extractor": _feature_extractor(),
        "scheduler": diffusers.DDIMScheduler(
            **{**_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **(scheduler or {})}
        ),
    }
    save_parts(folder, pipeline, parts, {})
    if pipeline == "Zero123Pipeline":
        _save_projection(folder, "clip_camera_projection", "proj", ["zero123", "CLIPCameraProjection"])
    else:
        _save_projection(folder, "cc_projection", "projection", ["pipeline_zero1to3", "CCProjection"])
    return folder


def save_instruct_pix2pix(folder: Path, *, scheduler: Mapping[str, Any] | None = None) -> Path:
    """InstructPix2Pix in small: the tiny SD 1.x with a U-Net of eight channels."""
    import diffusers

    text_encoder, tokenizer = tiny_text_encoder("sd1")
    parts = {
        "unet": tiny_unet("sd1", in_channels=8),
        "vae": tiny_vae(),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": diffusers.EulerAncestralDiscreteScheduler(**{**_BETAS, "steps_offset": 1, **(scheduler or {})}),
    }
    save_parts(folder, "StableDiffusionInstructPix2PixPipeline", parts, {})
    return folder


def save_image_variations(folder: Path, *, scheduler: Mapping[str, Any] | None = None) -> Path:
    """SD image variations in small: the image encoder's embedding is the only context."""
    import diffusers

    parts = {
        "unet": tiny_unet("sd1", cross_attention_dim=WIDTH),
        "vae": tiny_vae(),
        "image_encoder": tiny_image_encoder("quick_gelu"),
        "feature_extractor": _feature_extractor(),
        "scheduler": diffusers.PNDMScheduler(
            **{**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1, **(scheduler or {})}
        ),
    }
    save_parts(folder, "StableDiffusionImageVariationPipeline", parts, {})
    return folder


SAVED: Mapping[str, Callable[[Path], Path]] = {
    "svd": save_svd,
    "zero123": save_zero123,
    "stable-zero123": save_zero123,
    "instruct-pix2pix": save_instruct_pix2pix,
    "sd-image-variations": save_image_variations,
}
"""By the name of the family, and of the folder: that of Stable Zero123 tells it from the other."""


def tiny_image_encoder(act: str) -> Any:
    """CLIP's vision model of pictures of 32 pixels, 4 patches, and two layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=IMAGE_SIZE,
        patch_size=16,
        hidden_act=act,
    )
    return CLIPVisionModelWithProjection(config)


def _feature_extractor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def _mix(*modules: torch.nn.Module) -> None:
    """Mix factors of their own, so that none can be taken for another, nor its weight for the rest."""
    generator = torch.Generator().manual_seed(1)
    for module in modules:
        for name, parameter in module.named_parameters():
            if name.endswith("mix_factor"):
                parameter.data = torch.randn(1, generator=generator)


def _save_projection(folder: Path, part: str, scope: str, listed: list[str]) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    linear = torch.nn.Linear(WIDTH + 4, WIDTH)
    (folder / part).mkdir()
    state = {f"{scope}.{name}": tensor.detach().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(state, folder / part / "diffusion_pytorch_model.safetensors")
    (folder / part / "config.json").write_text(json.dumps({"_class_name": listed[1]}))
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), part: listed}, indent=1))
