"""Diffusers' names turned back to those of LDM and SGM, written here from those projects' modules, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
_RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_TOPS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "time_embedding.cond_proj.": "time_embed.cond_proj.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}


def ldm_unet(tensors: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    """A U-Net's tensors as ldm/modules/diffusionmodules/openaimodel.py numbers its blocks."""
    levels = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("down_blocks."))
    prefixes = dict(_TOPS)
    for level in range(levels):
        attends = any(key.startswith(f"up_blocks.{level}.attentions.") for key in tensors)
        for layer in range(layers):
            block = 1 + level * (layers + 1) + layer
            prefixes[f"down_blocks.{level}.resnets.{layer}."] = f"input_blocks.{block}.0."
            prefixes[f"down_blocks.{level}.attentions.{layer}."] = f"input_blocks.{block}.1."
        prefixes[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{(level + 1) * (layers + 1)}.0.op."
        for layer in range(layers + 1):
            block = level * (layers + 1) + layer
            prefixes[f"up_blocks.{level}.resnets.{layer}."] = f"output_blocks.{block}.0."
            prefixes[f"up_blocks.{level}.attentions.{layer}."] = f"output_blocks.{block}.1."
        last = level * (layers + 1) + layers
        prefixes[f"up_blocks.{level}.upsamplers.0.conv."] = f"output_blocks.{last}.{2 if attends else 1}.conv."
    return {_renamed(key, prefixes, _RESNET): tensor for key, tensor in tensors.items()}


def _renamed(key: str, prefixes: Mapping[str, str], inside_resnets: tuple[tuple[str, str], ...]) -> str:
    old = next(prefix for prefix in prefixes if key.startswith(prefix))
    rest = key.removeprefix(old)
    if ".resnets." in old:
        for ours, theirs in inside_resnets:
            if rest.startswith(ours):
                rest = theirs + rest.removeprefix(ours)
    return prefixes[old] + rest


def ldm_vae(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """An autoencoder's as ldm/modules/diffusionmodules/model.py names it; its attention is of 1×1 convolutions."""
    levels = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.down_blocks."))
    prefixes = {"quant_conv.": "quant_conv.", "post_quant_conv.": "post_quant_conv."}
    for half in ("encoder", "decoder"):
        prefixes |= {f"{half}.{name}.": f"{half}.{name}." for name in ("conv_in", "conv_out")}
        prefixes |= {
            f"{half}.conv_norm_out.": f"{half}.norm_out.",
            f"{half}.mid_block.resnets.0.": f"{half}.mid.block_1.",
            f"{half}.mid_block.resnets.1.": f"{half}.mid.block_2.",
            f"{half}.mid_block.attentions.0.group_norm.": f"{half}.mid.attn_1.norm.",
            f"{half}.mid_block.attentions.0.to_q.": f"{half}.mid.attn_1.q.",
            f"{half}.mid_block.attentions.0.to_k.": f"{half}.mid.attn_1.k.",
            f"{half}.mid_block.attentions.0.to_v.": f"{half}.mid.attn_1.v.",
            f"{half}.mid_block.attentions.0.to_out.0.": f"{half}.mid.attn_1.proj_out.",
        }
    for level in range(levels):
        for layer in range(4):
            prefixes[f"encoder.down_blocks.{level}.resnets.{layer}."] = f"encoder.down.{level}.block.{layer}."
            up = levels - 1 - level
            prefixes[f"decoder.up_blocks.{level}.resnets.{layer}."] = f"decoder.up.{up}.block.{layer}."
        prefixes[f"encoder.down_blocks.{level}.downsamplers.0.conv."] = f"encoder.down.{level}.downsample.conv."
        prefixes[f"decoder.up_blocks.{level}.upsamplers.0.conv."] = f"decoder.up.{levels - 1 - level}.upsample.conv."
    renamed = {}
    for key, tensor in tensors.items():
        name = _renamed(key, prefixes, (("conv_shortcut.", "nin_shortcut."),))
        renamed[name] = tensor[:, :, None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
    return renamed


def open_clip(tensors: Mapping[str, torch.Tensor], *, extra_layer: bool) -> Tensors:
    """A text encoder's as open_clip/transformer.py names it; with a last layer that SD 2.x does not run."""
    bare = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    layers = 1 + max(int(key.split(".")[2]) for key in bare if key.startswith("encoder.layers."))
    found = {
        "token_embedding.weight": bare["embeddings.token_embedding.weight"],
        "positional_embedding": bare["embeddings.position_embedding.weight"],
        "ln_final.weight": bare["final_layer_norm.weight"],
        "ln_final.bias": bare["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    for layer in range(layers):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            thirds = [bare[f"{ours}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(thirds)
            pairs = ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")
            for old, new in (*pairs, ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                found[f"{theirs}{new}.{kind}"] = bare[f"{ours}{old}.{kind}"]
    width = found["token_embedding.weight"].shape[1]
    projection = bare.get("text_projection.weight")
    found["text_projection"] = torch.zeros(width, width) if projection is None else projection.T.contiguous()
    if extra_layer:
        last = f"transformer.resblocks.{layers - 1}."
        for key in [key for key in found if key.startswith(last)]:
            found[key.replace(last, f"transformer.resblocks.{layers}.")] = torch.full_like(found[key], 7.0)
    return found


def averaged(unet: Mapping[str, torch.Tensor], scale: float = 2.0) -> Tensors:
    """LitEma's copies of a U-Net's tensors, told from them by a factor."""
    copies = {f"model_ema.diffusion_model{key.replace('.', '')}": scale * tensor for key, tensor in unet.items()}
    return {**copies, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def ldm_tensors(folder: Path) -> Tensors:
    """A diffusers folder's parts as one state dict in the layout of LDM (SD 1.x, 2.x) or SGM (XL)."""
    import json

    unet = json.loads((folder / "unet" / "config.json").read_text())
    tensors = below("model.diffusion_model.", ldm_unet(weights_in(folder / "unet"), unet["layers_per_block"]))
    tensors |= below("first_stage_model.", ldm_vae(weights_in(folder / "vae")))
    first, second = (weights_in(folder / name) for name in ("text_encoder", "text_encoder_2"))
    wrapped = {
        key if key.startswith("text_") else f"text_model.{key}": tensor for key, tensor in first.items()
    }  # as transformers 4 named them
    if second:
        place = "conditioner.embedders.1.model." if first else "conditioner.embedders.0.model."
        tensors |= below("conditioner.embedders.0.transformer.", wrapped) if first else {}
        return tensors | below(place, open_clip(second, extra_layer=False))
    if unet["use_linear_projection"]:
        return tensors | below("cond_stage_model.model.", open_clip(first, extra_layer=True))
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return tensors | below("cond_stage_model.transformer.", wrapped | positions)


def weights_in(folder: Path) -> Tensors:
    """All tensors of a part's folder; none of a folder that is not there."""
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under a prefix."""
    return {prefix + key: tensor.contiguous() for key, tensor in tensors.items()}


def save_single_file(folder: Path, path: Path, *, metadata: dict[str, str] | None = None, **extra: Any) -> Path:
    """Writes a folder's model as one file, as its suffix says; ``extra`` stands beside the tensors."""
    return save_tensors(ldm_tensors(folder), path, metadata=metadata, **extra)


def save_tensors(tensors: Tensors, path: Path, *, metadata: dict[str, str] | None = None, **extra: Any) -> Path:
    """Writes tensors as safetensors or as torch's archive."""
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    else:
        torch.save({"state_dict": tensors, **extra}, path)
    return path
