"""One sampling run, stepped from outside: it says what it wants of the model and goes on with the answer."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level, Schedule
from latentrt.runtime.sampling.solvers.solver import Evaluate, EvaluateBoth, NoiseSource, Solver


@dataclass(frozen=True, slots=True)
class Call:
    """What a run asks the model: x (N, C, H/f, W/f), scaled to unit variance, at a level."""

    x: Array
    level: Level


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says to a call: its guided prediction, and the one that nothing guided; both (N, C, H/f, W/f)."""

    guided: Array
    unguided: Array


Model = Callable[[Array, Level], Array | Answer]


class Update(Protocol):
    """What one model call led to; ``index`` counts model calls, and ``next_level`` is None after the last."""

    @property
    def index(self) -> int: ...
    @property
    def level(self) -> Level: ...
    @property
    def next_level(self) -> Level | None: ...
    @property
    def x(self) -> Array:
        """(N, C, H/f, W/f), on its way to the next level."""
        ...

    @property
    def denoised(self) -> Array:
        """The clean sample predicted (N, C, H/f, W/f)."""
        ...


@dataclass(frozen=True, slots=True)
class HostUpdate:
    """An ``Update`` whose arrays are there."""

    index: int
    level: Level
    next_level: Level | None
    x: Array
    denoised: Array


OnStep = Callable[[Update], Array | None]
"""Told of an update; the x to go on with, or None for the one that is there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Keep:
    """What inpainting keeps: after every update the original, noised to the level that x is at, replaces it.

    Attributes:
        mask: (N, 1, h, w): 1 is redrawn, 0 is kept.
        clean: (N, C, h, w), in the scale of the schedule's levels.
        noise: (N, C, h, w), the same at every level.
        data_scale: what ``clean`` is multiplied by after the last update.
    """

    mask: Array
    clean: Array
    noise: Array
    data_scale: float = 1.0

    def applied(self, x: Array, level: Level | None) -> Array:
        """x with its kept part at ``level``; None after the last update."""
        kept = self.clean * np.float32(self.data_scale) if level is None else level.noised(self.clean, self.noise)
        return np.asarray((1.0 - self.mask) * kept + self.mask * x, x.dtype)


class Interrupt(Exception):  # noqa: N818 - control flow, as KeyboardInterrupt
    """Raised in a callback to end the run; what there is so far is decoded and returned.

    ``latents`` is what the run ends with; None takes x as the solver left it.
    """

    def __init__(self, latents: Array | None = None) -> None:
        super().__init__()
        self.latents = latents


class Run:
    """A solver on its way through a schedule. Whoever holds it calls the model, alone or for several runs at once.

    ::

        for call in run:
            run.answer(model(call.x, call.level))

    Attributes:
        call: what the model is asked next; None once the run has ended.
        x: (N, C, H/f, W/f), where the run is; its result once it has ended.
        seconds: what each model call took: from being asked for to its answer, or as its caller said.
        interrupted: whether ``on_step`` ended the run.
    """

    def __init__(
        self,
        x: Array,
        schedule: Schedule,
        solver: Solver,
        noise: NoiseSource,
        *,
        keep: Keep | None = None,
        on_step: OnStep | None = None,
        stop_below: float = -math.inf,
    ) -> None:
        """Begins the run.

        Args:
            x: (N, C, H/f, W/f) at the schedule's first level.
            schedule: the levels.
            solver: the generator to step.
            noise: standard normal noise of x's shape, for stochastic solvers.
            keep: what inpainting keeps.
            on_step: called after each update, with what is kept in place.
            stop_below: the run ends before the model would be asked at a lower timestep.
        """
        self.x = x
        self.call: Call | None = None
        self.seconds: list[float] = []
        self.interrupted = False
        self._prediction_type = schedule.prediction_type
        self._keep, self._on_step, self._stop_below = keep, on_step, stop_below
        if len(schedule):
            self._solver = solver(x, schedule, noise)
            self._ask(next(self._solver))

    def __iter__(self) -> Iterator[Call]:
        """What the model is asked, call by call; each is to be answered before the next."""
        while self.call is not None:
            yield self.call

    def answer(self, answer: Array | Answer, seconds: float | None = None) -> None:
        """Goes on with the model's prediction for ``call``.

        Args:
            answer: the predictions; one alone (N, C, H/f, W/f) is both.
            seconds: what the model took, for ``seconds``; None: all the time since it was asked.

        Raises:
            ValueError: the run has ended and asks for nothing.
        """
        if self.call is None:
            raise ValueError(
                "got a prediction for a run that has ended, expected one that asks (run.call); begin another"
            )
        seconds_asked = perf_counter() - self._asked
        answer = answer if isinstance(answer, Answer) else Answer(answer, answer)
        x, level = self.x, self._wanted.level
        denoised = level.denoised(self._prediction_type, answer.guided, x)
        sent: tuple[Array, ...] = (x, denoised)
        if isinstance(self._wanted, EvaluateBoth):
            sent = (x, denoised, level.denoised(self._prediction_type, answer.unguided, x))
        wanted: Evaluate | None = None
        try:
            wanted = self._solver.send(sent)
            x = wanted.x
        except StopIteration as finished:
            x = finished.value
        next_level = None if wanted is None else wanted.level
        if self._keep is not None:
            x = self._keep.applied(x, next_level)
        self.seconds.append(seconds_asked if seconds is None else seconds)
        self.x, self.call = x, None
        if self._on_step is not None:
            try:
                changed = self._on_step(HostUpdate(len(self.seconds) - 1, level, next_level, x, denoised))
                self.x = x if changed is None else changed
            except Interrupt as interrupt:
                self.x = x if interrupt.latents is None else interrupt.latents
                self.interrupted = True
                return
        if wanted is not None:
            self._ask(replace(wanted, x=self.x))

    def _ask(self, wanted: Evaluate) -> None:
        self.x, self._wanted = wanted.x, wanted
        if wanted.level.timestep >= self._stop_below:
            scale = wanted.level.input_scale
            self.call = Call(self.x if scale == 1.0 else self.x * scale, wanted.level)
            self._asked = perf_counter()


class AnyRun(Protocol):
    """A run, whatever its calls are: those of a model, or whole steps. What makes them answers them."""

    seconds: list[float]
    interrupted: bool

    def __iter__(self) -> Iterator[Any]:
        """What is asked, call by call; each has an ``x`` and a ``level``."""
        ...

    def answer(self, answer: Any) -> None:
        """Goes on."""
        ...

    @property
    def x(self) -> Array:
        """Where the run is."""
        ...


def denoise(run: AnyRun, model: Callable[[Any, Level], Any]) -> Array:
    """Drives one run to its end; returns its x."""
    for call in run:
        run.answer(model(call.x, call.level))
    return run.x


def levels_asked(schedule: Schedule, solver: Solver) -> list[Level]:
    """The levels at which a run asks the model, in order; found by running the solver on a number."""
    levels: list[Level] = []
    if len(schedule):
        steps = solver(0.0, schedule, lambda *_: 0.0)  # type: ignore[arg-type]
        wanted = next(steps)
        try:
            while True:
                levels.append(wanted.level)
                both = isinstance(wanted, EvaluateBoth)
                wanted = steps.send((0.0, 0.0, 0.0) if both else (0.0, 0.0))  # type: ignore[arg-type]
        except StopIteration:
            pass
    return levels
