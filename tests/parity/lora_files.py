"""Files of LoRAs and their relatives, written by the savers of peft, diffusers and LyCORIS themselves."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import peft as integration

# transformers asks for 0.22; what is used of it here is in 0.21, too
integration.MIN_PEFT_VERSION = "0.21.0"

ENCODERS = ("text_encoder", "text_encoder_2")
PARTS = ("unet", *ENCODERS)


def parts_of(pipeline: Any, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """The modules of a diffusers pipeline that adapters change."""
    modules = {part: getattr(pipeline, part, None) for part in parts}
    return {part: module for part, module in modules.items() if module is not None}


def layers(module: torch.nn.Module, *, convolutions: bool) -> list[str]:
    """Names of linear layers, and of convolutions where they are asked for, that a trainer would pick."""
    picked = []
    for name, layer in module.named_modules():
        linear = isinstance(layer, torch.nn.Linear) and name.endswith(
            ("_proj", "fc1", "fc2", "to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out")
        )
        if linear or (convolutions and isinstance(layer, torch.nn.Conv2d)):
            picked.append(name)
    return picked


def trained(module: torch.nn.Module, seed: int, base: torch.nn.Module | None = None) -> None:
    """Gives every parameter that a saver will write random numbers, as a training would have left them.

    Changes are some tenths of the weights that they change: far from nothing, and nothing overflows.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            leaf = name.partition(".")[2]  # of LyCORIS' networks
            if any(word in name for word in ("magnitude", "dora_scale")):
                parameter.mul_(1 + 0.2 * noise)
            elif leaf in ("weight", "bias", "w_norm", "b_norm"):  # whole weights, not factors
                parameter.add_(0.05 * noise)
            elif any(word in name for word in ("lora_A", "lora_down", "lora_mid", "lokr_w1_b", "lokr_w2_b")):
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_((0.4 if "hada" in name else 0.15 if leaf[:1] in "ab" else 0.3) * noise)


def saved_by_diffusers(
    pipeline: Any,
    folder: Path,
    *,
    seed: int = 1,
    parts: tuple[str, ...] = PARTS,
    convolutions: bool = False,
    rank: int = 4,
    alpha: float = 2.0,
    **config: Any,
) -> Path:
    """A file of ``save_lora_weights``, as diffusers' own training scripts end, with the configs in its metadata."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    modules = deepcopy(parts_of(pipeline, parts))
    states = {}
    for index, (part, module) in enumerate(modules.items()):
        module.requires_grad_(False)
        targets = layers(module, convolutions=convolutions and part == "unet")
        module.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **config))
        trained(module, seed + index)
        states[f"{part}_lora_layers"] = get_peft_model_state_dict(module)
    metadata = _collate_lora_metadata(modules)
    type(pipeline).save_lora_weights(folder, **states, **metadata)
    return folder / "pytorch_lora_weights.safetensors"


def saved_by_peft(
    pipeline: Any,
    folder: Path,
    config: Callable[[list[str]], Any],
    *,
    seed: int = 1,
    parts: tuple[str, ...] = PARTS,
    convolutions: bool = False,
) -> Path:
    """A folder with what peft's ``save_pretrained`` writes for each part, in a folder of the part's name."""
    from peft import get_peft_model

    for index, (part, module) in enumerate(deepcopy(parts_of(pipeline, parts)).items()):
        model = get_peft_model(module, config(layers(module, convolutions=convolutions and part == "unet")))
        trained(model, seed + index)
        model.save_pretrained(folder / part)
    return folder


def lycoris_network(
    pipeline: Any, *, seed: int = 1, rank: int = 4, alpha: float = 2.0, passed_over: Sequence[str] = (), **options: Any
) -> Any:
    """LyCORIS' network for kohya's scripts over a pipeline's own modules, with random numbers, not yet applied."""
    from lycoris.kohya import PRESET, create_network

    # "full" names the time embedding's layers twice, and is refused for that by its own network
    modules = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "TimestepEmbedding"]
    PRESET["sd"] = {
        **PRESET["full"],
        "unet_target_module": modules,
        "unet_target_name": ["conv_in", "conv_out"],
        "exclude_name": list(passed_over),
    }
    encoders = list(parts_of(pipeline, ENCODERS).values())
    network = create_network(
        1.0,
        rank,
        alpha,
        None,
        encoders if len(encoders) > 1 else encoders[0],
        pipeline.unet,
        warn_on_unmatched=False,
        **{"preset": "sd", **options},
    )
    for lora in network.loras:
        network.add_module(lora.lora_name, lora)
    trained(network, seed)
    return network


def saved_by_lycoris(network: Any, file: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Its file, with text encoders named as in kohya's scripts.

    transformers 5.6 took the level ``text_model`` out of ``CLIPTextModel``; the files that people have were written
    before.
    """
    from safetensors.torch import load, save_file

    network.save_weights(str(file), torch.float32, dict(metadata or {}))
    tensors = load(file.read_bytes())
    for te in ("lora_te_", "lora_te1_", "lora_te2_"):
        longer = f"{te}text_model_encoder"
        tensors = {
            name.replace(f"{te}encoder", longer) if name.startswith(te) else name: tensor
            for name, tensor in tensors.items()
        }
    save_file(tensors, file, dict(metadata or {}))
    return file
