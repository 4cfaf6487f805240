"""The model families that can be built: one row each, nothing else branches on a family's name."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.engines.bundle.records.manifests.manifest import Start, TraitsRecord
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.family import Family, TextEncoderRow, defaults_record
from latentrt.export.sources.picture_families import PICTURE_FAMILIES

_EULER: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
_LCM_SCHEDULER: Mapping[str, object] = {"_class_name": "LCMScheduler"}


_SD = frozenset({"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"})
_SD_INPAINT = frozenset({"StableDiffusionInpaintPipeline"})
_SDXL = frozenset({"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"})
_SDXL_INPAINT = frozenset({"StableDiffusionXLInpaintPipeline"})
_SDXL_REFINER = frozenset({"StableDiffusionXLImg2ImgPipeline"})
_LCM = frozenset({"LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"})
_SD1_UNET: Mapping[str, object] = {"addition_embed_type": None, "use_linear_projection": (None, False)}
_SD2_UNET: Mapping[str, object] = {"addition_embed_type": None, "use_linear_projection": True}
_SDXL_UNET: Mapping[str, object] = {"addition_embed_type": "text_time"}
_NO_GUIDANCE_EMBEDDING: Mapping[str, object] = {"time_cond_proj_dim": None}
_GUIDANCE_EMBEDDING: Mapping[str, object] = {"time_cond_proj_dim": int}
_PLAIN: Mapping[str, object] = {"in_channels": 4, **_NO_GUIDANCE_EMBEDDING}
_MASKED: Mapping[str, object] = {"in_channels": 9, **_NO_GUIDANCE_EMBEDDING}  # latents, mask, masked picture's latents
_CLIP_L = TextEncoderRow(penultimate=True)
_OPENCLIP_G = TextEncoderRow(part="text_encoder_2", tokenizer="tokenizer_2", penultimate=True, pooled=True)

_SD1_ROW = Family(
    name="sd1",
    label="SD 1.x",
    pipeline_classes=_SD,
    unet={**_SD1_UNET, **_PLAIN},
    steps_offset=1,
    defaults=defaults_record(),
)
_SD2_ROW = replace(
    _SD1_ROW,
    name="sd2",
    label="SD 2.x",
    unet={**_SD2_UNET, **_PLAIN},
    sample_size_of_v=96,
    vae_sample_size=768,
)
_SDXL_ROW = Family(
    name="sdxl",
    label="SDXL base",
    pipeline_classes=_SDXL,
    unet={**_SDXL_UNET, **_PLAIN},
    text_encoders=(_CLIP_L, _OPENCLIP_G),
    time_ids=TimeIds.SIZE,
    traits=TraitsRecord(ays_table="sdxl"),
    zero_empty_negative=True,
    defaults=defaults_record(guidance=5.0),
    file_scheduler=_EULER,
    sample_size=128,
    vae_sample_size=1024,
    scaling_factor=0.13025,
)

FAMILIES = (
    replace(
        _SD2_ROW,
        name="sd-turbo",
        label="SD-Turbo",
        distilled="turbo",
        defaults=defaults_record(sampler="euler", steps=1, guidance=1.0, strength=1.0),
        file_scheduler={**_EULER, "timestep_spacing": "trailing"},
        sample_size_of_v=None,
    ),
    replace(
        _SD1_ROW,
        name="lcm-sd1",
        label="LCM distilled from SD 1.x",
        pipeline_classes=_SD | _LCM,
        unet={**_SD1_UNET, "in_channels": 4, **_GUIDANCE_EMBEDDING},
        traits=TraitsRecord(strength_picks_timesteps=True),
        steps_offset=None,
        defaults=defaults_record(sampler="lcm", steps=4, guidance=8.5, strength=0.8),
        file_scheduler=_LCM_SCHEDULER,
        sample_size=96,
        vae_sample_size=768,
    ),
    replace(
        _SD1_ROW,
        name="sd1-inpaint",
        label="SD 1.x inpainting",
        pipeline_classes=_SD_INPAINT,
        unet={**_SD1_UNET, **_MASKED},
        defaults=defaults_record(strength=1.0),
    ),
    _SD1_ROW,
    replace(
        _SD2_ROW,
        name="sd2-inpaint",
        label="SD 2.x inpainting",
        pipeline_classes=_SD_INPAINT,
        unet={**_SD2_UNET, **_MASKED},
        defaults=defaults_record(strength=1.0),
        sample_size_of_v=None,
        vae_sample_size=512,
    ),
    _SD2_ROW,
    replace(
        _SDXL_ROW,
        name="sdxl-turbo",
        label="SDXL-Turbo",
        distilled="turbo",
        defaults=defaults_record(sampler="euler_a", steps=1, guidance=1.0, strength=1.0),
        file_scheduler={
            "_class_name": "EulerAncestralDiscreteScheduler",
            "timestep_spacing": "trailing",
            "steps_offset": 1,
        },
        sample_size=64,
    ),
    replace(
        _SDXL_ROW,
        name="lcm-sdxl",
        label="LCM distilled from SDXL",
        unet={**_SDXL_UNET, "in_channels": 4, **_GUIDANCE_EMBEDDING},
        defaults=defaults_record(sampler="lcm", steps=4, guidance=8.0, strength=0.8),
        file_scheduler=_LCM_SCHEDULER,
    ),
    replace(
        _SDXL_ROW,
        name="sdxl-inpaint",
        label="SDXL inpainting",
        pipeline_classes=_SDXL_INPAINT,
        unet={**_SDXL_UNET, **_MASKED},
        defaults=defaults_record(guidance=5.0, strength=0.99),
    ),
    replace(
        _SDXL_ROW,
        name="sdxl-refiner",
        label="SDXL refiner",
        pipeline_classes=_SDXL_REFINER,
        text_encoders=(_OPENCLIP_G,),
        time_ids=TimeIds.AESTHETIC,
        traits=TraitsRecord(ays_table="sdxl", starts_from=Start.PICTURE),
        zero_empty_negative=False,
        defaults=defaults_record(guidance=5.0, strength=0.3),
    ),
    _SDXL_ROW,
    *PICTURE_FAMILIES,
)


def family_of(
    pipeline: str | None,
    unet: Mapping[str, Any],
    encoders: Set[str],
    source: str,
) -> Family:
    """The family of a model, by its U-Net's config and its text encoders; none that only names tell of.

    Args:
        pipeline: the class in model_index.json, which the family then must have; None where there is none.
        unet: the U-Net's config.
        encoders: which of its parts make what the U-Net attends to, such as ``text_encoder``.
        source: how messages call the model.

    Raises:
        CheckpointError: no listed family; every reason is named.
    """
    check_pipeline(pipeline, source)
    candidates = [family for family in FAMILIES if pipeline is None or pipeline in family.pipeline_classes]
    faults = []
    fitting = [family for family in candidates if _fits(family.unet, unet) and _has_encoders(family, encoders)]
    if not fitting:
        faults += _differences(candidates, unet) or [_mixed(candidates, unet, encoders)]
    if faults:
        raise CheckpointError(f"{source!r} cannot be built: {'; '.join(faults)}; choose a Stable Diffusion model")
    return next(family for family in fitting if family.distilled is None)


def turbo_row(family: Family) -> Family | None:
    """The row of the turbo models that are built like a family's; None where there are none."""
    rows = (row for row in FAMILIES if row.distilled == "turbo")
    return next((row for row in rows if (row.unet, row.text_encoders) == (family.unet, family.text_encoders)), None)


def check_pipeline(pipeline: str | None, source: str) -> None:
    """Refuses a class in model_index.json that is of no family; None passes.

    Raises:
        CheckpointError: it is one.
    """
    known = sorted({name for family in FAMILIES for name in family.pipeline_classes})
    if pipeline is not None and pipeline not in known:
        raise CheckpointError(f"{source!r} is a {pipeline}, expected one of {', '.join(known)}; choose such a model")


def chosen_family(name: str, unet: Mapping[str, Any], encoders: Set[str], source: str) -> Family:
    """The family that the user says a model is of.

    Raises:
        CheckpointError: there is none of this name, or the model's parts are not built like it.
    """
    rows = {family.name: family for family in FAMILIES}
    if name not in rows:
        raise CheckpointError(f"got family {name!r}, expected one of {', '.join(rows)}; choose one of these")
    fitting = [row for row in FAMILIES if _fits(row.unet, unet) and _has_encoders(row, encoders)]
    if rows[name] not in fitting:
        able = ", ".join(row.name for row in fitting) or "of none that is known"
        raise CheckpointError(
            f"got family {name!r} for {source!r}, whose U-Net and encoders are {able}; leave --family out"
        )
    return rows[name]


def _fits(wanted: Mapping[str, object], config: Mapping[str, Any]) -> bool:
    for key, value in wanted.items():
        got = config.get(key)
        if isinstance(value, type):
            if not isinstance(got, value):
                return False
        elif got not in (value if isinstance(value, tuple) else (value,)):
            return False
    return True


def _has_encoders(family: Family, encoders: Set[str]) -> bool:
    """Whether the encoders are the family's: the refiner has only the second of two."""
    return encoders == set(family.encoders)


def _differences(candidates: Sequence[Family], unet: Mapping[str, Any]) -> list[str]:
    """What of a U-Net no candidate has."""
    faults = []
    for key in dict.fromkeys(key for family in candidates for key in family.unet):
        rows = [family for family in candidates if key in family.unet]
        if not any(_fits({key: family.unet[key]}, unet) for family in rows):
            expected = " or ".join(dict.fromkeys(_wanted(family.unet[key]) for family in rows))
            faults.append(f"its U-Net has {key} {unet.get(key)!r}, expected {expected}")
    return faults


def _mixed(candidates: Sequence[Family], unet: Mapping[str, Any], encoders: Set[str]) -> str:
    """A U-Net and encoders that some family has, but no one."""
    rows = [family for family in candidates if _fits(family.unet, unet)]
    has = " and ".join(sorted(encoders))
    if not rows:
        return "its U-Net has settings of several families"
    rows = [family for family in rows if encoders & set(family.encoders)] or rows  # the nearest
    wanted = " or ".join(dict.fromkeys(" and ".join(family.encoders) for family in rows))
    return f"its U-Net is of {' or '.join(family.label for family in rows)}, which needs {wanted}, but it has {has}"


def _wanted(value: object) -> str:
    if isinstance(value, type):
        return "a number"
    return " or ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
