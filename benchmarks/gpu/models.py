"""What is measured: models at their true size, or the same architectures in small for a rehearsal."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from latentrt.benchmarks.studies.architectures import ARCHITECTURES, Architecture
from latentrt.engines.shapes import Profile

_CHANNELS = (32, 64)
_WIDER = (64, 128)  # heads of 64 channels
_SMALL_SIZE, _SMALL_FRAMES = 32, 4
_SMALL_EXPORT = 16
_EXPORTED_FRAMES = 4


class Scale(StrEnum):
    """True sizes, or such as a CPU draws in no time."""

    FULL = "full"
    SMALL = "small"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call that is timed: so many pictures, or a video, at the model's size."""

    steps: int
    batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is timed.

    ``guidance`` is None where a call names none; ``sampler`` likewise, where the model's own is meant. ``precisions``
    are those that it is timed in, as far as a backend has them. ``lanes`` are numbers of clients, ``loras`` says that
    it is drawn with a set of LoRAs. Graphs are made and gated at ``export_size`` pixels, which a CPU computes soon.
    """

    name: str
    family: str
    architecture: Architecture
    cases: tuple[Case, ...]
    guidance: float | None = None
    sampler: str | None = None
    precisions: tuple[str, ...] = ("fp16",)
    lanes: tuple[int, ...] = ()
    loras: bool = False
    export_size: int = 256

    @property
    def width(self) -> int:
        """Pixels of a row; videos are sixteen to nine."""
        row = self.architecture
        return row.size if row.frames == 1 else row.size * 16 // 9

    @property
    def batches(self) -> tuple[int, ...]:
        """Of the bundles that are made: a call runs at its size's whole batch, so each is a bundle of its own."""
        return tuple(sorted({1, *(case.batch for case in self.cases)}))

    def profile(self, batch: int = 1) -> Profile:
        """What the engines of a bundle are made for."""
        row = self.architecture
        return Profile(width=self.width, height=row.size, batch=batch, frames=row.frames)

    @property
    def exported(self) -> Profile:
        """What graphs are made and gated at: they take any size."""
        frames = min(self.architecture.frames, _EXPORTED_FRAMES)
        return Profile(width=self.export_size, height=self.export_size, frames=frames)


_SVD_XT = replace(
    ARCHITECTURES["svd"],
    size=576,
    frames=25,
    unet={**ARCHITECTURES["svd"].unet, "num_frames": 25},
)
_ALL = ("fp16", "bf16", "int8", "fp8")
_MODELS: tuple[Model, ...] = (
    Model(
        name="sd15",
        family="sd1",
        architecture=ARCHITECTURES["sd1"],
        cases=(Case(steps=20), Case(steps=20, batch=4)),
        guidance=7.5,
        sampler="euler",
        precisions=_ALL,
        lanes=(1, 4, 8),
        loras=True,
    ),
    Model(
        name="sdxl",
        family="sdxl",
        architecture=ARCHITECTURES["sdxl"],
        cases=(Case(steps=20), Case(steps=30), Case(steps=20, batch=4), Case(steps=30, batch=4)),
        guidance=7.5,
        sampler="euler",
        precisions=_ALL,
        lanes=(1, 4, 8),
        loras=True,
    ),
    Model(
        name="sdxl-turbo",
        family="sdxl-turbo",
        architecture=ARCHITECTURES["sdxl-turbo"],
        cases=(Case(steps=1), Case(steps=4)),
        guidance=1.0,
    ),
    Model(name="svd-xt", family="svd", architecture=_SVD_XT, cases=(Case(steps=25),)),
)


def models(scale: Scale) -> tuple[Model, ...]:
    """What is timed."""
    if scale is Scale.FULL:
        return _MODELS
    return tuple(_small_model(model) for model in _MODELS)


def _small_model(model: Model) -> Model:
    """A model in small, that is drawn in few steps by few clients."""
    return replace(
        model,
        architecture=small(model.architecture),
        cases=tuple(replace(case, steps=case.steps // 10 if case.steps >= 10 else case.steps) for case in model.cases),
        lanes=model.lanes[:2],
        export_size=_SMALL_EXPORT,
    )


def families() -> Mapping[str, Architecture]:
    """Every family in small, for parity."""
    return {name: small(row) for name, row in ARCHITECTURES.items()}


def small(row: Architecture) -> Architecture:
    """A family's architecture in small.

    The rules by which a family is told from its tensors hold: SD 1.x has eight heads, the others have heads of 64
    channels, text encoders likewise; norms have 32 groups.
    """
    encoders = {part: _small_encoder(part, config) for part, config in row.text_encoders.items()}
    video = row.image_encoder is not None
    return replace(
        row,
        size=_SMALL_SIZE,
        frames=_SMALL_FRAMES if row.frames > 1 else 1,
        unet=_small_video_unet(row) if video else _small_unet(row, encoders),
        text_encoders=encoders,
        image_encoder=None if row.image_encoder is None else _small_vision(row.image_encoder),
        vae=_small_vae(row.vae),
    )


def _small_encoder(part: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    first = config["hidden_size"] == 768
    width = 64 if first else 128
    return {
        **config,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": width // 64,
        "projection_dim": width if part == "text_encoder" else 96,
    }


def _small_unet(row: Architecture, encoders: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    config = dict(row.unet)
    wide = isinstance(config["attention_head_dim"], tuple)
    small_config: dict[str, Any] = {
        "sample_size": _SMALL_SIZE // 2,
        "block_out_channels": _WIDER if wide else _CHANNELS,
        "attention_head_dim": (1, 2) if wide else 8,
        "layers_per_block": 1,
        "cross_attention_dim": sum(encoder["hidden_size"] for encoder in encoders.values()),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    if "addition_time_embed_dim" in config:
        ids = 5 if row.index.get("requires_aesthetics_score") else 6
        small_config |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2) if ids == 6 else 1,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 96 + 8 * ids,
        }
    if "time_cond_proj_dim" in config:
        small_config["time_cond_proj_dim"] = 16
    return {**config, **small_config}


def _small_video_unet(row: Architecture) -> Mapping[str, Any]:
    return {
        **row.unet,
        "sample_size": _SMALL_SIZE // 2,
        "block_out_channels": _CHANNELS,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "num_attention_heads": (2, 4),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "num_frames": _SMALL_FRAMES,
    }


def _small_vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        **config,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "projection_dim": 32,
        "image_size": 224,
        "patch_size": 32,
    }


def _small_vae(config: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {name: config[name] for name in ("scaling_factor", "force_upcast") if name in config}
    types = {name: config[name][:2] for name in ("down_block_types", "up_block_types") if name in config}
    return {**kept, **types, "block_out_channels": _CHANNELS, "layers_per_block": 1, "sample_size": _SMALL_SIZE}
