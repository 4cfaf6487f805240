"""Classifier-free guidance around a U-Net engine, for any number of pictures."""

from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.batches import pieces_of
from latentrt.runtime.schedule import Level, Schedule

_SAME = 1.0 - 1e-9  # two noise levels that differ by rounding only


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly each step is guided.

    ``scales`` has one weight per step of the whole run; at most 1 means none, and half the work. ``ratios`` are the
    steps' noise-to-signal ratios, descending: a model call between two steps belongs to the one it comes after.
    ``rescale`` is φ of arXiv 2305.08891, section 3.4.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    rescale: float = 0.0

    @cached_property
    def used(self) -> bool:
        """Whether any step is guided."""
        return any(scale > 1.0 for scale in self.scales)

    def at(self, level: Level) -> float:
        """The weight at a noise level."""
        reached = sum(ratio >= level.ratio * _SAME for ratio in self.ratios)
        return self.scales[max(reached - 1, 0)]


def guidance_ratios(schedule: Schedule) -> tuple[float, ...]:
    """The noise-to-signal ratios of a run's steps, each once: PNDM visits one timestep twice."""
    return tuple(dict.fromkeys(step.level.ratio for step in schedule.all_steps))


def rescaled(guided: Array, conditional: Array, rescale: float) -> Array:
    """Brings a guided prediction back towards the deviation of the conditional one (arXiv 2305.08891, eqs. 14 to 16).

    Args:
        guided: (N, C, h, w).
        conditional: the same without guidance.
        rescale: φ, 0 to 1.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdims=True, ddof=1) / guided.std(axes, keepdims=True, ddof=1)
    return np.asarray(guided * (rescale * ratio + (1.0 - rescale)), guided.dtype)


class GuidedUnet:
    """The U-Net's prediction under guidance: u + s · (c − u) (Ho and Salimans 2022, eq. 6).

    Guidance runs where s > 1 (equal to 1 would reproduce c); without it the unconditional half is never
    computed. All buffers that do not change between steps are made once. Belongs to one call of a pipeline.
    """

    def __init__(
        self, engine: Engine, positive: Array, negative: Array | None, guidance: Guidance, extra: Array | None = None
    ) -> None:
        """Plans the engine calls of a step.

        Args:
            engine: the U-Net.
            positive: (N, length, width) embeddings of the prompts.
            negative: the same of the negative prompts; needed where any step is guided.
            guidance: the weight of every step.
            extra: (N, E, h, w) channels that follow the sample's own: an inpainting model's mask and picture.
        """
        self._engine = engine
        self._guidance = guidance
        self._positive, self._negative, self._extra = positive, negative, extra
        self._plans: dict[bool, list[tuple[int, int, dict[str, Array]]]] = {}
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, x: Array, level: Level) -> Array:
        """The guided prediction at ``x`` (N, C, H/f, W/f), already scaled to unit variance; a new array."""
        scale = self._guidance.at(level)
        guided = scale > 1.0
        if guided not in self._plans:
            self._plans[guided] = self._plan(guided)
        predictions = np.empty_like(x)
        channels = x.shape[1]
        for start, stop, inputs in self._plans[guided]:
            count = stop - start
            inputs["timestep"][0] = level.timestep
            inputs["sample"][:count, :channels] = x[start:stop]
            if guided:
                inputs["sample"][count : 2 * count, :channels] = x[start:stop]
            begin = perf_counter()
            output = self._engine.run(inputs)["out_sample"]
            self.seconds += perf_counter() - begin
            self.calls += 1
            if guided:
                unconditional, conditional = output[:count], output[count : 2 * count]
                mixed = unconditional + scale * (conditional - unconditional)
                rescale = self._guidance.rescale
                predictions[start:stop] = rescaled(mixed, conditional, rescale) if rescale > 0.0 else mixed
            else:
                predictions[start:stop] = output[:count]
        return predictions

    def _plan(self, guided: bool) -> list[tuple[int, int, dict[str, Array]]]:
        """(start, stop, engine inputs) of every call; the unconditional half goes first."""
        rows = 2 if guided else 1
        spec, batches = self._engine.spec.inputs["sample"], self._engine.spec.batches
        capacity = tuple(dict.fromkeys(batch // rows for batch in batches if batch >= rows))
        halves = [self._positive] if self._negative is None or not guided else [self._negative, self._positive]
        plan = []
        for start, stop, pictures in pieces_of(len(self._positive), capacity):
            batch, count = self._engine.spec.fit(pictures * rows), stop - start
            context = np.zeros((batch, *self._positive.shape[1:]), self._positive.dtype)
            sample = np.zeros(spec.sized(batch), spec.dtype)
            for row, half in enumerate(halves):
                context[row * count : (row + 1) * count] = half[start:stop]
                if self._extra is not None:
                    own = spec.sized(batch)[1] - self._extra.shape[1]
                    sample[row * count : (row + 1) * count, own:] = self._extra[start:stop]
            timestep = np.zeros(1, self._engine.spec.inputs["timestep"].dtype)
            plan.append((start, stop, {"sample": sample, "timestep": timestep, "encoder_hidden_states": context}))
        return plan
