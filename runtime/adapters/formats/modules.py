"""The modules of a model under every name that files have for them.

Names are compared flattened, dots as underscores, because kohya's cannot be told apart again. So one lookup serves all
spellings: with dots or without, in diffusers' block names or in those of the original code (SGM), with ``processor`` or
``text_model`` in between or not.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from latentrt.engines.bundle.kinds import UNET
from latentrt.runtime.adapters.adapter import ModelWeights

FIRST_ENCODER, SECOND_ENCODER = "text_encoder", "text_encoder_2"


class Module(NamedTuple):
    """A module of a model: its component, and its dotted name there."""

    component: str
    path: str

    def __str__(self) -> str:
        return f"{self.component}.{self.path}"


class Spelling(StrEnum):
    """Whose block names a U-Net's module has in a file."""

    DIFFUSERS = "diffusers"
    SGM = "the original code"
    EITHER = "either"


class Place(NamedTuple):
    """What a name in a file is for: a module, or a component that the model does not have (None)."""

    component: str
    module: Module | None
    spelling: Spelling = Spelling.EITHER


class _Role(StrEnum):
    """What a prefix says about the component."""

    UNET = UNET
    FIRST = FIRST_ENCODER
    SECOND = SECOND_ENCODER
    ENCODER = "the text encoder, or the first of two"
    ANY = "nothing"


_NAMES = {
    _Role.UNET: "lora_unet oft_unet lycoris_unet unet diffusion_model model_diffusion_model lora_unet_diffusion_model",
    _Role.ENCODER: (
        "lora_te oft_te lycoris_te te text_encoder lora_text_encoder clip clip_h clip_h_transformer "
        "text_encoders_clip_h_transformer cond_stage_model_transformer"
    ),
    _Role.FIRST: (
        "lora_te1 oft_te1 lycoris_te1 te1 text_encoder_1 text_encoder1 lora_text_encoder_1 clip_l clip_l_transformer "
        "text_encoders_clip_l_transformer conditioner_embedders_0_transformer"
    ),
    _Role.SECOND: (
        "lora_te2 oft_te2 lycoris_te2 te2 text_encoder_2 text_encoder2 lora_text_encoder_2 clip_g clip_g_transformer "
        "text_encoders_clip_g_transformer"
    ),
    _Role.ANY: "lora lycoris oft",
}
_PREFIXES = (  # the longest first, and at last none
    *sorted(((f"{name}_", role) for role, names in _NAMES.items() for name in names.split()), key=lambda r: -len(r[0])),
    ("", _Role.ANY),
)
_WRAPPED = ("base_model_model_", "module_", "_orig_mod_")  # PEFT's, and those of torch's parallel and compiled modules


class Modules:
    """A model's modules, to be found by the names in files."""

    def __init__(self, model: ModelWeights) -> None:
        """Takes the shapes of the model's weights."""
        self.encoders = tuple(sorted(name for name in model if name != UNET))
        self._places: dict[str, dict[str, Place]] = {}
        for component, weights in model.items():
            paths = dict.fromkeys(name.rpartition(".")[0] for name in weights)
            named = _unet_names(paths) if component == UNET else _encoder_names(paths)
            self._places[component] = {
                flat: Place(component, Module(component, path), spelling) for flat, path, spelling in named
            }

    def find(self, name: str, component: str | None = None) -> Place | None:
        """What a name is for; None where nothing of the model is called so.

        Args:
            name: a module's, as a file spells it.
            component: what the file's folder says it is of; None where it says nothing.
        """
        flat = _unwrapped(_flat(name).replace("_processor_", "_"))
        absent = None
        for prefix, role in _PREFIXES:
            if not flat.startswith(prefix):
                continue
            rest = _unwrapped(flat.removeprefix(prefix))
            for candidate in self._components(role, component):
                if candidate not in self._places:
                    absent = absent or Place(candidate, None)
                elif rest in self._places[candidate]:
                    return self._places[candidate][rest]
        return absent

    def _components(self, role: _Role, told: str | None) -> Iterator[str]:
        """The components that a prefix may mean."""
        if role is _Role.ANY:
            if told is not None:
                yield self._encoder_for(told)
            else:
                yield UNET
                # Without a word about it, a text encoder's module can only be the only one's
                yield from self.encoders if len(self.encoders) == 1 else ()
        elif role is _Role.ENCODER:
            yield self._encoder_for(FIRST_ENCODER if told in (None, UNET) else str(told))
        else:
            yield str(role)

    def _encoder_for(self, component: str) -> str:
        """SDXL's refiner has the second encoder alone, and files call it the text encoder."""
        alone = len(self.encoders) == 1 and component == FIRST_ENCODER
        return self.encoders[0] if alone else component


def _unwrapped(flat: str) -> str:
    for wrapper in _WRAPPED * 2:
        flat = flat.removeprefix(wrapper)
    return flat.replace("_orig_mod_", "")


class _Named(NamedTuple):
    flat: str
    path: str
    spelling: Spelling


def _unet_names(paths: Iterable[str]) -> Iterator[_Named]:
    """Both spellings of every module; ``to_out`` alone is its linear, as in diffusers' oldest files."""
    paths = tuple(paths)
    blocks = _Blocks(paths)
    for path in paths:
        names = [_Named(_flat(path), path, Spelling.DIFFUSERS)]
        original = blocks.original_name(path)
        if original is not None:
            names.append(_Named(_flat(original), path, Spelling.SGM))
        for name in names:
            yield name
            if path.endswith(".to_out.0"):
                yield name._replace(flat=name.flat.removesuffix("_0"))


_TO_CLIP = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def _encoder_names(paths: Iterable[str]) -> Iterator[_Named]:
    """With ``text_model`` and without, as releases of transformers differ; with the U-Net's names for projections."""
    for path in paths:
        parent, _, last = path.rpartition(".")
        for spelled in (path, f"{parent}.{_TO_CLIP[last]}") if last in _TO_CLIP else (path,):
            yield _Named(_flat(spelled), path, Spelling.EITHER)
            if spelled.startswith("text_model."):
                yield _Named(_flat(spelled.removeprefix("text_model.")), path, Spelling.EITHER)


def _flat(path: str) -> str:
    return path.replace(".", "_")


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_BLOCK = re.compile(r"(down|up|mid)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class _Blocks:
    """How a U-Net's blocks are counted in the original code: one behind the other, whatever their level."""

    paths: tuple[str, ...]
    layers: int = field(init=False)
    attending: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        matches = [match for match in map(_IN_BLOCK.fullmatch, self.paths) if match]
        resnets = [int(m[4]) for m in matches if (m[1], m[2], m[3]) == ("down", "0", "resnets")]
        object.__setattr__(self, "layers", 1 + max(resnets, default=0))
        attending = frozenset(m[2] for m in matches if (m[1], m[3]) == ("up", "attentions"))
        object.__setattr__(self, "attending", attending)

    def original_name(self, path: str) -> str | None:
        """A module's name there; None for one that it does not have."""
        match = _IN_BLOCK.fullmatch(path)
        if match is None:
            return _OUTSIDE.get(path)
        side, level, kind, layer, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
        inner = _RESNET.get(rest, rest) if kind == "resnets" else rest
        if side == "mid":
            return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{inner}"
        part = 0 if kind == "resnets" else 1
        if side == "down":
            if kind == "downsamplers":
                return f"input_blocks.{(level + 1) * (self.layers + 1)}.0.op"
            return f"input_blocks.{1 + level * (self.layers + 1) + layer}.{part}.{inner}"
        if kind == "upsamplers":  # behind the attention, where there is one
            part = 1 + (match[2] in self.attending)
            return f"output_blocks.{level * (self.layers + 1) + self.layers}.{part}.{inner}"
        return f"output_blocks.{level * (self.layers + 1) + layer}.{part}.{inner}"
