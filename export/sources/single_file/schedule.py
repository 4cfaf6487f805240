"""What a single file tells of its training: the noise schedule, and what the U-Net predicts."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentrt.engines.bundle.noise_schedule import zero_terminal_snr
from latentrt.engines.errors import CheckpointError
from latentrt.engines.spec import Array
from latentrt.export.sources.single_file.unet_structure import DIFFUSERS, LDM
from latentrt.export.sources.weights_file import WeightsFile

# Of SD 1.x, 2.x and XL alike (v1-inference.yaml: linear in sqrt(beta), which diffusers calls scaled_linear)
STANDARD: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
# At which training step two of Stability's SD 2.x files were saved, as diffusers knows them
_STEPS = {875000: ("epsilon", "SD 2.0 base"), 110000: ("v_prediction", "SD 2.1")}
_PREDICTIONS = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "sample": "sample",
}
_DEVIATION = 0.09  # ComfyUI tells SD 2.x's v-prediction by a bias: its deviation is above this there
# By how much a rounded number may differ from what was rounded: of itself, and by itself
_ROUNDED = {
    "float64": (0, 1e-5),
    "float32": (0, 1e-5),
    "float16": (2**-10, 2**-24),
    "bfloat16": (2**-7, 2**-24),
    "float8_e4m3fn": (2**-3, 2**-9),
    "float8_e5m2": (2**-2, 2**-16),
}


_PLAYGROUND: Mapping[str, Any] = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
}
_PLAYGROUND_SCALE = 0.5
_COSXL: Mapping[str, Any] = {
    "_class_name": "EDMEulerScheduler",
    "sigma_min": 0.002,
    "sigma_max": 120.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
}
_EDM_V = "edm_vpred."


@dataclass(frozen=True, kw_only=True)
class FileSchedule:
    """Keys of a scheduler's config that the file decides; ``prediction`` says how, None where it does not.

    ``passed_over`` says why the noise schedule that stands in the file is not read, None where it is.
    """

    training: Mapping[str, Any]
    prediction: str | None
    passed_over: str | None = None


def schedule_in_file(file: WeightsFile, unet: Mapping[str, Any], unet_prefix: str) -> FileSchedule:
    """What the file says, by its metadata, by marks among its tensors, by its training step, by one weight.

    Raises:
        CheckpointError: a noise schedule that cannot be told from rounded numbers.
    """
    edm = _edm(file)
    if edm is not None:
        return edm
    training, passed_over = _betas(file)
    if "ztsnr" in file.shapes:
        training["rescale_betas_zero_snr"] = True
    predicted, prediction = _prediction(file, unet, unet_prefix)
    if predicted is not None:
        training["prediction_type"] = predicted
    return FileSchedule(training=training, prediction=prediction, passed_over=passed_over)


def latents_in_file(file: WeightsFile, channels: int) -> dict[str, Any]:
    """What the file says of the scale of its latents, as keys of the autoencoder's config: Playground's statistics.

    Raises:
        CheckpointError: statistics that are none.
    """
    if not _has_statistics(file):
        return {}
    found: dict[str, Any] = {"scaling_factor": _PLAYGROUND_SCALE}
    for key, name in (("edm_mean", "latents_mean"), ("edm_std", "latents_std")):
        values = file.read([key])[key].double().flatten().tolist()
        if (
            len(values) != channels
            or not all(map(math.isfinite, values))
            or (name == "latents_std" and min(values) <= 0)
        ):
            raise CheckpointError(
                f"{str(file.path)!r} has {key} {values!r}, expected a {name} for each of {channels} channels; "
                "choose another file"
            )
        # As the numbers were written that float32 or float16 holds
        found[name] = [float(f"{value:.6g}") for value in values]
    return found


def _has_statistics(file: WeightsFile) -> bool:
    return "edm_mean" in file.shapes and "edm_std" in file.shapes


def _edm(file: WeightsFile) -> FileSchedule | None:
    """Noise levels in place of timesteps: Playground v2.5's, and those of CosXL, which names its own.

    ComfyUI knows both by these tensors (supported_models.py, SDXL); the schedulers are those of Playground's folder and
    of CosXL's authors.
    """
    if _has_statistics(file):
        training = {**_PLAYGROUND, "prediction_type": "epsilon"}
        return FileSchedule(training=training, prediction="the file's tensors edm_mean and edm_std, Playground v2.5's")
    if _EDM_V + "sigma_max" not in file.shapes:
        return None
    training = {**_COSXL, "prediction_type": "v_prediction"}
    for name in ("sigma_max", "sigma_min", "sigma_data"):
        if _EDM_V + name in file.shapes:
            training[name] = _positive(file, _EDM_V + name)
    return FileSchedule(training=training, prediction=f"the file's tensor {_EDM_V}sigma_max, CosXL's")


def _positive(file: WeightsFile, key: str) -> float:
    values = file.read([key])[key].double().flatten().tolist() if math.prod(file.shapes[key]) == 1 else []
    if not values or not 0 < values[0] < math.inf:
        raise CheckpointError(
            f"{str(file.path)!r} has {key} {values!r}, expected one number above 0; choose another file"
        )
    return float(f"{values[0]:.6g}")


def _prediction(file: WeightsFile, unet: Mapping[str, Any], unet_prefix: str) -> tuple[str | None, str | None]:
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):  # the second is what ComfyUI writes
        stated = file.metadata.get(key, "").strip().lower()
        if stated in _PREDICTIONS:
            return _PREDICTIONS[stated], f"the file's {key} {stated!r}"
    if "v_pred" in file.shapes:
        return "v_prediction", "the file's tensor v_pred"
    step = file.numbers.get("global_step", _number(file, "global_step"))
    of_sd2 = unet.get("use_linear_projection") and not unet.get("addition_embed_type") and unet["in_channels"] == 4
    if of_sd2 and step in _STEPS:
        return _STEPS[step][0], f"the file's global_step {step}, which is {_STEPS[step][1]}'s"
    if of_sd2 and unet["cross_attention_dim"] == 1024:
        deviation = next((d for key in (LDM.bias, DIFFUSERS.bias) if (d := _deviation(file, unet_prefix + key))), None)
        if deviation is not None:
            kind, side = ("v_prediction", "above") if deviation > _DEVIATION else ("epsilon", "below")
            return kind, f"the deviation {deviation:.3f} of a bias, {side} {_DEVIATION}"
    if re.search(r"(^|[^a-z])v[-_ ]?pred(iction)?([^a-z]|$)", file.path.stem.lower()):
        return "v_prediction", f"nothing but the file's name, {file.path.name}; --prediction-type for another"
    return None, None


def _number(file: WeightsFile, key: str) -> int | None:
    """A tensor of one whole number; None for any other."""
    numbers = _numbers(file, key)
    return int(numbers[0]) if numbers is not None and numbers.size == 1 and numbers[0] % 1 == 0 else None


def _deviation(file: WeightsFile, key: str) -> float | None:
    numbers = _numbers(file, key)
    return None if numbers is None or not numbers.size else float(numbers.std())


def _numbers(file: WeightsFile, key: str) -> Array | None:
    """A tensor's numbers (n,) float64; None where it is not there, of a type that is not read, or not finite."""
    if file.dtypes.get(key) not in (*_ROUNDED, "int64", "int32"):
        return None
    numbers = file.array(key).astype(np.float64).reshape(-1)
    return numbers if np.isfinite(numbers).all() else None


def _betas(file: WeightsFile) -> tuple[dict[str, Any], str | None]:
    """The noise schedule that the file lists, if it does: SD's, SD's rescaled to no signal, or its own numbers.

    And why it is passed over, if it is: it is only a hint, unless it is plainly that of another training.
    """
    if "alphas_cumprod" not in file.shapes:
        return {}, None
    own, dtype = _numbers(file, "alphas_cumprod"), file.dtypes["alphas_cumprod"]
    if own is None or own.size < 2 or dtype not in _ROUNDED:
        return {}, f"its alphas_cumprod are no noise schedule ({list(file.shapes['alphas_cumprod'])} {dtype})"
    count = len(own)
    betas = np.linspace(STANDARD["beta_start"] ** 0.5, STANDARD["beta_end"] ** 0.5, count) ** 2
    standard = np.cumprod(1 - betas)
    of_itself, by_itself = _ROUNDED[dtype]

    def is_own(schedule: Array) -> bool:
        return bool((np.abs(own - schedule) <= of_itself * schedule + by_itself).all())

    if is_own(standard):
        return {**STANDARD, "num_train_timesteps": count}, None
    if is_own(zero_terminal_snr(standard)):
        return {**STANDARD, "num_train_timesteps": count, "rescale_betas_zero_snr": True}, None
    falls = (np.diff(own) < 0).all() if of_itself == 0 else (np.diff(own) <= 0).all()
    if not falls or own[0] > 1 or own[0] == own[-1] or own[-1] < 0:
        return {}, "its alphas_cumprod are no noise schedule: they do not fall from 1 towards 0"
    if dtype.startswith("float8"):
        return {}, f"its alphas_cumprod are rounded to {dtype}, which says too little of a schedule that is not SD's"
    if of_itself or own[0] == 1 or own[-1] == 0:
        raise CheckpointError(
            f"{str(file.path)!r} has a noise schedule (alphas_cumprod) that is not SD's and too coarse, "
            "expected one in fp32; take the model in fp32"
        )
    own_betas = 1 - own / np.concatenate([[1.0], own[:-1]])
    return {"num_train_timesteps": count, "trained_betas": [float(beta) for beta in own_betas]}, None
