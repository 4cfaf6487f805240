"""What else files of tensors hold that people take for LoRAs: known by their keys, and said by name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.engines.tensors.tensor_file import StoredTensor, TensorFile


@dataclass(frozen=True)
class _Kind:
    """One of them: what it is called, a key of which any file of it has one, and what to do instead."""

    name: str
    key: re.Pattern[str]
    advice: str


def _kind(name: str, key: str, advice: str) -> _Kind:
    return _Kind(name, re.compile(key, re.MULTILINE), advice)


_OTHER_MODEL = "choose a LoRA that was trained for this model"
_NOT_LORA = "choose a LoRA, LyCORIS or PEFT file"
_BUILD = "build it with latentrt build instead"
# The first that fits counts: special ones before those whose keys they share
_KINDS = (
    _kind("a ControlNet-LLLite", r"^lllite_", f"it needs a control image, which no LoRA takes; {_NOT_LORA}"),
    _kind(
        "a ControlNet-LoRA",
        r"^lora_controlnet$|^(input_blocks|middle_block)\..*\.(up|down)$",
        f"it is the change of a ControlNet; {_NOT_LORA}",
    ),
    _kind(
        "a ControlNet",
        r"^(control_model\.|controlnet_(cond_embedding|down_blocks|mid_block)\.|input_hint_block\.|zero_convs\.)",
        _NOT_LORA,
    ),
    _kind("an IP-Adapter", r"^(ip_adapter|image_proj|image_proj_model)\.", _NOT_LORA),
    _kind("a T2I-Adapter", r"^(adapter\.)?body\.\d+\.|^adapter\.(conv_in|body)\.", _NOT_LORA),
    _kind("a motion module (AnimateDiff)", r"motion_module|temporal_transformer", _NOT_LORA),
    _kind("Custom Diffusion's attention", r"custom_diffusion", _NOT_LORA),
    _kind(
        "a LoRA whose matrices have numbers for names (cloneofsimo/lora)",
        r"^(unet|text_encoder):\d+:(up|down)$",
        "convert it with lora_diffusion's own tools, or choose another file",
    ),
    _kind(
        "embeddings bundled with a LoRA",
        r"^bundle_emb\.",
        "save the LoRA without them, and load the embeddings with load_textual_inversion",
    ),
    _kind("a LoRA for Stable Cascade", r"^lora_prior_(unet|te)_", _OTHER_MODEL),
    _kind(
        "a LoRA for Chroma",
        r"distilled_guidance_layer",
        _OTHER_MODEL,
    ),
    _kind(
        "a LoRA for Flux.2",
        r"single_transformer_blocks.\d+.attn.to_qkv_mlp_proj|double_stream_modulation",
        _OTHER_MODEL,
    ),
    _kind("a LoRA for HunyuanVideo", r"img_attn_qkv|double_blocks.\d+.img_attn_qkv", _OTHER_MODEL),
    _kind(
        "a LoRA for Flux",
        r"double_blocks[._]\d|single_blocks[._]\d|single_transformer_blocks[._]\d|lora_transformer-",
        _OTHER_MODEL,
    ),
    _kind("a LoRA for AuraFlow", r"joint_transformer_blocks[._]\d", _OTHER_MODEL),
    _kind("a LoRA for Stable Diffusion 3", r"joint_blocks[._]\d|^lora_te3_|^text_encoder_3\.", _OTHER_MODEL),
    _kind("a LoRA for Qwen-Image", r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)", _OTHER_MODEL),
    _kind(
        "a LoRA for Stable Diffusion 3",
        r"^(lora_)?transformer[._]transformer_blocks[._]\d+[._]attn[._](add_[qkv]_proj|to_add_out)",
        _OTHER_MODEL,
    ),
    _kind("a LoRA for Lumina or Z-Image", r"(context|noise)_refiner[._]\d", _OTHER_MODEL),
    _kind("a LoRA for Anima or Cosmos", r"llm_adapter|adaln_modulation", _OTHER_MODEL),
    _kind("a LoRA for Wan", r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)[._]", _OTHER_MODEL),
    _kind(
        "a LoRA for HunyuanDiT", r"(^|[._])blocks[._]\d+[._](attn[12])[._](Wqkv|q_proj|kv_proj|out_proj)", _OTHER_MODEL
    ),
    _kind(
        "a LoRA for a diffusion transformer, such as PixArt or LTX-Video",
        r"^(base_model\.model\.)?(lora_)?transformer[._]|(^|[._])(adaln_single|caption_projection)[._]"
        r"|^(base_model\.model\.|diffusion_model\.)?transformer_blocks\.\d",
        _OTHER_MODEL,
    ),
    _kind("a LoRA for a language model", r"(^|\.)model\.layers\.\d+\.(self_attn|mlp)\.", _OTHER_MODEL),
    _kind(
        "a textual inversion",
        r"^(string_to_param|emb_params$|clip_[lg]$|<[^>]*>$)",
        "load it with load_textual_inversion",
    ),
    _kind(
        "a whole model",
        r"^(model\.diffusion_model|cond_stage_model|conditioner)\..*\.weight$"
        r"|^(unet\.|model\.)?(down_blocks|input_blocks)\.\d+\.(?!.*lora).*\.weight$"
        r"|^(text_encoder\.)?(text_model\.)?(embeddings\.token_embedding|encoder\.layers\.\d+\.[a-z_0-9.]+)\.weight$",
        _BUILD,
    ),
    _kind(
        "an autoencoder",
        r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|mid_block|down|up|up_blocks|down_blocks)\.",
        "build its model with latentrt build --vae instead",
    ),
    _kind(
        "PEFT's OFT, BOFT, VeRA or another of its newer adapters",
        r"\.(oft_[Rr]|boft_[RrSs]|vera_lambda_[bd]|lora_E|lora_ranknum|hra_u|fourierft_spectrum|vblora_\w+|randlora_\w+"
        r"|road_(theta|alpha)|miss_block|bone_\w+|c3a_kernel|shira_weight)(\.|$)",
        "merge it into its model with PEFT and build that one, or choose another file",
    ),
)


def kind_of_keys(keys: Iterable[str]) -> tuple[str, str] | None:
    """What a file with these keys is, and what to do instead; None where nothing tells."""
    text = "\n".join(keys)
    return next(((kind.name, kind.advice) for kind in _KINDS if kind.key.search(text)), None)


def refuse_without_tensors(file: TensorFile, name: str) -> None:
    """Refuses a file that holds no tensors by name, by what it holds.

    Raises:
        RequestError: always.
    """
    tree: Any = file.tree
    if isinstance(tree, Mapping) and any(type(key) is int for key in tree):
        raise RequestError(f"{name!r} is a hypernetwork, expected a LoRA; choose a LoRA, LyCORIS or PEFT file")
    if isinstance(tree, StoredTensor) or (isinstance(tree, Mapping) and tree.get("string_to_param") is not None):
        raise RequestError(f"{name!r} is a textual inversion, expected a LoRA; load it with load_textual_inversion")
    if isinstance(tree, (list, tuple)) and tree and isinstance(tree[0], StoredTensor):
        raise RequestError(
            f"{name!r} is a list of matrices without names (cloneofsimo/lora), expected a LoRA with names; convert it "
            "with lora_diffusion's own tools, or choose another file"
        )
    raise RequestError(f"{name!r} holds no tensors, expected a LoRA; choose a LoRA, LyCORIS or PEFT file")
