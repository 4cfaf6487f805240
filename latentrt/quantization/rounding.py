"""Decides how a component's tensors are rounded, and measures what each node's rounding costs the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.noise_schedule import alpha_cumprod_at
from latentrt.engines.bundle.records.schedule_config import PredictionType, ScheduleConfig
from latentrt.engines.graphs.quantization.attention import RoundedAttention, rounded_attention
from latentrt.engines.graphs.quantization.observe import Observations
from latentrt.engines.graphs.quantization.ranges import InputChoice, choose_inputs, output_ranges
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.graphs.quantization.sensitivity import RecordedCall, sensitivities
from latentrt.engines.spec import Array
from latentrt.quantization.quantization import QuantizableComponent, Quantization

_LEAST_ALPHA = 2.0**-24  # of schedules that end without signal, as diffusers has it


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How a component's tensors are rounded, by tensor name, and what each node's rounding costs, by node path.

    ``attentions`` say how those are rounded that may be.
    """

    inputs: Mapping[str, InputChoice]
    outputs: Mapping[str, Range]
    scores: Mapping[str, float]
    attentions: Sequence[RoundedAttention] = ()


def rounding_from_observations(
    quantization: Quantization, part: QuantizableComponent, observations: Observations
) -> Rounding:
    """Chooses ranges and smoothing from what was observed, and scores every node."""
    recipe, progress = quantization.settings.recipe, quantization.progress
    tensors = len({node.input for node in part.nodes})
    inputs = {}
    with progress.stage(f"{part.name}: ranges"):
        for name, choice in choose_inputs(part.weights, part.nodes, observations, recipe):
            inputs[name] = choice
            progress.phase(f"tensor {len(inputs)} of {tensors}", len(inputs), tensors)
    outputs = output_ranges(part.nodes, observations, recipe)
    if part.has_timesteps:
        calls = schedule_calls(quantization.base.manifest.schedule, observations.calls)
    else:
        calls = [RecordedCall(inputs=call, weight=len(observations.calls) ** -0.5) for call in observations.calls]
    return Rounding(
        inputs=inputs,
        outputs=outputs,
        scores=_scores(quantization, part, inputs, outputs, calls),
        attentions=[rounded_attention(attention, observations) for attention in part.attentions],
    )


def schedule_calls(schedule: ScheduleConfig, calls: Sequence[Mapping[str, Array]]) -> list[RecordedCall]:
    """The U-Net's recorded calls, each weighted by the part of the schedule that it stands for.

    An Euler step from σᵢ to σᵢ₊₁ moves the latents by (σᵢ − σᵢ₊₁) times the predicted noise, of which a velocity counts
    √ᾱ times; what EDM's networks give is one, too.
    """
    ordered = sorted(calls, key=lambda call: -float(call["timestep"][0]))
    alphas = [max(alpha_cumprod_at(schedule, float(call["timestep"][0])), _LEAST_ALPHA) for call in ordered]
    sigmas = [*(((1.0 - alpha) / alpha) ** 0.5 for alpha in alphas), 0.0]
    velocity = schedule.prediction_type is PredictionType.V_PREDICTION or schedule.edm is not None
    return [
        RecordedCall(inputs=call, weight=(sigmas[i] - sigmas[i + 1]) * (alphas[i] ** 0.5 if velocity else 1.0))
        for i, call in enumerate(ordered)
    ]


def _scores(
    quantization: Quantization,
    part: QuantizableComponent,
    inputs: Mapping[str, InputChoice],
    outputs: Mapping[str, Range],
    calls: Sequence[RecordedCall],
) -> dict[str, float]:
    """Every node's score by its path; those of a killed calibration are not measured again."""
    if not calls:
        return dict.fromkeys((node.path for node in part.nodes), 0.0)
    recipe, progress, checkpoints = quantization.settings.recipe, quantization.progress, quantization.checkpoints
    name = f"scores-{part.name}-{recipe}"
    scores = {path: float(score) for path, score in (checkpoints.load(name) or {}).items()}
    unscored = [node for node in part.nodes if node.path not in scores]
    if not unscored:
        return scores

    def arrays() -> dict[str, Array]:
        return {path: np.array(score) for path, score in scores.items()}

    total = len(part.nodes)
    with progress.stage(f"{part.name}: sensitivity"), checkpoints.autosaved(name, arrays) as save_if_due:
        measured = sensitivities(
            part.weights, unscored, inputs, outputs, recipe, calls, output=next(iter(part.spec.outputs))
        )
        for node, score in measured:
            scores[node.path] = score
            progress.phase(f"node {len(scores)} of {total}", len(scores), total)
            save_if_due()
    return scores
