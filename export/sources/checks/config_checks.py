"""Whether the configs of a model's parts say what a build needs, fit each other, and ask for nothing else."""

from collections.abc import Mapping
from typing import Any

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.export.sources.checks.library_settings import constructor_settings, is_number
from latentrt.export.sources.family import POSE_PART, Family

_Configs = Mapping[str, Mapping[str, Any]]
# What a build reads from the configs and cannot guess, with the types it can have
_KEYS: dict[str, dict[str, type]] = {
    "text_encoder": {"max_position_embeddings": int, "hidden_size": int},
    "text_encoder_2": {"max_position_embeddings": int, "hidden_size": int, "projection_dim": int},
    "image_encoder": {"image_size": int, "projection_dim": int},
    "unet": {"in_channels": int, "out_channels": int, "block_out_channels": list, "cross_attention_dim": int},
    "vae": {"latent_channels": int, "block_out_channels": list},
}


# Where diffusers' classes of the parts are; of each part the usual one first
_CLASSES: Mapping[str, Mapping[str, str]] = {
    "unet": {
        "UNet2DConditionModel": "models/unets/unet_2d_condition.py",
        "UNetSpatioTemporalConditionModel": "models/unets/unet_spatio_temporal_condition.py",
    },
    "vae": {
        "AutoencoderKL": "models/autoencoders/autoencoder_kl.py",
        "AutoencoderKLTemporalDecoder": "models/autoencoders/autoencoder_kl_temporal_decoder.py",
    },
}
_CLIP = "clip_text_model"
LATENT_STATISTICS = ("latents_mean", "latents_std")
# Settings of U-Nets with which they take inputs that no family gives, and what they are without; the family's row
# knows addition_embed_type and time_cond_proj_dim
_WITHOUT_INPUTS: Mapping[str, Any] = {
    "attention_type": "default",
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_class_embeds": None,
}


def part_faults(family: Family, configs: _Configs, sources: Mapping[str, str]) -> list[str]:
    """Every fault; where parts come from different places, ``sources`` names them."""
    faults = []
    for part, keys in _KEYS.items():
        config = configs.get(part, {})
        for key, kind in keys.items() if part in configs else ():
            if config.get(key) is None:
                faults.append(f"{part}/config.json lacks {key}")
            elif not isinstance(config[key], kind):
                faults.append(f"{part}/config.json has {key} {config[key]!r}, expected {kind.__name__}")
    mixed = len(set(sources.values())) > 1
    called = {part: f"{part} of {sources[part]!r}" if mixed and part in sources else part for part in configs}
    faults += _width_faults(family, configs, called)
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    predicted, latents = unet.get("out_channels"), vae.get("latent_channels")
    if isinstance(predicted, int) and isinstance(latents, int) and predicted != latents:
        faults.append(
            f"{called['vae']} has latent_channels {latents} but {called['unet']} has out_channels {predicted}"
        )
    taken = unet.get("in_channels")
    if family.concatenated is not None:
        if isinstance(latents, int) and taken != 2 * latents:
            faults.append(
                f"{called['unet']} has in_channels {taken} but {called['vae']} has latent_channels {latents}, expected "
                f"{2 * latents}: a picture's latents lie behind the noised ones"
            )
    elif isinstance(taken, int) and isinstance(latents, int) and taken not in (latents, 2 * latents + 1):
        faults.append(
            f"{called['unet']} has in_channels {taken} but {called['vae']} has latent_channels {latents}, expected "
            f"{latents}, or {2 * latents + 1} with a mask"
        )
    for part, expected in (("unet", family.unet_class), ("vae", family.vae_class)):
        kind = configs.get(part, {}).get("_class_name", expected)
        if kind != expected:
            faults.append(f"the {'VAE' if part == 'vae' else 'U-Net'} is a {kind}, expected {expected}")
    return faults


def setting_faults(family: Family, configs: _Configs) -> list[str]:
    """Settings that move pictures, and that nothing here draws with.

    What the library's classes compute is traced as they compute it. What is left is what a U-Net is given beside its
    usual inputs, and what is done to latents outside of the autoencoder.
    """
    unet = configs.get("unet", {})
    faults = [
        f"unet/config.json has {key} {unet[key]!r}, expected {neutral!r}: the U-Net would want unknown inputs"
        for key, neutral in _WITHOUT_INPUTS.items()
        if unet.get(key) not in (None, neutral)
    ]
    for part in ("text_encoder", "text_encoder_2"):
        kind = configs.get(part, {}).get("model_type")
        if kind not in (None, _CLIP):
            faults.append(f"{part}/config.json has model_type {kind!r}, expected {_CLIP!r}")
    return [*faults, *_latent_faults(family, configs.get("vae", {}))]


def _latent_faults(family: Family, vae: Mapping[str, Any]) -> list[str]:
    """The scale of latents, and their statistics, which diffusers' pipelines of SDXL alone know."""
    faults, file = [], "vae/config.json"
    scale, shift = vae.get("scaling_factor"), vae.get("shift_factor")
    if scale is not None and not (is_number(scale) and scale > 0):
        faults.append(f"{file} has scaling_factor {scale!r}, expected a number above 0")
    if shift is not None and shift != 0:
        faults.append(f"{file} has shift_factor {shift!r}, expected null: diffusers' pipelines of this kind know none")
    values = {name: vae[name] for name in LATENT_STATISTICS if vae.get(name) is not None}
    channels = vae.get("latent_channels")
    for name, numbers in values.items():
        if not (isinstance(numbers, list | tuple) and len(numbers) == channels and all(map(is_number, numbers))):
            faults.append(f"{file} has {name} {numbers!r}, expected {channels} numbers")
        elif name == "latents_std" and min(numbers, default=0) <= 0:
            faults.append(f"{file} has {name} {numbers!r}, expected numbers above 0")
        elif len(values) < len(LATENT_STATISTICS):
            faults.append(f"{file} has {name} {numbers!r} alone, expected {' and '.join(LATENT_STATISTICS)}")
        elif family.time_ids is TimeIds.NONE:
            faults.append(f"{file} has {name} {numbers!r}, expected null: diffusers' pipelines of this kind know none")
    return faults


def passed_over_settings(configs: _Configs) -> dict[str, dict[str, Any]]:
    """The settings of U-Net and autoencoder that the library does not know, and that are not off."""
    return {
        part: {
            key: value
            for key, value in configs[part].items()
            if not key.startswith("_")
            and value is not None
            and value is not False
            and key not in _known_settings(part, configs[part])
        }
        for part in _CLASSES
        if part in configs
    }


def _known_settings(part: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    files = _CLASSES[part]
    kind = str(config.get("_class_name"))
    name = kind if kind in files else next(iter(files))
    return constructor_settings("diffusers", files[name], name)


def _width_faults(family: Family, configs: _Configs, called: Mapping[str, str]) -> list[str]:
    """The encoders' states, side by side, are what the U-Net attends to; of a pose what is made of it."""
    width = {POSE_PART: "out_features", "image_encoder": "projection_dim"}
    parts = [POSE_PART] if family.pose is not None else list(family.encoders)
    widths = [configs.get(part, {}).get(width.get(part, "hidden_size")) for part in parts]
    context = configs.get("unet", {}).get("cross_attention_dim")
    known = [width for width in widths if isinstance(width, int)]
    if len(known) < len(parts) or not isinstance(context, int) or sum(known) == context:
        return []
    return [
        f"{' and '.join(called[part] for part in parts)} {'has' if len(parts) == 1 else 'have'} "
        f"{width.get(parts[0], 'hidden_size')} "
        f"{' + '.join(map(str, known))} but {called['unet']} has cross_attention_dim {context}"
    ]
