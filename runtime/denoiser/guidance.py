"""Classifier-free guidance around a U-Net engine, for any number of pictures."""

from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np

from latentrt.engines.batches import pieces_of
from latentrt.engines.bundle.conditioning import guidance_scale_embedding
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.text import Conditioning
from latentrt.runtime.sampling.schedule import Level, Schedule

_SAME = 1.0 - 1e-9  # two noise levels that differ by rounding only


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly each step is guided.

    ``scales`` has one weight per step of the whole run; at most 1 means none, and half the work. ``ratios`` are the
    steps' noise-to-signal ratios, descending: a model call between two steps belongs to the one it comes after.
    ``rescale`` is φ of arXiv 2305.08891, section 3.4. ``embedding`` is the size of the embedded weight that a model
    distilled from guidance takes instead of an unconditional half; 0 where it takes none.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    rescale: float = 0.0
    embedding: int = 0

    @cached_property
    def used(self) -> bool:
        """Whether any step has an unconditional half."""
        return self.embedding == 0 and any(scale > 1.0 for scale in self.scales)

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
        self, engine: Engine, conditioning: Conditioning, guidance: Guidance, extra: Array | None = None
    ) -> None:
        """Plans the engine calls of a step.

        Args:
            engine: the U-Net.
            conditioning: of the prompts; the negative half is needed where any step has one.
            guidance: the weight of every step.
            extra: (N, E, h, w) channels that follow the sample's own: an inpainting model's mask and picture.
        """
        self._engine = engine
        self._conditioning = conditioning
        self._guidance = guidance
        self._extra = extra
        self._plans: dict[bool, list[_Piece]] = {}
        self._embeddings: dict[float, Array] = {}
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, x: Array, level: Level) -> Array:
        """The guided prediction at ``x`` (N, C, H/f, W/f), already scaled to unit variance; a new array."""
        scale = self._guidance.at(level)
        guided = self._guidance.used and scale > 1.0
        if guided not in self._plans:
            self._plans[guided] = self._plan(guided)
        count, channels = x.shape[:2]
        predictions = np.empty((2 * count if guided else count, *x.shape[1:]), x.dtype)
        for piece in self._plans[guided]:
            inputs = piece.inputs
            inputs["timestep"][:] = level.timestep
            if self._guidance.embedding:
                inputs["timestep_cond"][:] = self._embedded(scale)
            inputs["sample"][: len(piece.pictures), :channels] = x[piece.pictures]
            begin = perf_counter()
            output = self._engine.run(inputs)["out_sample"]
            self.seconds += perf_counter() - begin
            self.calls += 1
            predictions[piece.rows] = output[: len(piece.pictures)]
        if not guided:
            return predictions
        unconditional, conditional = predictions[:count], predictions[count:]
        mixed = unconditional + scale * (conditional - unconditional)
        rescale = self._guidance.rescale
        return rescaled(mixed, conditional, rescale) if rescale > 0.0 else mixed

    def _embedded(self, scale: float) -> Array:
        """The embedding of a weight, computed when it is first used."""
        if scale not in self._embeddings:
            self._embeddings[scale] = guidance_scale_embedding(scale, self._guidance.embedding)
        return self._embeddings[scale]

    def _plan(self, guided: bool) -> list["_Piece"]:
        """The engine calls of a step: the unconditional rows, then the others, cut to what a call holds."""
        spec, told = self._engine.spec, self._conditioning
        halves = [told.positive] if told.negative is None or not guided else [told.negative, told.positive]
        rows = {name: np.concatenate([half[name] for half in halves]) for name in told.positive}
        plan = []
        for start, stop, batch in pieces_of(told.count * len(halves), spec.batches):
            inputs = {name: np.zeros(tensor.sized(batch), tensor.dtype) for name, tensor in spec.inputs.items()}
            pictures = np.arange(start, stop) % told.count
            for name, array in rows.items():
                inputs[name][: stop - start] = array[start:stop]
            if self._extra is not None:
                inputs["sample"][: stop - start, -self._extra.shape[1] :] = self._extra[pictures]
            plan.append(_Piece(inputs=inputs, pictures=pictures, rows=slice(start, stop)))
        return plan


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One engine call: its inputs, whose pictures they belong to, and which rows of the step's they are."""

    inputs: dict[str, Array]
    pictures: Array
    rows: slice
