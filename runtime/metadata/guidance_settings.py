"""What a picture's settings tell of adaptive projected guidance and of dynamic thresholding."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentrt.runtime.denoiser.combiners.apg import Apg
    from latentrt.runtime.denoiser.combiners.dynamic_thresholding import DynamicThresholding


def apg_pairs(apg: "Apg") -> dict[str, str]:
    """The settings of adaptive projected guidance, which A1111 does not have."""
    pairs = {name: f"{getattr(apg, name):g}" for name in ("eta", "norm_threshold", "momentum")}
    pairs |= {} if apg.space == "output" else {"space": str(apg.space)}
    return {f"APG {name.replace('_', ' ')}": value for name, value in pairs.items()}


def thresholding_pairs(settings: "DynamicThresholding") -> dict[str, str]:
    """The settings of dynamic thresholding as A1111's extension writes them."""
    pairs = {
        "Dynamic thresholding enabled": "True",
        "Mimic scale": f"{settings.mimic_scale:g}",
        "Separate Feature Channels": str(settings.separate_feature_channels),
        "Scaling Startpoint": settings.scaling_startpoint.upper(),
        "Variability Measure": settings.variability_measure.upper(),
        "Interpolate Phi": f"{settings.interpolate_phi:g}",
        "Threshold percentile": f"{settings.threshold_percentile:g}",
    }
    mimic, cfg = settings.modes
    for name, mode, least in (("Mimic", mimic, settings.mimic_scale_min), ("CFG", cfg, settings.cfg_scale_min)):
        if mode != "constant":
            pairs |= {f"{name} mode": mode.replace("_", " ").title(), f"{name} scale minimum": f"{least:g}"}
    if mimic.takes_value or cfg.takes_value:
        pairs["Scheduler value"] = f"{settings.scheduler_value:g}"
    return pairs
