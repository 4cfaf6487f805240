"""Where a model comes from: a folder, a single file, a hub id or the embedded model; checked before torch loads it."""

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifest import DecisionRecord
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint, tensor_refusal
from latentrt.export.sources.config_checks import (
    LATENT_STATISTICS,
    part_faults,
    passed_over_settings,
    setting_faults,
)
from latentrt.export.sources.distillation import (
    distillation_decision,
    distillation_in,
    distilled,
    distilled_scheduler,
    names_of,
)
from latentrt.export.sources.families import Family, check_pipeline, chosen_family, family_of
from latentrt.export.sources.folder.folder import part_folder, partial_model_from_folder, partial_model_from_part_file
from latentrt.export.sources.folder.pipeline_index import index_faults, zero_empty_negative
from latentrt.export.sources.partial_model import Choices, PartialModel, decision
from latentrt.export.sources.parts import Part
from latentrt.export.sources.place import Place, place_of_model
from latentrt.export.sources.scheduler_settings import scheduler_reading
from latentrt.export.sources.single_file.schedule import STANDARD
from latentrt.export.sources.single_file.single_file import partial_model_from_file, vae_from_file
from latentrt.export.sources.tokenizer_settings import framing_faults
from latentrt.models import EMBEDDED, EMOJI

_ENCODERS = ("text_encoder", "text_encoder_2")
_PARTS = frozenset((*_ENCODERS, "unet", "vae"))


def checkpoint_from_model(model: str, choices: Choices | None = None) -> Checkpoint:
    """Finds a model, and compares the names and shapes of its tensors with its modules'.

    As ``checkpoint_from_headers``, and with torch.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    checkpoint = checkpoint_from_headers(model, choices)
    checkpoint.check()
    return checkpoint


def checkpoint_from_headers(model: str, choices: Choices | None = None) -> Checkpoint:
    """Finds and checks a model by its configs and the headers of its files. torch is not needed.

    Args:
        model: a diffusers folder, a single file, a folder with a U-Net alone, ``emoji`` for the embedded model
            (``./emoji`` for a folder of that name), or what ``place_of_model`` finds on the hub or in its cache.
        choices: what the user says about it.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    choices = choices or Choices()
    own = _partial_model(model, choices, _PARTS if choices.vae is None else _PARTS - {"vae"})
    base = None
    if choices.base is not None:
        base = _partial_model(choices.base, Choices(), _lacking(own, choices), recorded="base/")
    return _assembled(own, base, choices)


def _lacking(own: PartialModel, choices: Choices) -> Set[str]:
    """The parts that a base has to supply, of which alone its weights are read."""
    lacking = _PARTS - own.parts.keys() - ({"vae"} if choices.vae is not None else set())
    return lacking - set(_ENCODERS) if any(name in own.parts for name in _ENCODERS) else lacking


def _partial_model(model: str, choices: Choices, wanted: Set[str], *, recorded: str = "") -> PartialModel:
    if model == EMBEDDED:
        return partial_model_from_folder(EMOJI, choices, name=EMBEDDED, recorded=recorded, wanted=wanted)
    place = _place(model, choices, wanted, "--base: " if recorded else "")
    path = place.path
    if path.is_dir():
        return partial_model_from_folder(
            path,
            choices,
            name=place.name,
            revision=place.revision,
            recorded=recorded,
            wanted=wanted,
            published=place.published,
        )
    if choices.variant is not None:
        raise CheckpointError(f"got --variant {choices.variant} for the file {model!r}, which has none; leave it out")
    partial = partial_model_from_part_file(path, recorded=recorded)
    if partial is None:
        partial = partial_model_from_file(path, ema=choices.ema, recorded=recorded, wanted=wanted)
    elif choices.ema is not None:
        raise CheckpointError(
            f"got a choice of averaged weights for the file {model!r}, which holds one set; leave it out, or give the "
            "folder"
        )
    return replace(partial, name=place.name or partial.name, revision=place.revision)


def _place(model: str, choices: Choices, wanted: Set[str], option: str) -> Place:
    """As ``place_of_model``; the option that gave the model is named where it is refused."""
    try:
        return place_of_model(model, choices, wanted)
    except CheckpointError as error:
        raise CheckpointError(f"{option}{error}") from error


def _assembled(own: PartialModel, base: PartialModel | None, choices: Choices) -> Checkpoint:
    """A whole checkpoint of what the model offers, what its base adds, and the VAE in place of theirs."""
    for model in (own, base):
        check_pipeline(model.pipeline if model else None, model.source if model else "")
    if "unet" not in own.parts and not own.faults and own.pipeline is None:
        raise CheckpointError(
            f"{own.source!r} holds {', '.join(own.parts)} and no U-Net, expected a model or a U-Net; "
            "give it with --vae, or give the folder above it"
        )
    decisions = dict(own.decisions)
    parts, taken = _parts(own, base)
    if own.latents and "vae" in parts:  # whichever it is, the U-Net was trained on these
        parts["vae"] = _with_settings(parts["vae"], own.latents)
    sources = dict.fromkeys(own.parts, own.source) | {part: base.source for part in taken if base}
    encoders = _encoder_names(own, base)
    if "unet" not in parts or not encoders:
        absent = [part for part in ("unet", "text_encoder", "vae") if part not in parts]
        faults = [*own.faults, *(f"{part} is missing" for part in absent if part not in " ".join(own.faults))]
        raise CheckpointError(_cannot_be_built(own, faults, base))
    family, decisions["family"] = _family(own, base, parts, encoders, choices)
    kind = None if base is None else _family_of_base(base, family)
    scheduler, decisions["prediction type"] = _scheduler(own, base if kind == family else None, family, choices)
    distillation = distillation_decision(family, names_of(own, base), scheduler)
    if distillation is not None and choices.family is None:
        decisions["distillation"] = distillation
    if base is not None:
        used = ", ".join(taken) if taken else "nothing; the model has every part"
        if kind != family and own.scheduler is None:
            used += f"; not its scheduler: it is no {family.label}"
        decisions["base"] = decision(base.name, f"supplies {used}")
    if choices.vae is not None:
        place = _place(choices.vae, Choices(), frozenset(("vae",)), "--vae: ")
        expected = parts["vae"].config if "vae" in parts else own.latents
        parts["vae"] = _replaced_vae(place, choices.vae, expected, family)
        sources["vae"] = choices.vae
        name = place.name or place.path.absolute().name
        decisions["vae"] = decision(name, "given with --vae in place of the model's own")
    parts = {
        part: _with_family_settings(parts[part], family, scheduler, parts) for part in _wanted(family) if part in parts
    }
    tokenizers = _tokenizers(own, base, family, parts, decisions)
    faults = _faults(own, base, family, parts, tokenizers, choices)
    faults += index_faults(own, family)
    configs = {part: found.config for part, found in parts.items()}
    faults += part_faults(family, configs, sources)
    reading = scheduler_reading(scheduler, family)
    settings_faults = [*reading.faults, *setting_faults(family, configs), *framing_faults(family, configs, tokenizers)]
    if faults:
        raise CheckpointError(_cannot_be_built(own, [*faults, *settings_faults], base))
    if settings_faults:
        raise CheckpointError(
            f"{own.source!r} cannot be built: {'; '.join(settings_faults)}; "
            "change these settings if they are mistaken, or choose another model"
        )
    faults = [fault for part in parts.values() for fault in part.header_faults()]
    if faults:
        raise tensor_refusal(own.source, faults)
    passed_over = {"scheduler": reading.passed_over, **passed_over_settings(configs)}
    if any(passed_over.values()):
        rows = (f"{part} {key} {value!r}" for part, keys in passed_over.items() for key, value in keys.items())
        decisions["settings"] = decision(f"without {', '.join(rows)}", "diffusers does not know these, either")
    decisions["dtype"] = decision(_dtypes(parts), "as stored; computed from in float32")
    settings = {**own.settings, **(base.settings if base and (taken or own.scheduler is None) else {})}
    checkpoint = Checkpoint(
        name=own.name,
        revision=own.revision,
        source=own.source,
        family=family,
        parts=parts,
        tokenizers=tokenizers,
        scheduler=scheduler,
        settings=settings,
        decisions=decisions,
        zero_empty_negative=zero_empty_negative(own, base, family),
        outside={Path(own.source).name: own.outside} if own.outside else {},
    )
    checkpoint.schedule()  # refuses now what would otherwise stop the build half way
    return checkpoint


def _wanted(family: Family) -> list[str]:
    return [*(row.part for row in family.text_encoders), "unet", "vae"]


def _cannot_be_built(own: PartialModel, faults: list[str], base: PartialModel | None) -> str:
    missing = [fault for fault in faults if "missing" in fault or " lacks " in fault]
    ways = ["download what is missing"] if missing and (own.pipeline is not None or own.faults) else []
    ways += ["add --base with a model that has what is missing"] if missing and base is None else []
    ways += ["correct the rest, or choose another model"] if len(missing) < len(faults) else []
    return f"{own.source!r} cannot be built: {'; '.join(dict.fromkeys(faults))}; {', or '.join(ways)}"


def _parts(own: PartialModel, base: PartialModel | None) -> tuple[dict[str, Part], list[str]]:
    """The model's parts, and those of the base that it lacks, of which the names are returned, too.

    Text encoders come from one place: SDXL's second beside SD's first would be of no family.
    """
    parts, taken = dict(own.parts), []
    for part, found in base.parts.items() if base else ():
        if part not in parts and not (part in _ENCODERS and any(name in own.parts for name in _ENCODERS)):
            parts[part] = found
            taken.append(part)
    return parts, taken


def _encoder_names(own: PartialModel, base: PartialModel | None) -> frozenset[str]:
    """Which text encoders the model has: those that model_index.json lists, or those that are there."""
    for partial in (own, base):
        named = frozenset() if partial is None else (partial.listed or frozenset(partial.parts)) & frozenset(_ENCODERS)
        if named:
            return named
    return frozenset()


def _family(
    own: PartialModel, base: PartialModel | None, parts: Mapping[str, Part], encoders: frozenset[str], choices: Choices
) -> tuple[Family, DecisionRecord]:
    unet = parts["unet"].config
    if choices.family is not None:
        family = chosen_family(choices.family, unet, encoders, own.source)
        return family, decision(family.name, "chosen with --family")
    family = family_of(own.pipeline, unet, encoders, own.source)
    found = distillation_in(names_of(own, base))
    if found is not None:
        stated = {**((own.scheduler or (base.scheduler if base else None)) or {}), **own.training}
        predicted = choices.prediction_type or stated.get("prediction_type") or PredictionType.EPSILON
        other = distilled(family, found, unet, predicted=str(predicted))
        if other is not family:
            return other, decision(other.name, f"{found.name.origin} {found.name.text!r}; --family for another")
    reason = "its pipeline class and the configs of its parts" if own.pipeline else "its U-Net and its text encoders"
    return family, decision(family.name, reason)


def _family_of_base(base: PartialModel, wanted: Family) -> Family | None:
    """The base's own family, whose scheduler need not be the model's: a teacher is another than what it distils.

    One without a U-Net counts as of the wanted family; one of no known family has None.
    """
    if "unet" not in base.parts:
        return wanted
    try:
        return _family(base, None, base.parts, _encoder_names(base, None), Choices())[0]
    except CheckpointError:
        return None


def _scheduler(
    own: PartialModel, base: PartialModel | None, family: Family, choices: Choices
) -> tuple[dict[str, Any], DecisionRecord]:
    """The scheduler's config, and what the U-Net predicts; the base, if given, is of the same family.

    Layer upon layer: the family's, or that of a scheduler_config.json; what single files tell; what the user says.
    """
    silent = f"nothing in the file says; it is what most of {family.label} predict; --prediction-type for another"
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


def _with_family_settings(part: Part, family: Family, scheduler: Mapping[str, Any], parts: Mapping[str, Part]) -> Part:
    """Settings that no shape of its own tells, for a part of a single file."""
    config = dict(part.config)
    kind = config.get("_class_name")
    if "_diffusers_version" not in config and kind == "UNet2DConditionModel":
        by_v = scheduler["prediction_type"] == PredictionType.V_PREDICTION and family.sample_size_of_v
        config.setdefault("sample_size", by_v or family.sample_size)
        if by_v:  # as SD 2.1's config says: its attention overflows in fp16
            config.setdefault("upcast_attention", True)
        width = config.get("projection_class_embeddings_input_dim")
        pooled = parts["text_encoder_2"].config.get("projection_dim") if "text_encoder_2" in parts else None
        if isinstance(width, int) and isinstance(pooled, int):  # beside the pooled state stand embeddings of sizes
            sizes = 5 if family.time_ids is TimeIds.AESTHETIC else 6
            config.setdefault("addition_time_embed_dim", max(width - pooled, 0) // sizes)
    elif "_diffusers_version" not in config and kind == "AutoencoderKL":
        config.setdefault("sample_size", family.vae_sample_size)
        config.setdefault("scaling_factor", family.scaling_factor)
        if family.text_encoders[-1].part == "text_encoder_2":
            config.setdefault("force_upcast", True)
    else:
        return part
    return _with_settings(part, config)


def _with_settings(part: Part, settings: Mapping[str, Any]) -> Part:
    return replace(part, config={**part.config, **settings})


def _replaced_vae(place: Place, vae: str, own: Mapping[str, Any], family: Family) -> Part:
    """The autoencoder in place of the one with the config ``own``, whose scale of the latents must be its own, too."""
    path = place.path
    part: Part
    if path.is_dir():
        part = part_folder(path, "vae", Choices(), recorded="replaced/", published=place.published)
    else:
        beside = partial_model_from_part_file(path, recorded="replaced/")
        own_config = beside is not None and "vae" in beside.parts
        part = beside.parts["vae"] if beside and own_config else vae_from_file(path, recorded="replaced/vae/")
    scale = {name: own.get(name) for name in LATENT_STATISTICS}
    scale["scaling_factor"] = own.get("scaling_factor") or family.scaling_factor
    for name, expected in scale.items():
        stated = part.config.get(name)
        if stated is not None and not _is_close(stated, expected):
            raise CheckpointError(
                f"got --vae {vae!r} with {name} {stated}, expected {expected}, for which the U-Net was trained; "
                f"choose a VAE of {family.label}"
            )
    return _with_settings(part, scale)


def _is_close(stated: Any, expected: Any) -> bool:
    """Whether a setting is a number, or a list of numbers, and the expected one."""
    try:
        return bool(np.allclose(np.asarray(stated, float), np.asarray(expected, float), rtol=0, atol=1e-6))
    except (TypeError, ValueError):
        return False


def _tokenizers(
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


def _faults(
    own: PartialModel,
    base: PartialModel | None,
    family: Family,
    parts: Mapping[str, Part],
    tokenizers: Mapping[str, Path],
    choices: Choices,
) -> list[str]:
    """What is missing, and what cannot be read."""
    faults = [*own.faults, *(f"the base's {fault}" for fault in (base.faults if base else ()))]
    faults += [
        f"{part}/config.json is missing" if own.pipeline else f"{part} is missing"
        for part in _wanted(family)
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


def _dtypes(parts: Mapping[str, Part]) -> str:
    """One type, or each part's where they differ."""
    types = {name: "/".join(sorted(part.dtypes - {"int64"})) for name, part in parts.items()}
    one = set(types.values())
    return one.pop() if len(one) == 1 else ", ".join(f"{name} {dtype}" for name, dtype in types.items())
