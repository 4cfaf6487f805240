"""The families whose U-Net is told of a picture: videos, views of an object, edits and variations."""

from collections.abc import Mapping
from dataclasses import replace

from latentrt.engines.bundle.records.conditioning import ConcatenatedRecord, PoseKind, Resizing, TimeIds
from latentrt.export.sources.family import Family, ImageEncoderRow, defaults_record

# As in the folders that diffusers' scripts write of the original files
_SVD_SCHEDULER: Mapping[str, object] = {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
_DDIM: Mapping[str, object] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_EULER_A: Mapping[str, object] = {"_class_name": "EulerAncestralDiscreteScheduler", "steps_offset": 1}
_SD1: Mapping[str, object] = {
    "addition_embed_type": None,
    "use_linear_projection": (None, False),
    "time_cond_proj_dim": None,
}

_ZERO123 = Family(
    name="zero123",
    label="Zero123",
    pipeline_classes=frozenset({"Zero1to3StableDiffusionPipeline", "Zero123Pipeline"}),
    unet={**_SD1, "in_channels": 8},
    text_encoders=(),
    image_encoder=ImageEncoderRow(resizing=Resizing.SQUEEZED),
    pose=PoseKind.DISTANCE,
    concatenated=ConcatenatedRecord(),
    steps_offset=1,
    defaults=defaults_record(sampler="ddim", steps=50, guidance=3.0),
    file_scheduler=_DDIM,
    sample_size=32,
    vae_sample_size=256,
)
PICTURE_FAMILIES = (
    Family(
        name="svd",
        label="Stable Video Diffusion",
        pipeline_classes=frozenset({"StableVideoDiffusionPipeline"}),
        unet={"in_channels": 8, "addition_embed_type": None},
        unet_class="UNetSpatioTemporalConditionModel",
        vae_class="AutoencoderKLTemporalDecoder",
        text_encoders=(),
        image_encoder=ImageEncoderRow(resizing=Resizing.BLURRED),
        concatenated=ConcatenatedRecord(noised=True),
        time_ids=TimeIds.MOTION,
        defaults=defaults_record(sampler="euler", steps=25, guidance=3.0),
        file_scheduler=_SVD_SCHEDULER,
        sample_size=96,
        vae_sample_size=768,
    ),
    _ZERO123,
    replace(_ZERO123, name="stable-zero123", label="Stable Zero123", pose=PoseKind.IMAGE_ELEVATION),
    Family(
        name="instruct-pix2pix",
        label="InstructPix2Pix",
        pipeline_classes=frozenset({"StableDiffusionInstructPix2PixPipeline"}),
        unet={**_SD1, "in_channels": 8},
        concatenated=ConcatenatedRecord(),
        steps_offset=1,
        defaults=defaults_record(sampler="euler_a", steps=100, guidance=7.5),
        file_scheduler=_EULER_A,
        sample_size=64,
    ),
    Family(
        name="sd-image-variations",
        label="SD image variations",
        pipeline_classes=frozenset({"StableDiffusionImageVariationPipeline"}),
        unet={**_SD1, "in_channels": 4},
        text_encoders=(),
        image_encoder=ImageEncoderRow(),
        steps_offset=1,
        defaults=defaults_record(steps=50),
    ),
)


def pose_row(family: Family, kind: PoseKind) -> Family:
    """The row of a kind of pose that is built like a family's."""
    if family.pose is None:
        return family
    return next(row for row in PICTURE_FAMILIES if row.pose is kind)
