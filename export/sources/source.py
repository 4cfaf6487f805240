"""Where a model comes from: a folder, a single file, a hub id or the embedded model; checked before torch loads it."""

from collections.abc import Set
from pathlib import Path

from latentrt.export.sources.assembly import (
    ENCODERS,
    TEXT_ENCODERS,
    encoder_names,
    parts_with_base,
    stored_dtypes,
    tokenizers_of_parts,
    with_family_settings,
    with_settings,
    with_statistics_of,
)
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.checks.completeness import check_complete, check_has_unet
from latentrt.export.sources.checks.scheduler_settings import scheduler_reading
from latentrt.export.sources.decisions import (
    base_decision,
    family_decision,
    family_of_base,
    noise_schedule_warning,
    passed_over_decision,
    scheduler_decision,
)
from latentrt.export.sources.distillation import (
    distillation_decision,
    names_of,
)
from latentrt.export.sources.families import check_pipeline
from latentrt.export.sources.finding import partial_model_from_model, vae_from_model
from latentrt.export.sources.folder.pipeline_index import zero_empty_negative
from latentrt.export.sources.partial_model import Choices, PartialModel, decision
from latentrt.export.sources.told_by_name import frames_of

_PARTS = frozenset((*ENCODERS, "unet", "vae"))


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
        model: a diffusers folder, a single file, a folder with a U-Net alone, ``emoji`` or ``emoji-video`` for the
            embedded models (``./emoji`` for a folder of that name), or what ``place_of_model`` finds on the hub or in
            its cache.
        choices: what the user says about it.

    Raises:
        CheckpointError: missing, incomplete or of no known family; every fault found is named.
    """
    choices = choices or Choices()
    own = partial_model_from_model(model, choices, _PARTS if choices.vae is None else _PARTS - {"vae"})
    base = None
    if choices.base is not None:
        base = partial_model_from_model(choices.base, Choices(), _lacking(own, choices), recorded="base/")
    return _assembled(own, base, choices)


def _lacking(own: PartialModel, choices: Choices) -> Set[str]:
    """The parts that a base has to supply, of which alone its weights are read."""
    lacking = _PARTS - own.parts.keys() - ({"vae"} if choices.vae is not None else set())
    return lacking - set(ENCODERS) if any(name in own.parts for name in TEXT_ENCODERS) else lacking


def _assembled(own: PartialModel, base: PartialModel | None, choices: Choices) -> Checkpoint:
    """A whole checkpoint of what the model offers, what its base adds, and the VAE in place of theirs."""
    for model in (own, base):
        check_pipeline(model.pipeline if model else None, model.source if model else "")
    parts, taken = parts_with_base(own, base)
    sources = dict.fromkeys(own.parts, own.source) | {part: base.source for part in taken if base}
    encoders = encoder_names(own, base)
    check_has_unet(own, base, parts, encoders)
    decisions = dict(own.decisions)
    family, decisions["family"] = family_decision(own, base, parts, encoders, choices)
    teaches = base is not None and family_of_base(base, family) == family
    scheduler, decisions["prediction type"] = scheduler_decision(own, base if teaches else None, family, choices)
    warning = noise_schedule_warning(scheduler, family)
    if warning is not None:
        decisions["noise schedule"] = warning
    frames = frames_of(family, parts["unet"].config, names_of(own, base))
    if frames is not None:
        parts["unet"] = with_settings(parts["unet"], {"num_frames": frames[0]})
        decisions["frames"] = frames[1]
    distillation = distillation_decision(family, names_of(own, base), scheduler)
    if distillation is not None and choices.family is None:
        decisions["distillation"] = distillation
    if base is not None:
        decisions["base"] = base_decision(own, base, taken, family, is_of_family=teaches)
    if choices.vae is not None:
        vae, name = vae_from_model(choices.vae)
        parts["vae"] = with_statistics_of(
            vae, parts["vae"].config if "vae" in parts else own.latents, family, choices.vae
        )
        sources["vae"] = choices.vae
        decisions["vae"] = decision(name, "given with --vae in place of the model's own")
    parts = {
        part: with_family_settings(parts[part], family, scheduler, parts) for part in family.parts if part in parts
    }
    tokenizers = tokenizers_of_parts(own, base, family, parts, decisions)
    reading = scheduler_reading(scheduler, family)
    check_complete(own, base, family, parts, tokenizers, sources, reading)
    passed_over = passed_over_decision(reading.passed_over, {part: found.config for part, found in parts.items()})
    if passed_over is not None:
        decisions["settings"] = passed_over
    decisions["dtype"] = decision(stored_dtypes(parts), "as stored; computed from in float32")
    checkpoint = Checkpoint(
        name=own.name,
        revision=own.revision,
        source=own.source,
        family=family,
        parts=parts,
        tokenizers=tokenizers,
        scheduler=scheduler,
        pictures=own.pictures or (base.pictures if base else {}),
        settings={**own.settings, **(base.settings if base and (taken or own.scheduler is None) else {})},
        decisions=decisions,
        zero_empty_negative=zero_empty_negative(own, base, family),
        outside={Path(own.source).name: own.outside} if own.outside else {},
    )
    checkpoint.schedule()  # refuses now what would otherwise stop the build half way
    return checkpoint
