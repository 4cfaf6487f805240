"""Models of the true sizes in one file: every tensor finds its place. No weight is written, read or made."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from single_files import ldm_unet, ldm_vae, open_clip

from latentrt.export.source import checkpoint_from_model

_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UP = {_CROSS: "CrossAttnUpBlock2D", _PLAIN: "UpBlock2D"}
# As in the unet/config.json of the four models on the hub
UNETS: Mapping[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (_CROSS, _CROSS, _CROSS, _PLAIN),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (_CROSS, _CROSS, _CROSS, _PLAIN),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (_PLAIN, _CROSS, _CROSS),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (_PLAIN, _CROSS, _CROSS, _PLAIN),
        "cross_attention_dim": 1280,
        "attention_head_dim": (6, 12, 24, 24),
        "use_linear_projection": True,
        "transformer_layers_per_block": 4,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}
# hidden_size, layers that a checkpoint has, activation
_L, _H, _G = (768, 12, "quick_gelu"), (1024, 23, "gelu"), (1280, 32, "gelu")
ENCODERS = {
    "sd1": {"text_encoder": _L},
    "sd2": {"text_encoder": _H},
    "sdxl": {"text_encoder": _L, "text_encoder_2": _G},
    "sdxl-refiner": {"text_encoder_2": _G},
}
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
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    found: dict[str, Any] = {}
    with init_empty_weights():
        down = UNETS[family]["down_block_types"]
        found["unet"] = UNet2DConditionModel(
            **UNETS[family], up_block_types=tuple(_UP[kind] for kind in reversed(down)), layers_per_block=2
        )
        found["vae"] = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        for part, (width, layers, act) in ENCODERS[family].items():
            config = CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                hidden_act=act,
                projection_dim=width,
            )
            found[part] = (CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection)(config)
    return found


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


@pytest.mark.parametrize("family", UNETS)
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
