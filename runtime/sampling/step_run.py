"""A run of a traced table, stepped from outside: each of its calls is a model call and the update after it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.bundle.unet.denoise_step import EARLIER, RESULTS, TERMS, VECTORS
from latentrt.engines.spec import Array
from latentrt.runtime.sampling.run import AnyRun, Keep, OnStep
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import NoiseSource
from latentrt.runtime.sampling.trace import Row, Table

_X, _HELD = 0, EARLIER
_GUIDED, _UNGUIDED, _NOISE = VECTORS, VECTORS + 1, VECTORS + 2
_DENOISED = VECTORS


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A model call and the update after it.

    Attributes:
        next_level: where the next call asks; None after the last.
        update: the matrix of ``StepRows``, the same for all pictures.
        noise: (N, C, h, w), where the update adds any.
        keep: what inpainting keeps.
        x: (N, C, h, w) to begin or to go on with; None: what the step before led to.
    """

    next_level: Level | None
    update: Array
    noise: Array | None
    keep: Keep | None
    x: Array | None

    @property
    def kept(self) -> tuple[float, float]:
        """How much of the clean latents, and of their noise, is kept behind the update."""
        if self.keep is None:
            return 0.0, 0.0
        if self.next_level is None:
            return self.keep.data_scale, 0.0
        return self.next_level.alpha, self.next_level.sigma


@dataclass(frozen=True, slots=True)
class StepCall:
    """What a run asks: a step, and the level at which it asks the model."""

    x: Step
    level: Level


class Stepped(Protocol):
    """Where a step led; arrays are copied from the device as they are asked for."""

    @property
    def x(self) -> Array:
        """(N, C, h, w)."""
        ...

    @property
    def denoised(self) -> Array:
        """The clean sample predicted (N, C, h, w)."""
        ...


@dataclass(frozen=True)
class _StepUpdate:
    """An ``Update`` whose arrays are copied as they are asked for."""

    index: int
    level: Level
    next_level: Level | None
    stepped: Stepped

    @cached_property
    def x(self) -> Array:
        return self.stepped.x

    @cached_property
    def denoised(self) -> Array:
        return self.stepped.denoised


class StepRun(AnyRun[StepCall]):
    """As ``Run``, of a solver that was traced: whoever holds it makes the steps."""

    def __init__(
        self,
        x: Array,
        table: Table,
        schedule: Schedule,
        noise: NoiseSource,
        *,
        keep: Keep | None = None,
        on_step: OnStep | None = None,
        stop_below: float = -math.inf,
    ) -> None:
        """Begins the run; the arguments are those of ``Run``, with the solver's table in its place."""
        super().__init__(on_step, stop_below)
        self._x: Array | None = x
        self._stepped: Stepped | None = None
        self._table, self._prediction_type, self._noise = table, schedule.prediction_type, noise
        self._keep = keep
        self._ask()

    @property
    def x(self) -> Array:
        """(N, C, H/f, W/f), where the run is; its result once it has ended. A copy from the device."""
        if self._x is None:
            assert self._stepped is not None  # one of the two is there; for the type checker
            self._x = self._stepped.x
        return self._x

    def answer(self, stepped: Stepped) -> None:
        """Goes on behind a step.

        Raises:
            ValueError: the run has ended and asks for nothing.
        """
        asked = self._answered()
        self._stepped = stepped
        self._x = self._shown(_StepUpdate(len(self.seconds) - 1, asked.level, asked.x.next_level, stepped))
        if not self.interrupted:
            self._ask()

    def _ask(self) -> None:
        done, rows = len(self.seconds), self._table.rows
        if done == len(rows) or rows[done].level.timestep < self._stop_below:
            return
        row = rows[done]
        # Also where it counts nothing; given then, too, so that all steps of a run are alike
        drawn = None if row.noise_span is None else self._noise(*row.noise_span)
        step = Step(
            next_level=rows[done + 1].level if done + 1 < len(rows) else None,
            update=update_matrix(row, self._prediction_type),
            noise=drawn if self._table.stochastic else None,
            keep=self._keep,
            x=self._x,
        )
        self._asks(StepCall(step, row.level))


def fits(table: Table) -> bool:
    """Whether the vectors that a table keeps are no more than a step has places for."""
    return table.earlier_predictions + table.holds_x <= EARLIER


def update_matrix(row: Row, prediction_type: PredictionType) -> Array:
    """The matrix of a row, float64: vectors are x, then the slots of earlier predictions; an earlier x is the last."""
    matrix = np.zeros((RESULTS, TERMS))
    guided, unguided = np.zeros((2, TERMS))
    guided[[_X, _GUIDED]] = unguided[[_X, _UNGUIDED]] = row.from_x, row.from_output
    matrix[_X] = row.prediction * guided + row.unguided * unguided
    matrix[_X, _X] += row.x
    matrix[_X, _NOISE] = row.noise
    matrix[1:VECTORS, 1:VECTORS] = np.eye(EARLIER)
    for slot, factor in enumerate(row.earlier, 1):
        matrix[_X, slot] = factor
    if row.held:
        matrix[_X, _HELD] = row.held
    if row.hold:
        matrix[_HELD] = 0.0
        matrix[_HELD, _X] = 1.0
    for kept, prediction in ((row.keep, guided), (row.keep_unguided, unguided)):
        if kept is not None:
            matrix[1 + kept] = prediction
    # Each number alone, for what it is multiplied by: Level combines linearly
    matrix[_DENOISED, [_X, _GUIDED]] = row.level.denoised(prediction_type, np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    return matrix


def as_one(update: Array) -> Array:
    """The matrix where nothing guides: the unguided prediction is the guided one."""
    matrix = update.copy()
    matrix[:, _GUIDED] += matrix[:, _UNGUIDED]
    matrix[:, _UNGUIDED] = 0.0
    return matrix
