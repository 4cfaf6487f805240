"""The model families that can be built: one row each, nothing else branches on a family's name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import DefaultsRecord
from latentrt.runtime.samplers import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the registry. Rows may share a pipeline class; the U-Net's input channels then tell them apart.

    ``steps_offset`` is what the family's diffusers pipeline sets in its scheduler, whatever the file says.
    """

    name: str
    pipeline_classes: frozenset[str]
    unet_in_channels: int
    steps_offset: int
    defaults: DefaultsRecord


SD1 = Family(
    name="sd1",
    pipeline_classes=frozenset(
        {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"}
    ),
    unet_in_channels=4,
    steps_offset=1,
    defaults=DefaultsRecord(sampler="dpmpp_2m_k", num_inference_steps=30, guidance_scale=7.5, strength=0.75),
)
SD1_INPAINT = Family(
    name="sd1-inpaint",
    pipeline_classes=frozenset({"StableDiffusionInpaintPipeline"}),
    unet_in_channels=9,  # latents, mask, latents of the masked picture
    steps_offset=1,
    defaults=DefaultsRecord(sampler="dpmpp_2m_k", num_inference_steps=30, guidance_scale=7.5, strength=1.0),
)
FAMILIES = (SD1, SD1_INPAINT)

# The sampler that a checkpoint's own scheduler stands for, and the settings that it then must have. PNDM is not among
# them: it is what checkpoints carry that never chose one, and the family's default needs fewer steps.
_SAMPLER_OF_SCHEDULER: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("ddim", "DDIMScheduler", {}),
    ("ddpm", "DDPMScheduler", {"variance_type": "fixed_small"}),
    ("euler", "EulerDiscreteScheduler", {"timestep_type": "discrete", "interpolation_type": "linear"}),
    ("euler_a", "EulerAncestralDiscreteScheduler", {}),
    ("heun", "HeunDiscreteScheduler", {}),
    ("kdpm_2", "KDPM2DiscreteScheduler", {}),
    ("kdpm_2_a", "KDPM2AncestralDiscreteScheduler", {}),
    ("lms", "LMSDiscreteScheduler", {}),
    ("dpmpp_sde", "DPMSolverSDEScheduler", {}),
    (
        "dpmpp_2s",
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": False},
    ),
    *(
        (
            name,
            "DPMSolverMultistepScheduler",
            {
                "algorithm_type": algorithm,
                "solver_order": order,
                "solver_type": "midpoint",
                "lower_order_final": True,
                "euler_at_final": False,
                "use_lu_lambdas": False,
            },
        )
        for name, algorithm, order in (
            ("dpmpp_2m", "dpmsolver++", 2),
            ("dpmpp_2m_sde", "sde-dpmsolver++", 2),
            ("dpmpp_3m", "dpmsolver++", 3),
        )
    ),
    ("deis", "DEISMultistepScheduler", {"solver_order": 2, "lower_order_final": True}),
    (
        "unipc",
        "UniPCMultistepScheduler",
        {
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "lower_order_final": True,
            "disable_corrector": [],
        },
    ),
    ("lcm", "LCMScheduler", {"original_inference_steps": 50, "timestep_scaling": 10.0}),
    ("tcd", "TCDScheduler", {"original_inference_steps": 50}),
)
# Class defaults differ here from what the row wants, so the file has to say it
_UNSTATED: Mapping[str, object] = {"solver_order": 2, "algorithm_type": "dpmsolver++"}
_NOT_DRAWN = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


def sampler_of_scheduler(scheduler: Mapping[str, Any], family: Family) -> str:
    """The sampler that draws as a checkpoint's own scheduler would, or else the family's default."""
    if any(scheduler.get(key) for key in _NOT_DRAWN):
        return family.defaults.sampler
    for name, kind, settings in _SAMPLER_OF_SCHEDULER:
        if kind == scheduler.get("_class_name") and all(
            scheduler.get(key, _UNSTATED.get(key, value)) == value for key, value in settings.items()
        ):
            karras = f"{name}_k"
            return karras if scheduler.get("use_karras_sigmas") and karras in SAMPLERS else name
    return family.defaults.sampler


# Parts of a U-Net's config that need inputs no listed family has
_PLAIN_UNET = {
    "addition_embed_type": None,
    "class_embed_type": None,
    "encoder_hid_dim_type": None,
    "num_class_embeds": None,
    "time_cond_proj_dim": None,
}


def family_of(index: Mapping[str, Any], unet: Mapping[str, Any], folder: str) -> Family:
    """The family of a diffusers folder, by its pipeline class and its U-Net's config.

    Raises:
        CheckpointError: no listed family; every reason is named.
    """
    pipeline, channels = index.get("_class_name"), unet.get("in_channels")
    candidates = [family for family in FAMILIES if pipeline in family.pipeline_classes]
    if not candidates:
        known = sorted({name for family in FAMILIES for name in family.pipeline_classes})
        raise CheckpointError(f"{folder!r} is a {pipeline}, expected one of {', '.join(known)}; choose such a model")
    faults = [
        f"its U-Net has {key} {unet[key]!r}" for key, plain in _PLAIN_UNET.items() if unet.get(key, plain) != plain
    ]
    fitting = [family for family in candidates if channels in (None, family.unet_in_channels)]
    if not fitting:
        expected = " or ".join(str(family.unet_in_channels) for family in candidates)
        faults.append(f"its U-Net takes {channels} channels instead of {expected}")
    if faults:
        raise CheckpointError(f"{folder!r} cannot be built: {'; '.join(faults)}; choose a Stable Diffusion 1.x model")
    return fitting[0]
