"""A job: an order that was taken on, from the queue to its pictures."""

import time
from collections.abc import Callable
from enum import StrEnum
from threading import Condition
from typing import TYPE_CHECKING
from uuid import uuid4

from latentrt.runtime.serving.jobs.log import log_fault
from latentrt.runtime.serving.jobs.order import Cost, Order

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.runtime.call.result import Result
    from latentrt.runtime.serving.lanes.future import PictureFuture


class JobState(StrEnum):
    """Where a job is. From ``DONE`` on it changes no more."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


Listener = Callable[["Job"], None]


class Job:
    """Thread-safe. Times are seconds since the epoch, None before they came.

    Attributes:
        id: of this job alone, and not to be guessed.
        order: what is drawn; without its pictures once the job has ended.
        model: with which model.
        cost: what it asks of the machine.
        created: when it was taken on.
        started: when it left the queue.
        ended: when it ended.
        deadline: when it is no longer wanted if it still waits; None: never.
        step: model calls done.
        steps: of how many; 0 before it is known.
        result: the pictures, once it is done.
        error: why there are none, once it has failed.
    """

    def __init__(
        self, order: Order, model: str, cost: Cost, *, deadline: float | None, withdraw: Callable[["Job"], None]
    ) -> None:
        """A job that waits.

        Args:
            order: what to draw.
            model: with which model.
            cost: what it asks of the machine.
            deadline: when it is no longer wanted if it still waits.
            withdraw: takes it out of the queue.
        """
        self.id = uuid4().hex
        self.order, self.model, self.cost, self.deadline = order, model, cost, deadline
        self.created, self.started, self.ended = time.time(), None, None  # type: float, float | None, float | None
        self.step = self.steps = 0
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._state, self._cancelled = JobState.QUEUED, False
        self._withdraw = withdraw
        self._future: PictureFuture | None = None
        self._ending: Callable[[PictureFuture], bool] | None = None  # what was asked before it ran
        self._changed = Condition()
        self._listeners: list[Listener] = []

    @property
    def state(self) -> JobState:
        """Where it is."""
        return self._state

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, though it may still run to its next step."""
        return self._cancelled

    def preview(self) -> "list[Image]":
        """Small pictures of the last step, one pixel per latent; none before the first."""
        future = self._future
        return [] if future is None else future.preview()

    def wait(self, timeout: float | None = None) -> JobState:
        """Waits until it has ended, or so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._state.final, timeout)
        return self._state

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Calls a function at every change, from whichever thread made it; what comes back ends that."""
        with self._changed:
            self._listeners.append(listener)

        def unwatch() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unwatch

    def cancel(self) -> None:
        """Ends it without pictures: at once where it waits, at the next step where it runs."""
        self._cancelled = True
        self._end(lambda future: future.cancel())

    def interrupt(self) -> None:
        """Ends it at the next step with what there is; without pictures where it waits, or was cancelled."""
        if not self._cancelled:
            self._end(lambda future: future.interrupt())

    def _end(self, ending: "Callable[[PictureFuture], bool]") -> None:
        self._withdraw(self)
        with self._changed:
            future, self._ending = self._future, ending
        if future is not None:
            ending(future)

    def starts(self) -> None:
        """It leaves the queue."""
        self.started = time.time()
        self._become(JobState.RUNNING)

    def follows(self, future: "PictureFuture") -> None:
        """It is drawn by a pipeline."""
        with self._changed:
            self._future, ending = future, self._ending
        if ending is not None:
            ending(future)

    def stepped(self, step: int, steps: int) -> None:
        """A model call was done."""
        self.step, self.steps = step, steps
        self._become(JobState.RUNNING)

    def ends(self, state: JobState, *, result: "Result | None" = None, error: BaseException | None = None) -> None:
        """It is over; its order's pictures are let go, and what an error's frames held."""
        with self._changed:
            if self._state.final:
                return
            self.result, self.error, self.ended = result, error, time.time()
            self.order = self.order.without_pictures()
        self._become(state)
        if error is not None:
            _let_go(error)  # last: those who listen may write down where it came from

    def _become(self, state: JobState) -> None:
        with self._changed:
            if self._state.final:
                return
            self._state = state
            self._changed.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:
            tell(listener, self)


def tell(listener: Listener, job: Job) -> None:
    """Calls a listener. What it raises is logged: neither the job nor the others who listen have done it."""
    try:
        listener(job)
    except Exception as error:
        log_fault(error, f"a listener of job {job.id}")


def _let_go(error: BaseException | None) -> None:
    """Drops the frames that an error passed, and those behind it: their locals are pictures and latents."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
