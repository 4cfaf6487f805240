"""Which model an adapter was trained for: by the widths of its tensors, and by what its trainer wrote about it."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.tensors.tensor_file import StoredTensor
from latentrt.runtime.adapters.adapter import ModelWeights
from latentrt.runtime.adapters.formats.modules import FIRST_ENCODER, SECOND_ENCODER, Module

SD1, SD2, SDXL, REFINER = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "SDXL", "SDXL's refiner"
_BY_CONTEXT = {768: SD1, 1024: SD2, 2048: SDXL, 1280: REFINER}
# What trainers call their models, in ss_base_model_version, modelspec.architecture and ss_network_module
_BY_NAME = (
    ("stable-diffusion-xl-v1-refiner", REFINER),
    ("sdxl_refiner", REFINER),
    ("stable-diffusion-xl", SDXL),
    ("sdxl", SDXL),
    ("stable-diffusion-v1", SD1),
    ("sd_v1", SD1),
    ("sd_1", SD1),
    ("stable-diffusion-v2", SD2),
    ("sd_v2", SD2),
    ("sd_2", SD2),
    ("stable-diffusion-3", "Stable Diffusion 3"),
    ("sd3", "Stable Diffusion 3"),
    ("stable-cascade", "Stable Cascade"),
    ("flux", "Flux"),
    ("chroma", "Chroma"),
    ("lumina", "Lumina"),
    ("hunyuan", "Hunyuan"),
    ("qwen", "Qwen-Image"),
    ("wan", "Wan"),
    ("z-image", "Z-Image"),
    ("anima", "Anima"),
    ("pixart", "PixArt"),
    ("auraflow", "AuraFlow"),
)
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Base(NamedTuple):
    """A model that an adapter was made for, and what shows it."""

    name: str
    shown_by: str

    def __str__(self) -> str:
        return f"{self.name} ({self.shown_by})" if self.shown_by else self.name


def label_of_model(model: ModelWeights) -> str:
    """What a model is, by its text encoders and by how its U-Net's attentions begin."""
    if SECOND_ENCODER in model:
        return SDXL if FIRST_ENCODER in model else REFINER
    if FIRST_ENCODER not in model:
        return "a model without a text encoder"
    inner = (shape for name, shape in model.get(UNET, {}).items() if name.endswith(".proj_in.weight"))
    linear = any(shape is not None and len(shape) == 2 for shape in inner)
    return SD2 if linear else SD1


def base_in_metadata(metadata: Mapping[str, str]) -> Base | None:
    """The model that a header names; None where it names none."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        text = metadata.get(key, "")
        for beginning, name in _BY_NAME:
            if text.lower().startswith(beginning):
                return Base(name, f"{key} {text[:40]!r}")
    if metadata.get("ss_v2", "").lower() == "true":
        return Base(SD2, "ss_v2")
    return None


def base_by_widths(
    modules: Mapping[Module, Mapping[str, StoredTensor]], model: ModelWeights
) -> tuple[Base, str] | None:
    """The model that tensors were made for, where their widths show that it is another; and this model's width.

    What a U-Net's cross-attention reads is as wide as the text encoders' states; a text encoder's projections are as
    wide as itself.
    """
    own: dict[str, int] = {}
    stored: dict[str, Counter[int]] = {}
    for module, leaves in modules.items():
        kind = _kind(module)
        shape = model[module.component].get(f"{module.path}.weight") or ()
        width = _inputs(leaves)
        if kind is None or width is None or len(shape) != 2:
            continue
        own[kind] = shape[1]
        stored.setdefault(kind, Counter())[width] += 1
    for kind, widths in stored.items():
        if len(widths) == 1 and own[kind] not in widths:
            (width,) = widths
            what = "cross-attention" if kind == UNET else "text encoder"
            return Base(_name(kind, width, modules), f"{what} of width {width}"), f"{what} of width {own[kind]}"
    return None


def _name(kind: str, width: int, modules: Mapping[Module, object]) -> str:
    if kind == UNET:
        return _BY_CONTEXT.get(width, "another model")
    both = len({module.component for module in modules} - {UNET}) > 1
    if width == 1280 or (width == 768 and both):
        return SDXL
    return {768: SD1, 1024: SD2}.get(width, "another model")


def base_of_component(component: str, key: str) -> Base:
    """The model that has a component; ``key`` shows that a file is for it."""
    encoders = (FIRST_ENCODER, SECOND_ENCODER)  # only SDXL's base has both
    return Base(SDXL if component in encoders else f"a model with a {component}", f"{key[:100]!r}")


def _kind(module: Module) -> str | None:
    """What a module's inputs tell of: the U-Net's cross-attention, or a text encoder; None for nothing."""
    if module.component == UNET:
        return UNET if module.path.endswith(("attn2.to_k", "attn2.to_v")) else None
    return module.component if module.path.endswith(_PROJECTIONS) else None


def _inputs(leaves: Mapping[str, StoredTensor]) -> int | None:
    """How many inputs the linear has that some tensors are for; None where they do not tell."""
    for leaf in ("lora_down.weight", "hada_w1_b", "diff"):
        if leaf in leaves and len(leaves[leaf].shape) >= 2:
            return leaves[leaf].shape[1]
    factors = [
        next((leaves[one].shape for one in (f"lokr_{w}", f"lokr_{w}_b") if one in leaves), ()) for w in ("w1", "w2")
    ]
    if all(len(shape) == 2 for shape in factors):
        return factors[0][1] * factors[1][1]
    return None
