"""Which other model a file of tensors holds, by the names of its tensors alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# The prefix under which LDM, SGM and their descendants keep the denoiser
_IN = r"^(?:model\.diffusion_model\.|model\.|transformer\.|net\.|module\.)?"


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A kind of model, a pattern that some tensor's name has, and what to do with such a file."""

    name: str
    pattern: str
    advice: str = "choose such a model"


_ADDS = "it adds to another model: give that one"
_FOR = "it adds to another model: build it for the bundle of that one, with --for BUNDLE"
_PART = "give the whole checkpoint, or add --base with a model that has the rest"

_TEXTUAL_INVERSION = ForeignModel(
    name="a textual inversion",
    pattern=r"^emb_params$|^string_to_param\.|^clip_[lg]$|^<[^>]+>$",
    advice="load it into a pipeline with load_textual_inversion",
)
_EMBEDDED = (768, 1024, 1280)  # how wide the text encoders are whose vectors are learned

# Networks that stand beside a U-Net, or U-Nets that take more than ours: looked for whether there is a U-Net or not
_BESIDE_A_UNET = (
    ForeignModel(name="an AnimateDiff motion module", pattern=r"motion_modules\.", advice=_ADDS),
    ForeignModel(
        name="a video model in diffusers' names (SVD or another with temporal layers)",
        pattern=r"temporal_",
        advice="give the model's folder, whose config.json tells how its parts are built",
    ),
    ForeignModel(
        name="a ControlNet",
        pattern=r"^control_model\.|(^|\.)input_hint_block\.|(^|\.)zero_convs\.|controlnet_(cond_embedding|down_blocks)\.",
        advice=_FOR,
    ),
    ForeignModel(name="a ControlNet-LLLite", pattern=r"^lllite_", advice=_ADDS),
    ForeignModel(
        name="an IP-Adapter",
        pattern=r"(^|\.)to_[kv]_ip\.|^ip_adapter\.|^image_proj\.",
        advice=_FOR,
    ),
    ForeignModel(name="AudioLDM", pattern=r"(^|\.)vocoder\.|\.audio_branch\.|\.film_emb\."),
    ForeignModel(name="unCLIP", pattern=r"(^|\.)noise_augmentor\.|^embedder\.model\."),
    ForeignModel(name="the SD upscaler", pattern=r"^low_scale_model\."),
    ForeignModel(name="GLIGEN", pattern=r"(^|\.)position_net\.|\.fuser\.alpha_"),
    ForeignModel(name="Kandinsky", pattern=r"^(unet\.)?ln_model_n\.|(^|\.)add_embedding\.image_"),
    ForeignModel(name="a U-Net that is told a class (an upscaler or unCLIP)", pattern=r"(^|\.)class_embedding\."),
    ForeignModel(name="Kolors or DeepFloyd IF", pattern=r"(^|\.)encoder_hid_proj\."),
    ForeignModel(
        name="a quantized model",
        pattern=r"\.(absmax|quant_map|quant_state\.|weight_scale|scale_weight|comfy_quant|qweight|qzeros)",
        advice="take its weights in fp32, fp16, bf16 or float8",
    ),
)

# Whole models of other kinds, and single parts of ours; looked for where there is no U-Net
_WITHOUT_A_UNET = (
    ForeignModel(name="a Control-LoRA", pattern=r"^lora_controlnet$", advice=_FOR),
    ForeignModel(
        name="a LyCORIS (a relative of LoRA)",
        pattern=r"^lycoris_|\.hada_w\d|\.lokr_[wt]\d|\.oft_(blocks|diag)\b|\.on_input$|\.glora_",
        advice=_ADDS,
    ),
    ForeignModel(
        name="a LoRA",
        pattern=r"lora_(down|up|mid|A|B)\b|\.lora\.(down|up)|lora_linear_layer|^lora_|_lora\.",
        advice=_ADDS,
    ),
    _TEXTUAL_INVERSION,
    ForeignModel(
        name="a T2I-Adapter", pattern=r"^(adapter\.)?body\.\d+\.(resnets|block1|in_conv|0\.block1)\b", advice=_FOR
    ),
    ForeignModel(
        name="the state of an optimizer", pattern=r"(^|\.)exp_avg(_sq)?$", advice="give the weights beside it"
    ),
    ForeignModel(name="Chroma", pattern=_IN + r"distilled_guidance_layer\."),
    ForeignModel(name="FLUX.2", pattern=_IN + r"(double|single)_stream_modulation"),
    ForeignModel(
        name="Hunyuan Video", pattern=_IN + r"(txt_in\.individual_token_refiner|context_embedder\.token_refiner)\."
    ),
    ForeignModel(
        name="Flux",
        pattern=_IN + r"double_blocks\.\d+\.img_attn\.|" + _IN + r"single_transformer_blocks\.\d+\.proj_mlp",
    ),
    ForeignModel(
        name="Stable Diffusion 3",
        pattern=_IN
        + r"joint_blocks\.|^transformer_blocks\.\d+\.norm1_context\.|^text_encoders\.(clip_l|clip_g|t5xxl)\.",
    ),
    ForeignModel(name="AuraFlow", pattern=_IN + r"double_layers\.\d+\.attn\.|^joint_transformer_blocks\."),
    ForeignModel(name="HiDream", pattern=_IN + r"double_stream_blocks\."),
    ForeignModel(name="Hunyuan-DiT", pattern=_IN + r"mlp_t5\."),
    ForeignModel(name="Sana", pattern=_IN + r"blocks\.\d+\.mlp\.(inverted_conv|depth_conv)\.|\.ff\.conv_inverted\."),
    ForeignModel(name="CogVideoX", pattern=r"^transformer_blocks\.\d+\.norm1\.linear\.|^patch_embed\.text_proj\."),
    ForeignModel(
        name="Mochi", pattern=_IN + r"blocks\.\d+\.attn\.qkv_x\.|^transformer_blocks\.\d+\.attn1\.norm_added_q\."
    ),
    ForeignModel(name="LTX-Video", pattern=_IN + r"patchify_proj\.|^transformer_blocks\.\d+\.attn1\.norm_q\."),
    ForeignModel(name="Wan", pattern=_IN + r"head\.modulation$|^condition_embedder\."),
    ForeignModel(
        name="PixArt",
        pattern=_IN + r"blocks\.\d+\.cross_attn\.(q|kv)_linear\.|^adaln_single\.|^caption_projection\.linear_1\.",
    ),
    ForeignModel(name="Cosmos", pattern=_IN + r"(x_embedder\.proj\.1|blocks\.block\d+\.blocks)\."),
    ForeignModel(name="Qwen-Image", pattern=_IN + r"transformer_blocks\.\d+\.(img|txt)_mod\."),
    ForeignModel(name="Lumina or Z-Image", pattern=_IN + r"cap_embedder\."),
    ForeignModel(
        name="Stable Cascade or Würstchen",
        pattern=_IN + r"(clip_txt_mapper|clip_txt_pooled_mapper|effnet_mapper)\."
        r"|\.channelwise\.\d|" + _IN + r"down_blocks\.\d+\.\d+\.(channelwise|mapper)\.",
    ),
    ForeignModel(name="an audio model (Stable Audio)", pattern=r"^pretransform\.|conditioners\.seconds_total\."),
    ForeignModel(
        name="an audio model (speech or music)",
        pattern=r"^(wav2vec2|hubert|wavlm|audio_encoder|encodec|clap|audio_model|vocos)\.|^model\.encoder\.conv1\."
        r"|^decoder\.model\.decoder\.layers\.|(^|\.)mel_basis|^feature_extractor\.conv_layers\.|^(generator|mpd|msd)\.",
    ),
)
# Parts of Stable Diffusion alone
_SINGLE_PARTS = (
    ForeignModel(
        name="a VAE alone",
        pattern=r"^(first_stage_model\.|vae\.)?(encoder\.down\.0|decoder\.up\.0|(encoder\.down|decoder\.up)_blocks\.0)\.",
        advice="give it with --vae beside a model",
    ),
    ForeignModel(
        name="a small autoencoder for previews (TAESD)",
        pattern=r"^((taesd_)?(de|en)coder\.(layers\.)?)?\d+\.conv\.\d|^(de|en)coder\.layers\.\d+\.weight$",
        advice="it stands for another model's autoencoder: give that model",
    ),
    ForeignModel(
        name="a text encoder alone",
        pattern=r"^(cond_stage_model\.|conditioner\.|text_encoder\.)?.*(text_model\.(encoder\.layers|embeddings)"
        r"|resblocks\.\d+\.attn\.in_proj)|^embeddings\.position_embedding\.",
        advice=_PART,
    ),
)
# Of models that are built, what is left without their U-Net
_LEFT = (
    ForeignModel(
        name="a part of a video model (SVD or another with temporal layers)",
        pattern=r"(input|output)_blocks\.\d+\.\d\.time_(stack|mixer)\.|middle_block\.\d\.time_(stack|mixer)\.",
        advice="give the whole checkpoint",
    ),
    ForeignModel(name="Zero123 without its U-Net", pattern=r"^cc_projection\.", advice="give the whole checkpoint"),
)
# Networks among whose names are those of CLIP's layers
_LIKE_CLIP = (
    ForeignModel(
        name="T5, a text encoder of other models", pattern=r"(encoder\.)?block\.\d+\.layer\.\d+\.SelfAttention\."
    ),
    ForeignModel(
        name="a language model",
        pattern=r"(^|\.)layers\.\d+\.(self_attn\.(q|k|v|qkv)_proj|attention\.w[qkv]|mlp\.gate_proj)\.(?!.*vision)"
        r"|(^|\.)h\.\d+\.(attn\.c_attn|self_attention\.)|^lm_head\.|(^|\.)tok_embeddings\.|^gpt_neox\.",
    ),
    ForeignModel(name="a BERT", pattern=r"(^|\.)embeddings\.word_embeddings\."),
    ForeignModel(name="a picture encoder of CLIP", pattern=r"(^|\.)vision_model\.|^visual\."),
    ForeignModel(
        name="an upscaler (ESRGAN or a relative)",
        pattern=r"\.(RDB|rdb)\d\.|^conv_first\.|^params(_ema)?\.(conv_first|body|layers)\.|^body\.\d+\.weight$"
        r"|^layers\.\d+\.residual_group\.",
    ),
    ForeignModel(name="a restorer of faces", pattern=r"(^|\.)stylegan_decoder\.|^quantize\.embedding\."),
    ForeignModel(name="Segment Anything", pattern=r"^image_encoder\.blocks\.|^mask_decoder\."),
)


def model_beside_unet(keys: Iterable[str]) -> ForeignModel | None:
    """What makes a file with a U-Net another model than Stable Diffusion."""
    return _found(_BESIDE_A_UNET, keys)


def model_without_unet(shapes: Mapping[str, tuple[int, ...]]) -> ForeignModel | None:
    """What a file without a U-Net is; None for what no row knows."""
    found = _found((*_BESIDE_A_UNET, *_LEFT, *_WITHOUT_A_UNET, *_SINGLE_PARTS, *_LIKE_CLIP), shapes)
    if found is None and len(shapes) == 1 and next(iter(shapes.values()))[-1:] in [(width,) for width in _EMBEDDED]:
        return _TEXTUAL_INVERSION  # under its trigger
    return found


def _found(rows: Iterable[ForeignModel], keys: Iterable[str]) -> ForeignModel | None:
    names = "\n".join(keys)
    return next((row for row in rows if re.search(row.pattern, names, re.MULTILINE)), None)
