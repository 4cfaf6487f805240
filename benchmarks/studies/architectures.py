"""The published architectures of the model families, as keywords of the libraries' classes: sizes, no weights.

From the configs of the models that Stability AI, Runway and SimianLuo published: their U-Nets have 859.5 M (SD 1.x),
865.9 M (SD 2.x), 2567.5 M (SDXL), 2,259.5 M (refiner) and 1,524.6 M (Stable Video Diffusion) weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latentrt.models import EMOJI

Config = Mapping[str, Any]
Scheduler = tuple[str, Config]

_BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_PNDM = ("PNDMScheduler", {**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1})
_DDIM = ("DDIMScheduler", {**_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1})
_EULER = ("EulerDiscreteScheduler", {**_BETAS, "timestep_spacing": "leading", "steps_offset": 1})
_SD, _XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
_LCM = ("LCMScheduler", {**_BETAS, "clip_sample": False})
_TRAILING: Config = {**_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}

VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
VAE_XL: Config = {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}

_UNET_1: Config = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_UNET_2: Config = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_UNET_XL: Config = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_UNET_REFINER: Config = {
    **_UNET_XL,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
_NONE: Config = {}
_MASKED: Config = {"in_channels": 9}
_GUIDED: Config = {"time_cond_proj_dim": 256}


def _clip(hidden_size: int, layers: int, projection_dim: int, hidden_act: str = "gelu") -> Config:
    """A text encoder: heads of 64 and feed-forward layers of four times its width."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 64,
        "hidden_act": hidden_act,
        "projection_dim": projection_dim,
    }


# CLIP ViT-L/14, OpenCLIP ViT-H/14 without its last layer, OpenCLIP ViT-bigG/14
_CLIP_L = {"text_encoder": _clip(768, 12, 768, "quick_gelu")}
_CLIP_H = {"text_encoder": _clip(1024, 23, 512)}
_CLIP_G = {"text_encoder_2": _clip(1280, 32, 1280)}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family at its true size: the pipeline's class, and keywords of every part; ``index`` goes into its file.

    ``frames`` are those of a video of ``size`` pixels a side.
    """

    pipeline: str
    size: int
    frames: int = 1
    unet: Config
    unet_class: str = "UNet2DConditionModel"
    vae_class: str = "AutoencoderKL"
    text_encoders: Mapping[str, Config]
    image_encoder: Config | None = None
    vae: Config
    scheduler: Scheduler
    index: Config = field(default_factory=dict)


def _sd(kind: str, scheduler: Scheduler, *, size: int = 512, unet: Config = _NONE) -> Architecture:
    """SD 1.x and 2.x, whose text encoders tell them apart by their width."""
    row = {**_UNET_1, **unet, "sample_size": size // 8}
    encoders = _CLIP_L if row["cross_attention_dim"] == 768 else _CLIP_H
    vae = {**VAE, "sample_size": size}
    return Architecture(pipeline=kind, size=size, unet=row, text_encoders=encoders, vae=vae, scheduler=scheduler)


def _xl(scheduler: Scheduler = _EULER, kind: str = _XL, *, size: int = 1024, unet: Config = _NONE) -> Architecture:
    return Architecture(
        pipeline=kind,
        size=size,
        unet={**_UNET_XL, **unet, "sample_size": size // 8},
        text_encoders={**_CLIP_L, **_CLIP_G},
        vae=VAE_XL,
        scheduler=scheduler,
        index={"force_zeros_for_empty_prompt": True},
    )


_UPCAST: Config = {**_UNET_2, "upcast_attention": True}
_V_DDIM = (_DDIM[0], {**_DDIM[1], "prediction_type": "v_prediction"})
ARCHITECTURES: Mapping[str, Architecture] = {
    "sd1": _sd(_SD, _PNDM),
    "sd1-inpaint": _sd("StableDiffusionInpaintPipeline", _PNDM, unet=_MASKED),
    "lcm-sd1": _sd("LatentConsistencyModelPipeline", _LCM, unet=_GUIDED),
    "sd2": _sd(_SD, _V_DDIM, size=768, unet=_UPCAST),
    "sd2-inpaint": _sd("StableDiffusionInpaintPipeline", _DDIM, unet={**_UNET_2, **_MASKED}),
    "sd-turbo": _sd(_SD, ("EulerDiscreteScheduler", _TRAILING), unet=_UNET_2),
    "sdxl": _xl(),
    "sdxl-inpaint": _xl(kind="StableDiffusionXLInpaintPipeline", unet=_MASKED),
    "sdxl-turbo": _xl(("EulerAncestralDiscreteScheduler", _TRAILING), size=512),
    "lcm-sdxl": _xl(_LCM, unet=_GUIDED),
    "sdxl-refiner": replace(
        _xl(kind="StableDiffusionXLImg2ImgPipeline", unet=_UNET_REFINER),
        text_encoders=_CLIP_G,
        index={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
    "svd": Architecture(
        pipeline="StableVideoDiffusionPipeline",
        size=256,  # of the 1024×576 that it draws a step takes eleven times as long
        frames=14,
        unet={"sample_size": 96, "num_frames": 14},
        unet_class="UNetSpatioTemporalConditionModel",
        vae_class="AutoencoderKLTemporalDecoder",
        text_encoders={},
        image_encoder={**_clip(1280, 32, 1024), "num_attention_heads": 16, "image_size": 224, "patch_size": 14},
        vae={
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "layers_per_block": 2,
            "sample_size": 768,
            "force_upcast": True,
        },
        scheduler=(
            "EulerDiscreteScheduler",
            {
                **_BETAS,
                "interpolation_type": "linear",
                "prediction_type": "v_prediction",
                "sigma_max": 700.0,
                "sigma_min": 0.002,
                "steps_offset": 1,
                "timestep_spacing": "leading",
                "timestep_type": "continuous",
                "use_karras_sigmas": True,
            },
        ),
    ),
}


def part_module(row: Architecture, part: str, **settings: Any) -> Any:
    """A family's ``unet``, ``vae`` or encoder as a module of its library, initialised at random.

    ``settings`` are keywords over the published ones: the ids of a text encoder's tokens.
    """
    import diffusers
    import transformers

    if part == "unet":
        return getattr(diffusers, row.unet_class)(**{**row.unet, **settings})
    if part == "vae":
        return getattr(diffusers, row.vae_class)(**{**row.vae, **settings})
    if part == "image_encoder":
        vision = transformers.CLIPVisionConfig(**{**(row.image_encoder or {}), **settings})
        return transformers.CLIPVisionModelWithProjection(vision)
    config = transformers.CLIPTextConfig(**{"vocab_size": 49408, **row.text_encoders[part], **settings})
    plain = part == "text_encoder"
    return (transformers.CLIPTextModel if plain else transformers.CLIPTextModelWithProjection)(config)


def save_checkpoint(family: str, folder: Path) -> None:
    """Saves a family's architecture with random weights, as ``save_architecture``."""
    save_architecture(ARCHITECTURES[family], folder)


def save_architecture(row: Architecture, folder: Path, *, device: str = "cpu") -> None:
    """Saves an architecture with seeded random fp16 weights, in diffusers layout, part by part.

    The vocabulary is padded to CLIP's 49408 tokens; the tokenizer is the embedded model's. The weights are drawn on the
    ``device``, as torch calls it: on a GPU in seconds.
    """
    import gc
    import json
    import os
    import shutil

    import diffusers
    import torch
    from transformers import CLIPImageProcessor, CLIPTokenizer

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    listed: dict[str, Any] = {"_class_name": row.pipeline, "_diffusers_version": diffusers.__version__}

    def save(part: str, module: Any) -> None:
        module.save_pretrained(partial / part)
        listed[part] = [type(module).__module__.split(".")[0], type(module).__name__]

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device(device)
    try:
        for part in row.text_encoders:
            number = part.removeprefix("text_encoder")
            tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
            save(f"tokenizer{number}", tokenizer)
            for name in ("vocab.json", "merges.txt"):
                shutil.copy(EMOJI / "tokenizer" / name, partial / f"tokenizer{number}" / name)
            tokens = {f"{one}_token_id": getattr(tokenizer, f"{one}_token_id") for one in ("bos", "eos", "pad")}
            save(part, part_module(row, part, **tokens))
        for part in ("unet", "vae", *(("image_encoder",) if row.image_encoder else ())):
            save(part, part_module(row, part))
            gc.collect()
        if row.image_encoder:
            pixels = row.image_encoder["image_size"]
            seen = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
            save("feature_extractor", CLIPImageProcessor(**seen))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    name, settings = row.scheduler
    save("scheduler", getattr(diffusers, name)(**settings))
    if row.image_encoder is None:
        missing = ["safety_checker", "feature_extractor", "image_encoder"] if "XL" not in row.pipeline else []
        missing += [part for part in ("text_encoder", "tokenizer") if part not in listed]
        listed |= {part: [None, None] for part in missing}
        listed |= {"requires_safety_checker": False} if "XL" not in row.pipeline else {}
    (partial / "model_index.json").write_text(json.dumps({**listed, **row.index}, indent=1), "utf-8")
    os.rename(partial, folder)
