"""Whether a model has all that its family needs, and nothing that contradicts it."""

from collections.abc import Mapping
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import tensor_refusal
from latentrt.export.sources.checks.config_checks import (
    part_faults,
    setting_faults,
)
from latentrt.export.sources.checks.scheduler_settings import SchedulerReading
from latentrt.export.sources.checks.tokenizer_settings import framing_faults
from latentrt.export.sources.family import Family
from latentrt.export.sources.folder.pipeline_index import index_faults
from latentrt.export.sources.partial_model import PartialModel
from latentrt.export.sources.parts import Part
from latentrt.export.sources.single_file.temporal_unet import TEMPORAL_UNET


def check_has_unet(
    own: PartialModel, base: PartialModel | None, parts: Mapping[str, Part], encoders: frozenset[str]
) -> None:
    """Refuses what no family can be told of.

    Raises:
        CheckpointError: a part alone, or a model without a U-Net or encoders; every fault is named.
    """
    if "unet" not in own.parts and not own.faults and own.pipeline is None:
        raise CheckpointError(
            f"{own.source!r} holds {', '.join(own.parts)} and no U-Net, expected a model or a U-Net; "
            "give it with --vae, or give the folder above it"
        )
    if "unet" not in parts or not encoders:
        moves = "unet" in parts and parts["unet"].config.get("_class_name") == TEMPORAL_UNET
        absent = [part for part in ("unet", "image_encoder" if moves else "text_encoder", "vae") if part not in parts]
        faults = [*own.faults, *(f"{part} is missing" for part in absent if part not in " ".join(own.faults))]
        raise cannot_be_built(own, faults, base)


def check_complete(
    own: PartialModel,
    base: PartialModel | None,
    family: Family,
    parts: Mapping[str, Part],
    tokenizers: Mapping[str, Path],
    sources: Mapping[str, str],
    reading: SchedulerReading,
) -> None:
    """Compares what is there with what the family needs: parts, settings, tensors' names and shapes.

    Raises:
        CheckpointError: every fault of the first kind that is found.
    """
    configs = {part: found.config for part, found in parts.items()}
    faults = missing_faults(own, base, family, parts, tokenizers)
    faults += [*index_faults(own, family), *part_faults(family, configs, sources)]
    settings = [*reading.faults, *setting_faults(family, configs), *framing_faults(family, configs, tokenizers)]
    if faults:
        raise cannot_be_built(own, [*faults, *settings], base)
    if settings:
        raise CheckpointError(
            f"{own.source!r} cannot be built: {'; '.join(settings)}; "
            "change these settings if they are mistaken, or choose another model"
        )
    faults = [fault for part in parts.values() for fault in part.header_faults()]
    if faults:
        raise tensor_refusal(own.source, faults)


def missing_faults(
    own: PartialModel,
    base: PartialModel | None,
    family: Family,
    parts: Mapping[str, Part],
    tokenizers: Mapping[str, Path],
) -> list[str]:
    """What is missing, and what cannot be read."""
    faults = [*own.faults, *(f"the base's {fault}" for fault in (base.faults if base else ()))]
    faults += [
        f"{part}/config.json is missing" if own.pipeline else f"{part} is missing"
        for part in family.parts
        if part not in parts and not any(fault.startswith(f"{part}/") for fault in faults)
    ]
    if own.pipeline is not None and own.scheduler is None and not (base and base.scheduler):
        faults.append("scheduler/scheduler_config.json is missing")
    for row in family.text_encoders:
        if row.tokenizer in tokenizers:
            continue
        if own.pipeline is not None:
            faults.append(f"{row.tokenizer}/tokenizer.json (or vocab.json with merges.txt) is missing")
        elif row.part in parts:
            rows = parts[row.part].config.get("vocab_size")
            faults.append(f"{row.tokenizer} is missing: {row.part} embeds {rows} tokens, CLIP has 49408")
    return faults


def cannot_be_built(own: PartialModel, faults: list[str], base: PartialModel | None) -> CheckpointError:
    """Every fault of a model that lacks something, with what to do."""
    missing = [fault for fault in faults if "missing" in fault or " lacks " in fault]
    ways = ["download what is missing"] if missing and (own.pipeline is not None or own.faults) else []
    ways += ["add --base with a model that has what is missing"] if missing and base is None else []
    ways += ["correct the rest, or choose another model"] if len(missing) < len(faults) else []
    return CheckpointError(f"{own.source!r} cannot be built: {'; '.join(dict.fromkeys(faults))}; {', or '.join(ways)}")
