"""A partial model: what one place, a folder or a file, adds to a checkpoint; and what the user chose about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.export.sources.parts import Part


class Ema(StrEnum):
    """Which of two sets of a U-Net's weights: the running average of the training, or its last state."""

    EMA = "ema"
    NON_EMA = "non-ema"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user says about a model; None leaves it to be worked out.

    ``base`` is a model that supplies what the chosen one lacks, ``vae`` an autoencoder in place of its own.
    """

    variant: str | None = None
    base: str | None = None
    vae: str | None = None
    ema: Ema | None = None
    family: str | None = None
    prediction_type: PredictionType | None = None


@dataclass(frozen=True, kw_only=True)
class PartialModel:
    """Parts, tokenizers and settings from one place.

    ``pipeline`` is the class in model_index.json, where there is one, ``listed`` the parts that it names, and ``index``
    all that it says. ``tokenizer_origin`` says where tokenizers come from that are not the place's own.
    ``scheduler`` is the whole config of a folder;
    ``training`` what a single file tells about its training, as keys of that config; ``prediction`` why it is so.
    ``latents`` is what it tells of the scale of its latents, as keys of the autoencoder's config.
    ``metadata`` are a single file's texts about itself. ``pictures`` are the settings of an image encoder's pictures.
    ``faults`` are parts that are there and cannot be read. ``outside`` are tensors of a file that are no
    part's, but for those known to be idle.
    """

    source: str
    name: str
    pipeline: str | None = None
    listed: frozenset[str] = frozenset()
    index: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, Path] = field(default_factory=dict)
    tokenizer_origin: DecisionRecord | None = None
    scheduler: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    prediction: str | None = None
    latents: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Path] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    decisions: Mapping[str, DecisionRecord] = field(default_factory=dict)


def decision(value: str, reason: str) -> DecisionRecord:
    """One thing that was worked out about a model, and how."""
    return DecisionRecord(value=value, reason=reason)
