"""A model's parts, its base's and a replaced autoencoder, with their tokenizers and what no shape tells."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checks.config_checks import LATENT_STATISTICS
from latentrt.export.sources.family import POSE_PART, Family
from latentrt.export.sources.partial_model import PartialModel, decision
from latentrt.export.sources.parts import Part

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
ENCODERS = (*TEXT_ENCODERS, "image_encoder", POSE_PART)


def parts_with_base(own: PartialModel, base: PartialModel | None) -> tuple[dict[str, Part], list[str]]:
    """The model's parts, and those of the base that it lacks, of which the names are returned, too.

    Text encoders come from one place: SDXL's second beside SD's first would be of no family.
    """
    parts, taken = dict(own.parts), []
    for part, found in base.parts.items() if base else ():
        if part not in parts and not (part in TEXT_ENCODERS and any(name in own.parts for name in TEXT_ENCODERS)):
            parts[part] = found
            taken.append(part)
    if own.latents and "vae" in parts:  # whichever it is, the U-Net was trained on these
        parts["vae"] = with_settings(parts["vae"], own.latents)
    return parts, taken


def encoder_names(own: PartialModel, base: PartialModel | None) -> frozenset[str]:
    """Which encoders the model has: those that model_index.json lists, or those that are there."""
    for partial in (own, base):
        named = frozenset() if partial is None else (partial.listed or frozenset(partial.parts)) & frozenset(ENCODERS)
        if named:
            return named
    return frozenset()


def with_family_settings(part: Part, family: Family, scheduler: Mapping[str, Any], parts: Mapping[str, Part]) -> Part:
    """Settings that no shape of its own tells, for a part of a single file."""
    config = dict(part.config)
    kind = config.get("_class_name")
    if "_diffusers_version" in config:
        return part
    if kind == family.unet_class:
        by_v = scheduler["prediction_type"] == PredictionType.V_PREDICTION and family.sample_size_of_v
        config.setdefault("sample_size", by_v or family.sample_size)
        if by_v:  # as SD 2.1's config says: its attention overflows in fp16
            config.setdefault("upcast_attention", True)
        width = config.get("projection_class_embeddings_input_dim")
        pooled = parts["text_encoder_2"].config.get("projection_dim") if "text_encoder_2" in parts else None
        if isinstance(width, int) and isinstance(pooled, int):  # beside the pooled state stand embeddings of sizes
            sizes = 5 if family.time_ids is TimeIds.AESTHETIC else 6
            config.setdefault("addition_time_embed_dim", max(width - pooled, 0) // sizes)
    elif kind == family.vae_class:
        config.setdefault("sample_size", family.vae_sample_size)
        config.setdefault("scaling_factor", family.scaling_factor)
        if "text_encoder_2" in family.encoders or family.draws_videos:
            config.setdefault("force_upcast", True)
    else:
        return part
    return with_settings(part, config)


def with_settings(part: Part, settings: Mapping[str, Any]) -> Part:
    """The part with these settings in its config."""
    return replace(part, config={**part.config, **settings})


def with_statistics_of(part: Part, own: Mapping[str, Any], family: Family, vae: str) -> Part:
    """An autoencoder in place of the one with the config ``own``, whose scale of the latents must be its own, too.

    Raises:
        CheckpointError: it states another scale; ``vae`` is what the user called it.
    """
    scale = {name: own.get(name) for name in LATENT_STATISTICS}
    scale["scaling_factor"] = own.get("scaling_factor") or family.scaling_factor
    for name, expected in scale.items():
        stated = part.config.get(name)
        if stated is not None and not _is_close(stated, expected):
            raise CheckpointError(
                f"got --vae {vae!r} with {name} {stated}, expected {expected}, for which the U-Net was trained; "
                f"choose a VAE of {family.label}"
            )
    return with_settings(part, scale)


def _is_close(stated: Any, expected: Any) -> bool:
    """Whether a setting is a number, or a list of numbers, and the expected one."""
    try:
        return bool(np.allclose(np.asarray(stated, float), np.asarray(expected, float), rtol=0, atol=1e-6))
    except (TypeError, ValueError):
        return False


def tokenizers_of_parts(
    own: PartialModel,
    base: PartialModel | None,
    family: Family,
    parts: Mapping[str, Part],
    decisions: dict[str, DecisionRecord],
) -> dict[str, Path]:
    """A tokenizer per text encoder, from where the encoder comes from if it is there."""
    found = {}
    for row in family.text_encoders:
        from_base = base is not None and parts.get(row.part) is base.parts.get(row.part)
        for partial in (base, own) if from_base else (own, base):
            if partial is not None and row.tokenizer in partial.tokenizers:
                found[row.tokenizer] = partial.tokenizers[row.tokenizer]
                if partial.tokenizer_origin is not None:
                    decisions[row.tokenizer] = partial.tokenizer_origin
                elif partial is base:
                    decisions[row.tokenizer] = decision(partial.name, "the base's")
                break
    return found


def stored_dtypes(parts: Mapping[str, Part]) -> str:
    """One type, or each part's where they differ."""
    types = {name: "/".join(sorted(part.dtypes - {"int64"})) for name, part in parts.items()}
    one = set(types.values())
    return one.pop() if len(one) == 1 else ", ".join(f"{name} {dtype}" for name, dtype in types.items())
