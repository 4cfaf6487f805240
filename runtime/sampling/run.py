"""One sampling run, stepped from outside: it says what it wants of the model and goes on with the answer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

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
Asked = TypeVar("Asked")
"""What a run asks, call by call: each has an ``x`` and a ``level``."""


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


class AnyRun(ABC, Generic[Asked]):
    """A run that is stepped from outside: it asks, and goes on behind each answer, until it has no call left.

    Attributes:
        call: what is asked next; None once the run has ended.
        seconds: what each call took: from being asked to its answer, or as its caller said.
        interrupted: whether ``on_step`` ended the run.
    """

    def __init__(self, on_step: OnStep | None, stop_below: float) -> None:
        """Asks nothing yet."""
        self.call: Asked | None = None
        self.seconds: list[float] = []
        self.interrupted = False
        self._on_step, self._stop_below = on_step, stop_below

    def __iter__(self) -> Iterator[Asked]:
        """What is asked, call by call; each is to be answered before the next."""
        while self.call is not None:
            yield self.call

    @property
    @abstractmethod
    def x(self) -> Array:
        """(N, C, H/f, W/f), where the run is; its result once it has ended."""

    @abstractmethod
    def answer(self, answer: Any) -> None:
        """Goes on behind the call."""

    def _asks(self, call: Asked) -> None:
        self.call, self._since = call, perf_counter()

    def _answered(self, seconds: float | None = None) -> Asked:
        """The call that is answered; nothing is asked any more.

        Raises:
            ValueError: the run has ended and asks for nothing.
        """
        if self.call is None:
            raise ValueError("got an answer for a run that has ended, expected one that asks (run.call); begin another")
        self.seconds.append(perf_counter() - self._since if seconds is None else seconds)
        call, self.call = self.call, None
        return call

    def _shown(self, update: Update) -> Array | None:
        """The x that who watches wants to go on with, or to end with; None for the one that is there."""
        try:
            return self._on_step(update) if self._on_step is not None else None
        except Interrupt as interrupt:
            self.interrupted = True
            return interrupt.latents


class Run(AnyRun[Call]):
    """A solver on its way through a schedule. Whoever holds it calls the model, alone or for several runs at once.

    ::

        for call in run:
            run.answer(model(call.x, call.level))
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
        super().__init__(on_step, stop_below)
        self._x, self._prediction_type, self._keep = x, schedule.prediction_type, keep
        if len(schedule):
            self._solver = solver(x, schedule, noise)
            self._ask(next(self._solver))

    @property
    def x(self) -> Array:
        """(N, C, H/f, W/f), where the run is; its result once it has ended."""
        return self._x

    def answer(self, answer: Array | Answer, seconds: float | None = None) -> None:
        """Goes on with the model's prediction for ``call``.

        Args:
            answer: the predictions; one alone (N, C, H/f, W/f) is both.
            seconds: what the model took, for ``seconds``; None: all the time since it was asked.

        Raises:
            ValueError: the run has ended and asks for nothing.
        """
        level = self._answered(seconds).level
        answer = answer if isinstance(answer, Answer) else Answer(answer, answer)
        denoised = level.denoised(self._prediction_type, answer.guided, self._x)
        sent: tuple[Array, ...] = (self._x, denoised)
        if isinstance(self._wanted, EvaluateBoth):
            sent = (*sent, level.denoised(self._prediction_type, answer.unguided, self._x))
        wanted: Evaluate | None = None
        try:
            wanted = self._solver.send(sent)
            x = wanted.x
        except StopIteration as finished:
            x = finished.value
        next_level = None if wanted is None else wanted.level
        if self._keep is not None:
            x = self._keep.applied(x, next_level)
        changed = self._shown(HostUpdate(len(self.seconds) - 1, level, next_level, x, denoised))
        self._x = x if changed is None else changed
        if wanted is not None and not self.interrupted:
            self._ask(replace(wanted, x=self._x))

    def _ask(self, wanted: Evaluate) -> None:
        self._x, self._wanted = wanted.x, wanted
        if wanted.level.timestep >= self._stop_below:
            scale = wanted.level.input_scale
            self._asks(Call(self._x if scale == 1.0 else self._x * scale, wanted.level))


def denoise(run: AnyRun[Any], model: Callable[[Any, Level], Any]) -> Array:
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
