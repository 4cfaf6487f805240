"""Which sampler draws as a checkpoint's own scheduler would."""

from collections.abc import Mapping
from typing import Any

from latentrt.export.sources.families import Family

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
_WITHOUT_KARRAS = frozenset({"ddim", "ddpm", "euler_a", "lcm", "tcd"})
_NOT_DRAWN = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


def sampler_of_scheduler(scheduler: Mapping[str, Any], family: Family) -> str:
    """The sampler that draws as a checkpoint's own scheduler would, or else the family's default."""
    if any(scheduler.get(key) for key in _NOT_DRAWN):
        return family.defaults.sampler
    for name, kind, settings in _SAMPLER_OF_SCHEDULER:
        if kind == scheduler.get("_class_name") and all(
            scheduler.get(key, _UNSTATED.get(key, value)) == value for key, value in settings.items()
        ):
            return f"{name}_k" if scheduler.get("use_karras_sigmas") and name not in _WITHOUT_KARRAS else name
    return family.defaults.sampler
