"""Whether a control net is one that can be built, and fits the model that it is for: by config and headers alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.engines.bundle.unet.structure import Plane, UnetStructure, unet_structure
from latentrt.engines.errors import BundleError, CheckpointError
from latentrt.export.addons.base_model import BaseModel, label_of_context
from latentrt.export.sources.parts import Part

# Settings with which a net takes inputs that no family gives, and what they are without
_WITHOUT_INPUTS: Mapping[str, Any] = {
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_class_embeds": None,
}
_RGB, _BGR = "rgb", "bgr"
ANOTHER = "choose a net that was made for such a model, or give --for the bundle of one that the net was made for"


def check_settings(source: str, part: Part) -> None:
    """Refuses a config that asks for inputs which nothing gives.

    Raises:
        CheckpointError: every fault is named.
    """
    config, faults = part.config, []
    faults += [
        f"{key} {config[key]!r}, expected {neutral!r}"
        for key, neutral in _WITHOUT_INPUTS.items()
        if config.get(key) not in (None, neutral)
    ]
    if config.get("addition_embed_type") not in (None, "text_time"):
        faults.append(f"addition_embed_type {config['addition_embed_type']!r}, expected null or 'text_time'")
    orders = (_RGB,) if part.name == "controlnet_union" else (_RGB, _BGR)
    order = config.get("controlnet_conditioning_channel_order", _RGB)
    if order not in orders:
        faults.append(f"controlnet_conditioning_channel_order {order!r}, expected {' or '.join(map(repr, orders))}")
    channels = config.get("conditioning_channels", 3)
    if channels not in (1, 3):
        faults.append(f"conditioning_channels {channels!r}, expected 3, or 1 for grey pictures")
    if faults:
        raise CheckpointError(
            f"{source!r} cannot be built: its config has {'; '.join(faults)}; correct these if they are "
            "mistaken, or choose another net"
        )


def check_fits(source: str, part: Part, base: BaseModel, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Compares a net with the model that it is to be used with.

    ``shapes`` are those of its weights, where they are not all in its files.

    Raises:
        CheckpointError: it is for other models.
    """
    shapes = shapes or {name: file.shapes[key] for name, (file, key) in part.places.items()}
    attends = [shape for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight") and len(shape) == 2]
    if attends and attends[0][-1] != base.context:
        raise CheckpointError(
            f"got {source!r}, a ControlNet ({label_of_context(attends[0][-1])}), expected one for {base.label}; "
            f"{ANOTHER}"
        )
    try:
        structure = unet_structure({key: shape for key, shape in shapes.items() if len(shape) > 1})
    except BundleError as error:
        raise CheckpointError(
            f"{source!r} cannot be built: it lacks conv_in or mid_block, expected a whole ControlNet; download it again"
        ) from error
    if part.name == "controlnet_union" and "text_embeds" not in base.text_inputs:
        raise CheckpointError(f"got {source!r}, a union net, expected a ControlNet for {base.label}; {ANOTHER}")
    faults = [*_plane_faults(structure, base.structure), *_input_faults(part.config, shapes, base)]
    if faults:
        raise CheckpointError(
            f"got {source!r}, a ControlNet that does not fit {base.label}: {'; '.join(faults)}; {ANOTHER}"
        )


def _plane_faults(net: UnetStructure, unet: UnetStructure) -> list[str]:
    """In what a net's residuals differ from what a U-Net adds them to."""
    got, expected = (*net.skips, net.middle), (*unet.skips, unet.middle)
    if len(got) != len(expected):
        return [f"got {len(got)} residuals, expected {len(expected)}"]
    odd = [(index, one, other) for index, (one, other) in enumerate(zip(got, expected, strict=True)) if one != other]
    return [f"got residual {index} of {_told(one)}, expected {_told(other)}" for index, one, other in odd[:1]]


def _told(plane: Plane) -> str:
    return f"{plane.channels} channels at 1/{2**plane.level} of the latents"


def _input_faults(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], base: BaseModel) -> list[str]:
    latents, faults = base.bundle.manifest.latents, []
    taken = shapes["conv_in.weight"][1]
    if taken != latents.channels:
        faults.append(f"got {taken} channels of latents, expected {latents.channels}")
    embedding = shapes.get("add_embedding.linear_1.weight", ())
    added = embedding[1] if len(embedding) == 2 else 0
    if added != (base.added_width or 0):
        faults.append(
            f"got {added or 'no'} numbers of the pooled prompt and sizes, expected {base.added_width or 'none'}"
        )
    stages = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    factor = 2 ** (len(stages) - 1)
    if (factor, factor) != (latents.height_factor, latents.width_factor):
        faults.append(f"got a hint at 1/{factor} of the picture, expected 1/{latents.height_factor}")
    return faults
