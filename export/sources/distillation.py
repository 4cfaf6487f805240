"""Models that were distilled to a few steps: known by names and metadata, as their tensors and configs do not tell."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import Start
from latentrt.export.sources.checks.scheduler_settings import LISTED_CLASS
from latentrt.export.sources.families import turbo_row
from latentrt.export.sources.family import Family
from latentrt.export.sources.partial_model import PartialModel

_TRAILING: Mapping[str, object] = {"timestep_spacing": "trailing", "steps_offset": 1}
_EULER: Mapping[str, object] = {"_class_name": "EulerDiscreteScheduler", **_TRAILING}
_DDIM: Mapping[str, object] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    **_TRAILING,
}
_LCM: Mapping[str, object] = {"_class_name": "LCMScheduler"}
# What a scheduler's config says of the training; the rest is how to draw
_TRAINING = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "rescale_betas_zero_snr"),
)


_METADATA = ("modelspec.architecture", "modelspec.title")
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


class Name(NamedTuple):
    """What a model or its file is called, and where that stands."""

    text: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A way to distil, and how its authors draw: steps where the name has no number, sampler, guidance (1: none).

    ``scheduler`` is diffusers' class and the spacing; ``own_timesteps`` are those that one step needs instead.
    """

    name: str
    label: str
    pattern: str
    steps: int
    sampler: str
    scheduler: Mapping[str, object]
    own_timesteps: tuple[int, ...] = ()


# A word by itself or in camel case; behind XL and SD, too, as in "sdxlturbo"
_BEGIN = r"(?:(?<![a-zA-Z])|(?<=[xX][lL])|(?<=[sS][dD])|(?=[A-Z]))"
_END = r"(?![a-z])"
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)
_FEW = range(1, 33)

# Sources: the model cards of ByteDance/SDXL-Lightning, ByteDance/Hyper-SD and tianweiy/DMD2, and LCM (arXiv 2311.05556)
DISTILLATIONS = (
    Distillation(
        name="lightning",
        label="Lightning",
        pattern=rf"{_BEGIN}(?i:lightning){_END}",
        steps=4,
        sampler="euler",
        scheduler=_EULER,
    ),
    Distillation(
        name="hyper",
        label="Hyper-SD",
        # "hyper" alone is what realistic models are called, too
        pattern=rf"{_BEGIN}(?i:hyper(?=$|[-_. ]?(?:sd|xl|\d+[-_ ]?step|baked|fp16|bf16|unet|inpaint|cfg|v\d)))",
        steps=8,
        sampler="ddim",
        scheduler=_DDIM,
        own_timesteps=(800,),
    ),
    Distillation(
        name="dmd2",
        label="DMD2",
        pattern=rf"{_BEGIN}(?i:dmd2?){_END}",
        steps=4,
        sampler="lcm",
        scheduler=_LCM,
        own_timesteps=(399,),
    ),
    Distillation(name="lcm", label="LCM", pattern=rf"{_BEGIN}(?i:lcm){_END}", steps=4, sampler="lcm", scheduler=_LCM),
    Distillation(
        name="turbo", label="Turbo", pattern=rf"{_BEGIN}(?i:turbo){_END}", steps=1, sampler="euler", scheduler=_EULER
    ),
)
# Hyper-SD's models of 8 steps and more that keep guidance
_GUIDED = re.compile(r"(?<![a-zA-Z])cfg(?![a-z])", re.IGNORECASE)


class Found(NamedTuple):
    """A distillation, and the name that tells of it."""

    distillation: Distillation
    name: Name


def distillation_in(names: Iterable[Name]) -> Found | None:
    """The first name that tells of a distillation, metadata before names of files."""
    for name in names:
        text = last_piece(name.text)
        for distillation in DISTILLATIONS:
            if re.search(distillation.pattern, text):
                return Found(distillation, name)
    return None


def last_piece(text: str) -> str:
    """Of a path or a hub id the model's own name; the hub's cache has it above a commit."""
    pieces = [piece for piece in re.split(r"[/\\]", text) if piece]
    cached = [piece for piece in pieces if piece.startswith("models--")]
    pieces = [piece for piece in pieces if piece not in _PARTS]
    return (cached or pieces or [text])[-1]


def distilled(family: Family, found: Found, unet: Mapping[str, Any], *, predicted: str) -> Family:
    """The family with the defaults of a distillation; the same where it cannot be meant.

    A U-Net that takes the guidance scale is LCM by its tensors. The refiner refines what others began. Turbo models are
    SD 2.1's and SDXL's, and predict the noise.
    """
    if unet.get("time_cond_proj_dim") is not None or family.traits.starts_from is not Start.NOISE:
        return family
    way, text = found.distillation, last_piece(found.name.text)
    row = turbo_row(family) if way.name == "turbo" else family
    if row is None or (way.name == "turbo" and predicted != "epsilon"):
        return family
    steps = next((steps for number in _STEPS.findall(text) if (steps := int(number)) in _FEW), None)
    if way.name == "turbo":
        if steps in (None, row.defaults.num_inference_steps):
            return row
        return replace(row, defaults=row.defaults.model_copy(update={"num_inference_steps": steps}))
    guided = way.name == "hyper" and _GUIDED.search(text) is not None
    scheduler = dict(way.scheduler)
    if way.name == "lightning" and re.search(r"(?<![a-z])x0(?![a-z0-9])", text.lower()):
        scheduler["prediction_type"] = "sample"  # its model of one step
    return replace(
        row,
        label=f"{family.label} {way.label}",
        distilled=way.name,
        defaults=family.defaults.model_copy(
            update={
                "sampler": way.sampler,
                "num_inference_steps": way.steps if steps is None else steps,
                "guidance_scale": family.defaults.guidance_scale if guided else 1.0,
            }
        ),
        file_scheduler=scheduler,
    )


def distilled_scheduler(scheduler: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """A scheduler's config for a family that is distilled: its own where it is one for few steps, or else the family's.

    Models that were merged or converted keep the scheduler of their teacher.
    """
    name = scheduler.get(LISTED_CLASS) or scheduler.get("_class_name")
    if family.distilled is None or scheduler.get("timestep_spacing") == "trailing":
        return scheduler
    if isinstance(name, str) and name.startswith(("LCM", "TCD", "EDM")):
        return scheduler
    training = {key: scheduler[key] for key in _TRAINING if key in scheduler}
    return {**training, **family.file_scheduler}


def names_of(model: PartialModel, base: PartialModel | None) -> list[Name]:
    """What a model is called, and behind that what its base is: a U-Net without a name is of the base's kind."""
    of_base = [Name(name.text, f"the base: {name.origin}") for name in (_own_names(base) if base else ())]
    return [*_own_names(model), *of_base]


def _own_names(model: PartialModel) -> list[Name]:
    """Metadata first, which travel with a model, then its file's, its folder's or its hub name."""
    unet = model.parts["unet"].config if "unet" in model.parts else {}
    stated = [(model.metadata.get(key), f"the file's {key}") for key in _METADATA]
    stated += [
        (model.index.get("_name_or_path"), "_name_or_path in model_index.json"),
        (unet.get("_name_or_path"), "_name_or_path in the U-Net's config.json"),
    ]
    names = [Name(text, origin) for text, origin in stated if isinstance(text, str) and text]
    kind = "folder" if Path(model.source).is_dir() else "file" if Path(model.source).exists() else "model"
    names.append(Name(model.name, f"nothing but the {kind}'s name,"))
    if "models--" in model.source:  # the hub's cache, where a folder is called by its commit
        names.append(Name(model.source, "nothing but the hub's name in"))
    if model.name in _PARTS:  # a U-Net's own folder
        names.append(Name(str(Path(model.source).resolve()), "nothing but the folder's name in"))
    return names


def distillation_decision(family: Family, names: Iterable[Name], scheduler: Mapping[str, Any]) -> DecisionRecord | None:
    """A line on what was recognised and what follows, or on a scheduler that only hints at it.

    Args:
        family: of the model, with the defaults of its distillation.
        names: what it is called.
        scheduler: the config that it is drawn with.
    """
    found = distillation_in(names)
    if family.distilled is not None and found is not None:
        return _line(family, found)
    row = turbo_row(family)
    trailing = scheduler.get("timestep_spacing") == "trailing"
    if row is None or family.distilled is not None or not trailing:
        return None
    if scheduler.get("prediction_type") not in (None, "epsilon"):
        return None
    return DecisionRecord(
        value="none",
        reason="trailing timesteps are usual in models distilled to a few steps, but no name and no metadata tell of "
        f"one; --family {row.name} if it is",
    )


def _line(family: Family, found: Found) -> DecisionRecord:
    defaults = family.defaults
    guidance = "without guidance" if defaults.guidance_scale <= 1 else f"guidance {defaults.guidance_scale:g}"
    steps = f"{defaults.num_inference_steps} step{'s' if defaults.num_inference_steps > 1 else ''}"
    spacing = ", trailing timesteps" if family.file_scheduler.get("timestep_spacing") == "trailing" else ""
    own = found.distillation.own_timesteps if defaults.num_inference_steps == 1 else ()
    more = f"; its authors draw one step with timesteps={list(own)}" if own else ""
    return DecisionRecord(
        value=f"{found.distillation.name}: {steps}, {guidance}{spacing} by default",
        reason=f"{found.name.origin} {found.name.text!r}{more}",
    )
