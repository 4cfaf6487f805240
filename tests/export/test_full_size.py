"""Models of the true sizes in one file: every tensor finds its place. No weight is written, read or made."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from picture_model_files import svd_of_parts, view_of_parts
from single_files import ldm_unet, ldm_vae, open_clip

from latentrt.benchmarks.studies.architectures import ARCHITECTURES, part_module
from latentrt.export.sources.source import checkpoint_from_model

PREFIXES = {
    "sd1": {"text_encoder": "cond_stage_model.transformer.text_model."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl-refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}
# What diffusers calls such files; millions of weights of the U-Net as published
DIFFUSERS = {"sd1": "v1", "sd2": "v2", "sdxl": "xl_base", "sdxl-refiner": "xl_refiner"}
MILLIONS = {"sd1": 859.5, "sd2": 865.9, "sdxl": 2567.5}


def modules(family: str) -> dict[str, Any]:
    """The parts, without storage for their weights."""
    from accelerate import init_empty_weights

    row = ARCHITECTURES[family]
    with init_empty_weights():
        return {part: part_module(row, part) for part in (*row.text_encoders, "unet", "vae")}


def ldm(family: str, parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors in the single file's names, on the meta device."""
    unet = ldm_unet(parts["unet"].state_dict(), 2)
    found = {f"model.diffusion_model.{key}": tensor for key, tensor in unet.items()}
    found |= {f"first_stage_model.{key}": tensor for key, tensor in ldm_vae(parts["vae"].state_dict()).items()}
    for part, prefix in PREFIXES[family].items():
        state = parts[part].state_dict()
        clip_l = prefix.endswith("text_model.")
        state = state if clip_l else open_clip(state, extra_layer=family == "sd2")
        found |= {prefix + key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    return found


def write_header(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A safetensors file of fp16 that is all hole behind its header: it takes no room on the disk."""
    header, end = {}, 0
    for key, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[key] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("family", PREFIXES)
@pytest.mark.grid(most=2)
def test_every_tensor_of_the_true_size_finds_its_place(family: str, tmp_path: Path) -> None:
    """Family, configs, shapes and tokenizers of SD 1.5, SD 2.1, SDXL and its refiner."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    parts = modules(family)
    tensors = ldm(family, parts)
    assert infer_diffusers_model_type(tensors) == DIFFUSERS[family]  # that the names are the real ones
    path = tmp_path / "model.safetensors"
    write_header(tensors, path)
    found = checkpoint_from_model(str(path))  # compares every name and shape with the module's
    assert found.family.name == family
    assert found.parts.keys() == parts.keys()
    if family in MILLIONS:
        assert round(found.parts["unet"].parameters / 1e6, 1) == MILLIONS[family]
    for name, module in parts.items():
        config = found.parts[name].config
        for key, value in config.items():
            if key in ("_class_name", "sample_size", "bos_token_id", "eos_token_id", "pad_token_id", "force_upcast"):
                continue
            if key == "projection_dim" and name == "text_encoder":
                continue  # of a text encoder without a projection, which no file tells
            expected = getattr(module.config, key)
            if key == "transformer_layers_per_block" and family == "sdxl-refiner":
                assert value == [1, 4, 4, 4]  # the first level has no transformers
            elif key == "scaling_factor":
                assert value == (0.13025 if "sdxl" in family else 0.18215)
            else:
                assert value == (list(expected) if isinstance(expected, tuple) else expected), (name, key)
    assert found.default_size == ((1024, 1024) if "sdxl" in family else (512, 512))
    assert found.latents.tile_pixels == found.parts["vae"].config["sample_size"]
    assert found.decisions["dtype"].value == "float16"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["svd", "zero123"])
def test_the_true_sizes_of_models_that_are_told_a_picture(family: str, tmp_path: Path) -> None:
    """SVD-XT and Zero123-XL: what shapes tell of the U-Net, of the autoencoder and of CLIP's ViT-H and ViT-L."""
    parts = picture_modules(family)
    states = [module.state_dict() for module in parts.values()]
    tensors = svd_of_parts(*states, layers=2) if family == "svd" else view_of_parts(*states, layers=2)
    path = tmp_path / {"svd": "svd_xt.safetensors", "zero123": "zero123-xl.ckpt"}[family]
    write_header(tensors, path)
    found = checkpoint_from_model(str(path))  # compares every name and shape with the module's
    assert found.family.name == family
    assert found.parts["unet"].parameters == {"svd": 1_524_623_082, "zero123": 859_532_484}[family]
    assert found.parts["image_encoder"].parameters == {"svd": 632_076_800, "zero123": 303_966_208}[family]
    assert found.default_size == {"svd": (1024, 576), "zero123": (256, 256)}[family]
    assert found.default_frames == {"svd": 25, "zero123": 1}[family]
    assert found.unread == {}
    for name, module in parts.items():
        config = getattr(module, "config", None)
        for key, value in found.parts[name].config.items() if config is not None else ():
            if key not in ("_class_name", "sample_size", "force_upcast", "scaling_factor"):
                expected = getattr(config, key)
                assert value == (list(expected) if isinstance(expected, tuple) else expected), (name, key)


def picture_modules(family: str) -> dict[str, Any]:
    """The parts of a model that is told a picture, without storage for their weights; sizes as published."""
    import diffusers
    from accelerate import init_empty_weights
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    levels = {"block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4}
    encoder = {"patch_size": 14, "image_size": 224, "num_attention_heads": 16}
    with init_empty_weights():
        if family == "svd":
            wide = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1024}
            return {
                "unet": diffusers.UNetSpatioTemporalConditionModel(),
                "vae": diffusers.AutoencoderKLTemporalDecoder(**levels, layers_per_block=2),
                "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**wide, **encoder, hidden_act="gelu")),
            }
        wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "projection_dim": 768}
        return {
            "unet": diffusers.UNet2DConditionModel(in_channels=8, cross_attention_dim=768),
            "vae": diffusers.AutoencoderKL(**levels, layers_per_block=2, up_block_types=("UpDecoderBlock2D",) * 4),
            "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**wide, **encoder)),
            "pose_projection": torch.nn.Linear(772, 768),
        }
