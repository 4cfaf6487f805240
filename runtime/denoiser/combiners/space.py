"""A model's predictions as clean samples, and back."""

from dataclasses import replace

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.guider import Predictions
from latentrt.runtime.sampling.schedule import Level


def denoised(predictions: Predictions, kind: PredictionType) -> Predictions:
    """The clean samples that the model's outputs imply where it was asked.

    Args:
        predictions: outputs of the model.
        kind: what the model predicts.
    """
    level = _unit(predictions.level)
    return replace(
        predictions,
        unconditional=level.denoised(kind, predictions.unconditional, predictions.x),
        conditional=level.denoised(kind, predictions.conditional, predictions.x),
    )


def output(clean: Array, predictions: Predictions, kind: PredictionType) -> Array:
    """The output of the model that implies a clean sample where it was asked."""
    return _unit(predictions.level).output(kind, clean, predictions.x)


def _unit(level: Level) -> Level:
    """The level of x as the model sees it: scaled to unit variance."""
    scale = level.input_scale
    return replace(level, alpha=level.alpha * scale, sigma=level.sigma * scale)
