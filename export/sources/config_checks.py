"""Whether the configs of a model's parts say what a build needs, and fit each other."""

from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.families import Family

_Configs = Mapping[str, Mapping[str, Any]]
# What a build reads from the configs and cannot guess, with the types it can have
_KEYS: dict[str, dict[str, type]] = {
    "text_encoder": {"max_position_embeddings": int, "hidden_size": int},
    "text_encoder_2": {"max_position_embeddings": int, "hidden_size": int, "projection_dim": int},
    "unet": {"in_channels": int, "out_channels": int, "block_out_channels": list, "cross_attention_dim": int},
    "vae": {"latent_channels": int, "block_out_channels": list},
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
    if isinstance(taken, int) and isinstance(latents, int) and taken not in (latents, 2 * latents + 1):
        faults.append(
            f"{called['unet']} has in_channels {taken} but {called['vae']} has latent_channels {latents}, expected "
            f"{latents}, or {2 * latents + 1} with a mask"
        )
    kind = vae.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        faults.append(f"the VAE is a {kind}, expected AutoencoderKL")
    return faults


def _width_faults(family: Family, configs: _Configs, called: Mapping[str, str]) -> list[str]:
    """The text encoders' states, side by side, are what the U-Net attends to."""
    parts = [row.part for row in family.text_encoders]
    widths = [configs.get(part, {}).get("hidden_size") for part in parts]
    context = configs.get("unet", {}).get("cross_attention_dim")
    known = [width for width in widths if isinstance(width, int)]
    if len(known) < len(parts) or not isinstance(context, int) or sum(known) == context:
        return []
    return [
        f"{' and '.join(called[part] for part in parts)} {'has' if len(parts) == 1 else 'have'} hidden_size "
        f"{' + '.join(map(str, known))} but {called['unet']} has cross_attention_dim {context}"
    ]
