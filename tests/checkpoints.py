"""Tiny random checkpoints of every family in diffusers layout, for tests.

All shapes follow rules that hold for the real ones, so that a config can be worked out from tensor shapes: U-Nets of
SD 1.x have 8 heads and the others heads of 64 channels, text encoders have heads of 64, norms have 32 groups.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentrt.models import EMOJI

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_PNDM = ("PNDMScheduler", {**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1})
_DDIM = ("DDIMScheduler", {**_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1})
_EULER = ("EulerDiscreteScheduler", {**_BETAS, "timestep_spacing": "leading", "steps_offset": 1})
_LCM = ("LCMScheduler", {**_BETAS, "clip_sample": False})
_SD1_BLOCKS: Mapping[str, Any] = {
    "block_out_channels": (32, 64),
    "attention_head_dim": 8,  # which the library takes for the number of heads
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_SD2_BLOCKS: Mapping[str, Any] = {
    **_SD1_BLOCKS,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
}
_SDXL_BLOCKS: Mapping[str, Any] = {
    **_SD2_BLOCKS,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}
_GUIDANCE_EMBEDDING = {"time_cond_proj_dim": 16}
_MASKED = {"in_channels": 9}


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """One text encoder: its width, its activation, and what its tokenizer pads with (None: end of text)."""

    width: int
    act: str
    pad: str | None = None
    projection: int | None = None
    layers: int = 2


@dataclass(frozen=True, kw_only=True)
class _Tiny:
    """A family in small. ``encoders`` are by part; ``index`` is what model_index.json says besides the parts.

    ``hub`` is the model's name on the hub, which diffusers keeps in the configs of whatever was loaded from there.
    """

    pipeline: str
    unet: Mapping[str, Any]
    scheduler: tuple[str, Mapping[str, Any]]
    encoders: Mapping[str, _Encoder]
    vae: Mapping[str, Any] = field(default_factory=dict)
    time_ids: int = 0
    index: Mapping[str, Any] = field(default_factory=dict)
    hub: str | None = None


_CLIP_L = {"text_encoder": _Encoder(width=64, act="quick_gelu")}
_CLIP_H = {"text_encoder": _Encoder(width=128, act="gelu", pad="!")}
# Of other widths than the first, and projected to another one still, so that nothing can be taken for something else
_CLIP_G = {"text_encoder_2": _Encoder(width=128, act="gelu", pad="!", projection=96, layers=3)}
_CLIP_L_OF_XL = {"text_encoder": _Encoder(width=64, act="quick_gelu", layers=3)}


def _sdxl(
    pipeline: str = "StableDiffusionXLPipeline",
    scheduler: tuple[str, Mapping[str, Any]] = _EULER,
    unet: Mapping[str, Any] | None = None,
    hub: str | None = None,
) -> _Tiny:
    return _Tiny(
        pipeline=pipeline,
        unet={**_SDXL_BLOCKS, "transformer_layers_per_block": (1, 2), **(unet or {})},
        scheduler=scheduler,
        encoders={**_CLIP_L_OF_XL, **_CLIP_G},
        vae={"scaling_factor": 0.13025, "force_upcast": True},
        time_ids=6,
        index={"force_zeros_for_empty_prompt": True},
        hub=hub,
    )


TINY: Mapping[str, _Tiny] = {
    "sd1": _Tiny(pipeline="StableDiffusionPipeline", unet=_SD1_BLOCKS, scheduler=_PNDM, encoders=_CLIP_L),
    "sd1-inpaint": _Tiny(
        pipeline="StableDiffusionInpaintPipeline",
        unet={**_SD1_BLOCKS, **_MASKED},
        scheduler=_PNDM,
        encoders=_CLIP_L,
    ),
    "lcm-sd1": _Tiny(
        pipeline="LatentConsistencyModelPipeline",
        unet={**_SD1_BLOCKS, **_GUIDANCE_EMBEDDING},
        scheduler=_LCM,
        encoders=_CLIP_L,
    ),
    "sd2": _Tiny(
        pipeline="StableDiffusionPipeline",
        unet=_SD2_BLOCKS,
        scheduler=(_DDIM[0], {**_DDIM[1], "prediction_type": "v_prediction"}),
        encoders=_CLIP_H,
    ),
    "sd2-inpaint": _Tiny(
        pipeline="StableDiffusionInpaintPipeline",
        unet={**_SD2_BLOCKS, **_MASKED},
        scheduler=_DDIM,
        encoders=_CLIP_H,
    ),
    "sd-turbo": _Tiny(
        pipeline="StableDiffusionPipeline",
        unet=_SD2_BLOCKS,
        scheduler=("EulerDiscreteScheduler", {**_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}),
        encoders=_CLIP_H,
        hub="stabilityai/sd-turbo",
    ),
    "sdxl": _sdxl(),
    "sdxl-inpaint": _sdxl("StableDiffusionXLInpaintPipeline", unet=_MASKED),
    "sdxl-turbo": _sdxl(
        scheduler=("EulerAncestralDiscreteScheduler", {**_BETAS, "timestep_spacing": "trailing", "steps_offset": 1}),
        hub="stabilityai/sdxl-turbo",
    ),
    "lcm-sdxl": _sdxl(scheduler=_LCM, unet={**_GUIDANCE_EMBEDDING, "transformer_layers_per_block": 1}),
    "sdxl-refiner": _Tiny(
        pipeline="StableDiffusionXLImg2ImgPipeline",
        unet=_SDXL_BLOCKS,
        scheduler=_EULER,
        encoders=_CLIP_G,
        vae={"scaling_factor": 0.13025, "force_upcast": True},
        time_ids=5,
        index={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
}


def save_tiny_checkpoint(
    folder: Path,
    family: str = "sd1",
    *,
    pipeline: str | None = None,
    unet_in_channels: int | None = None,
    blocks: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> Path:
    """Saves a seeded random pipeline of 32×32 pixels and returns its folder.

    Its VAE halves the picture (16×16×4 latents); the U-Net has one level with and one without attention; the
    tokenizers are the embedded model's.

    Args:
        folder: where to save.
        family: a name in ``FAMILIES``.
        pipeline: another class for model_index.json.
        unet_in_channels: another number of input channels.
        blocks: settings over those of the family's U-Net.
        scheduler: settings over those of the family's scheduler.
    """
    import diffusers

    tiny = TINY[family]
    parts: dict[str, Any] = {}
    # One seed for every part, so that families with a part of the same shape have the same part
    for part, encoder in tiny.encoders.items():
        torch.manual_seed(0)
        parts[part], parts[part.replace("text_encoder", "tokenizer")] = _text_encoder(encoder)
    projections = [encoder.projection for encoder in tiny.encoders.values() if encoder.projection]
    if projections:
        embedded = tiny.time_ids * tiny.unet["addition_time_embed_dim"]
        added: dict[str, Any] = {"projection_class_embeddings_input_dim": projections[0] + embedded}
    else:
        added = {}
    masked = {} if unet_in_channels is None else {"in_channels": unet_in_channels}
    parts["unet"] = tiny_unet(family, **{**added, **masked, **(blocks or {})})
    parts["vae"] = tiny_vae(**tiny.vae)
    name, settings = tiny.scheduler
    parts["scheduler"] = getattr(diffusers, name)(**{**settings, **(scheduler or {})})
    save_parts(folder, pipeline or tiny.pipeline, parts, tiny.index)
    if tiny.hub is not None:
        for file in (folder / "model_index.json", folder / "unet" / "config.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "_name_or_path": tiny.hub}))
    return folder


def tiny_unet(family: str, **settings: Any) -> Any:
    """A random U-Net of a family, with settings over its own."""
    import diffusers

    tiny = TINY[family]
    torch.manual_seed(0)
    width = sum(encoder.width for encoder in tiny.encoders.values())
    usual = {"sample_size": 16, "layers_per_block": 1, "cross_attention_dim": width}
    return diffusers.UNet2DConditionModel(**{**usual, **tiny.unet, **settings})


def tiny_vae(**settings: Any) -> Any:
    """A random autoencoder that halves pictures."""
    import diffusers

    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=32,
        **settings,
    )


def tiny_text_encoder(family: str) -> tuple[Any, Any]:
    """The random first text encoder of a family, and its tokenizer."""
    torch.manual_seed(0)
    return _text_encoder(TINY[family].encoders["text_encoder"])


def _text_encoder(row: _Encoder) -> tuple[Any, Any]:
    """A random text encoder and its tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    if row.pad is not None:
        tokenizer.pad_token = row.pad
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=row.width,
        intermediate_size=4 * row.width,
        num_hidden_layers=row.layers,
        num_attention_heads=row.width // 64,
        max_position_embeddings=77,
        hidden_act=row.act,
        projection_dim=row.projection or row.width,
        bos_token_id=tokenizer.bos_token_id,
        # SDXL's files say 2, which stands for the highest id there is
        eos_token_id=2 if row.projection else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = (CLIPTextModelWithProjection if row.projection else CLIPTextModel)(config)
    # As initialised, the final norm leaves a mean of 0, which A1111's weights would divide by
    generator = torch.Generator().manual_seed(row.width)
    for parameter in getattr(encoder, "text_model", encoder).final_layer_norm.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return encoder, tokenizer


def save_parts(folder: Path, pipeline: str, parts: Mapping[str, Any], index: Mapping[str, Any]) -> None:
    """Every part in its folder, and model_index.json, as ``save_pretrained`` of a pipeline writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.42.1"}
    for part, module in sorted(parts.items()):
        module.save_pretrained(folder / part)
        listed[part] = [type(module).__module__.split(".")[0], type(module).__name__]
        if part.startswith("tokenizer"):
            for name in ("vocab.json", "merges.txt"):
                shutil.copy(EMOJI / "tokenizer" / name, folder / part / name)
    absent = ["safety_checker", "feature_extractor", "image_encoder"]
    if "XL" in pipeline:
        absent = ["text_encoder", "tokenizer"]  # which the refiner lists as null
    listed |= {part: [None, None] for part in absent if part not in parts}
    listed |= {"requires_safety_checker": False} if "XL" not in pipeline else {}
    (folder / "model_index.json").write_text(json.dumps({**listed, **index}, indent=1), "utf-8")
