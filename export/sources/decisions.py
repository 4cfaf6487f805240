"""What is decided about a model from what it and its base say: family, scheduler, prediction type."""

from collections.abc import Mapping
from typing import Any

from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.assembly import encoder_names
from latentrt.export.sources.checks.config_checks import (
    passed_over_settings,
)
from latentrt.export.sources.distillation import (
    distillation_in,
    distilled,
    distilled_scheduler,
    names_of,
)
from latentrt.export.sources.families import chosen_family, family_of
from latentrt.export.sources.family import Family
from latentrt.export.sources.partial_model import Choices, PartialModel, decision
from latentrt.export.sources.parts import Part
from latentrt.export.sources.single_file.schedule import STANDARD
from latentrt.export.sources.told_by_name import kind_of_pose

_MISTAKEN = 0.02


def family_decision(
    own: PartialModel, base: PartialModel | None, parts: Mapping[str, Part], encoders: frozenset[str], choices: Choices
) -> tuple[Family, DecisionRecord]:
    """The family of the parts, and why.

    Raises:
        CheckpointError: they are of no listed family, or not of the chosen one.
    """
    unet = parts["unet"].config
    if choices.family is not None:
        family = chosen_family(choices.family, unet, encoders, own.source)
        return family, decision(family.name, "chosen with --family")
    family = family_of(own.pipeline, unet, encoders, own.source)
    if family.pose is not None:
        return kind_of_pose(family, names_of(own, base))
    found = distillation_in(names_of(own, base))
    if found is not None:
        stated = {**((own.scheduler or (base.scheduler if base else None)) or {}), **own.training}
        predicted = choices.prediction_type or stated.get("prediction_type") or PredictionType.EPSILON
        other = distilled(family, found, unet, predicted=str(predicted))
        if other is not family:
            return other, decision(other.name, f"{found.name.origin} {found.name.text!r}; --family for another")
    reason = "its pipeline class and the configs of its parts" if own.pipeline else "its U-Net and its encoders"
    return family, decision(family.name, reason)


def family_of_base(base: PartialModel, wanted: Family) -> Family | None:
    """The base's own family, whose scheduler need not be the model's: a teacher is another than what it distils.

    One without a U-Net counts as of the wanted family; one of no known family has None.
    """
    if "unet" not in base.parts:
        return wanted
    try:
        return family_decision(base, None, base.parts, encoder_names(base, None), Choices())[0]
    except CheckpointError:
        return None


def scheduler_decision(
    own: PartialModel, base: PartialModel | None, family: Family, choices: Choices
) -> tuple[dict[str, Any], DecisionRecord]:
    """The scheduler's config, and what the U-Net predicts; the base, if given, is of the same family.

    Layer upon layer: the family's, or that of a scheduler_config.json; what single files tell; what the user says.
    """
    silent = f"nothing in the file says; it is what {family.label} usually predicts; --prediction-type for another"
    layers: list[tuple[Mapping[str, Any], str]] = []
    if own.scheduler is not None:
        layers.append((distilled_scheduler(own.scheduler, family), "its scheduler_config.json"))
    elif base is not None and base.scheduler is not None:
        layers.append((base.scheduler, "the base's scheduler_config.json"))
    else:
        layers.append(({**STANDARD, **family.file_scheduler}, silent))
        layers += [(base.training, f"of the base: {base.prediction}")] if base is not None else []
    layers.append((own.training, own.prediction or ""))
    if choices.prediction_type is not None:
        layers.append(({"prediction_type": choices.prediction_type.value}, "chosen with --prediction-type"))
    scheduler: dict[str, Any] = {}
    reason = f"{layers[0][1]}, which does not say, so that it is the usual" if layers[0][1] != silent else silent
    for keys, origin in layers:
        if "_class_name" in keys:  # which knows settings of its own
            scheduler = {}
        if "trained_betas" in keys:  # in place of a formula's numbers
            scheduler = {key: value for key, value in scheduler.items() if key not in STANDARD}
        scheduler |= keys
        reason = origin if keys.get("prediction_type") is not None else reason
    if scheduler.get("prediction_type") is None:
        scheduler["prediction_type"] = PredictionType.EPSILON.value
    return scheduler, decision(str(scheduler["prediction_type"]), reason)


def noise_schedule_warning(scheduler: Mapping[str, Any], family: Family) -> DecisionRecord | None:
    """That a model of views has the betas of a converter's mistake; None where it has not.

    diffusers' convert_zero123_to_diffusers.py looks for them in the wrong place, and falls back to others.
    """
    if family.pose is None or scheduler.get("beta_start") != _MISTAKEN:
        return None
    return decision(
        f"betas {_MISTAKEN} to {scheduler.get('beta_end')}",
        f"its scheduler_config.json, but {family.label} was trained with {STANDARD['beta_start']} to "
        f"{STANDARD['beta_end']}, which a converter is known to lose: pictures suffer; correct scheduler_config.json",
    )


def base_decision(
    own: PartialModel, base: PartialModel, taken: list[str], family: Family, *, is_of_family: bool
) -> DecisionRecord:
    """What the base supplies."""
    used = ", ".join(taken) if taken else "nothing; the model has every part"
    if not is_of_family and own.scheduler is None:
        used += f"; not its scheduler: it is no {family.label}"
    return decision(base.name, f"supplies {used}")


def passed_over_decision(
    scheduler: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]
) -> DecisionRecord | None:
    """Settings that nobody reads, diffusers included; None where there are none."""
    parts = {"scheduler": scheduler, **passed_over_settings(configs)}
    rows = [f"{part} {key} {value!r}" for part, keys in parts.items() for key, value in keys.items()]
    return decision(f"without {', '.join(rows)}", "diffusers does not know these, either") if rows else None
