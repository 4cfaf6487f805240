"""The service: takes orders on, draws them oldest first, and tells what became of them."""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Condition, Timer
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import LatentrtError
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.checking import check_order
from latentrt.runtime.serving.jobs.errors import DrainingError, QueueFullError
from latentrt.runtime.serving.jobs.job import Job, JobState, Listener, tell
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models, NoRoomError
from latentrt.runtime.serving.jobs.named_files import keywords_with_files, loras_of
from latentrt.runtime.serving.jobs.order import Order, cost_of

if TYPE_CHECKING:
    from latentrt.runtime.serving.lanes.future import PictureFuture

_FULL = 2  # times that the engines' batch is drawn at once: one half computes while the other is between two steps
_STARTING = 4  # orders whose LoRAs are loaded and whose keywords are checked at once
_CLOCK = 0.01  # seconds by which a timer may come too early
_RECENT = 0.2  # weight of the last order in what one is reckoned to take


class Service:
    """Orders in, jobs out. Thread-safe; no thread waits where nothing is to do.

    Attributes:
        models: that it draws with.
        limits: what it takes on.
    """

    def __init__(self, models: Models, limits: Limits | None = None) -> None:
        """Draws with these models within these limits."""
        self.models, self.limits = models, limits or Limits()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: list[Job] = []
        self._running: dict[Job, int] = {}  # and how many were drawn as each began
        self._changed = Condition()
        self._draining = False
        self._seconds_per_cost: float | None = None
        self._starting = ThreadPoolExecutor(_STARTING, "latentrt-start")
        self._listeners: list[Listener] = []
        models.on_change = self._advance

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All that are remembered, the oldest first."""
        with self._changed:
            self._forget_old()
            return tuple(self._jobs.values())

    @property
    def draining(self) -> bool:
        """Whether it takes nothing on any more."""
        return self._draining

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return len(self._queue)

    @property
    def running(self) -> int:
        """How many jobs are drawn."""
        with self._changed:
            return len(self._running)

    @property
    def seconds_waiting(self) -> float:
        """Seconds until all that was taken on is drawn, as far as is known: by what the last orders took."""
        with self._changed:
            return self._seconds_waiting()

    def job(self, job_id: str) -> Job | None:
        """A job by its id; None for one that is unknown or forgotten."""
        with self._changed:
            self._forget_old()
            return self._jobs.get(job_id)

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Calls a function with every job as it ends, from whichever thread ended it; what comes back ends that."""
        with self._changed:
            self._listeners = [*self._listeners, listener]

        def unwatch() -> None:
            with self._changed:
                self._listeners = [one for one in self._listeners if one is not listener]

        return unwatch

    def position(self, job: Job) -> int | None:
        """How many jobs will be drawn before one that waits; None of one that does not."""
        with self._changed:
            return self._queue.index(job) if job in self._queue else None

    def submit(self, order: Order, *, deadline: float | None = None) -> Job:
        """Takes an order on.

        Args:
            order: it.
            deadline: seconds since the epoch after which it is not wanted if it still waits; None: whenever.

        Raises:
            UnknownNameError: a model, LoRA, net or upscaler that there is not.
            CostError: more than is drawn at once.
            RequestError: what no model of its kind can draw.
            QueueFullError: too many wait.
            DrainingError: the service ends.
        """
        model = self.models.catalog.model(order.model)
        keywords_with_files(order, self.models.catalog)  # whose names must be known
        for name in loras_of(order):
            self.models.catalog.path("LoRA", self.models.catalog.loras, name)
        manifest = self.models.bundle(model).manifest
        cost = cost_of(order, manifest)
        self.limits.check(order, cost)
        check_order(order, manifest)
        job = Job(order, model, cost, deadline=deadline, withdraw=self._withdraw)
        with self._changed:
            if self._draining:
                raise DrainingError("the server is shutting down and takes no more orders; ask again in a minute")
            if self._is_full(job):
                raise QueueFullError(
                    f"{len(self._queue)} orders wait, which is as many as may; ask again later",
                    max(self._seconds_waiting(), 1.0),
                )
            job.watch(self._tell)  # before others can start it, or end it
            if deadline is not None:
                self._expires(job, deadline)
            self._jobs[job.id] = job
            self._queue.append(job)
            self._forget_old()
        self._advance()
        return job

    def _is_full(self, job: Job) -> bool:
        """Whether there is no room for a job in the queue; the lock is held."""
        limits, queue = self.limits, self._queue
        cost = sum(one.cost.total for one in (*queue, job))
        pictures = sum(one.order.picture_bytes for one in (*queue, job)) if job.order.pictures else 0
        return (
            len(queue) >= limits.queued
            or (limits.queued_cost is not None and cost > limits.queued_cost and bool(queue))
            or (pictures > limits.queued_picture_bytes and bool(queue))
        )

    def _expires(self, job: Job, deadline: float) -> None:
        """Has the queue looked at when a deadline has passed: nothing else may happen by then."""
        expiry = Timer(max(deadline - time.time(), 0.0) + _CLOCK, self._advance)
        expiry.daemon = True
        expiry.start()
        job.watch(lambda job: expiry.cancel() if job.state is not JobState.QUEUED else None)

    def _tell(self, job: Job) -> None:
        if job.state.final:
            for listener in self._listeners:
                tell(listener, job)

    def forget(self, job: Job) -> None:
        """Forgets a job that has ended; one that has not is cancelled, and remembered."""
        if not job.state.final:
            job.cancel()
            return
        with self._changed:
            self._jobs.pop(job.id, None)

    def drain(self, seconds: float) -> bool:
        """Takes nothing on, ends what waits, and lets what runs finish within so many seconds.

        Returns:
            Whether all that ran has finished; what has not is cancelled.
        """
        with self._changed:
            self._draining, waiting = True, tuple(self._queue)
            self._queue.clear()
        for job in waiting:
            job.ends(JobState.CANCELLED, error=DrainingError("the server is shutting down; ask again in a minute"))
        with self._changed:
            finished = self._changed.wait_for(lambda: not self._running, seconds)
            running = tuple(self._running)
        for job in running:
            job.cancel()
        return finished

    def close(self) -> None:
        """Ends all jobs and closes the models."""
        self.drain(0.0)
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        self._starting.shutdown()
        self.models.close()

    def _seconds_waiting(self) -> float:
        """The lock is held."""
        if self._seconds_per_cost is None:
            return 1.0
        return sum(job.cost.total for job in (*self._queue, *self._running)) * self._seconds_per_cost

    def _withdraw(self, job: Job) -> None:
        with self._changed:
            if job not in self._queue:
                return
            self._queue.remove(job)
        job.ends(JobState.CANCELLED)

    def _forget_old(self) -> None:
        """Forgets those that ended long ago, or are too many; the lock is held."""
        limits, now = self.limits, time.time()
        ended = [job for job in self._jobs.values() if job.state.final]
        kept_bytes = 0
        for count, job in enumerate(reversed(ended)):
            kept_bytes += _bytes_of(job)
            old = job.ended is not None and now - job.ended > limits.kept_seconds
            if old or count >= limits.kept or kept_bytes > limits.kept_bytes:
                del self._jobs[job.id]

    def _advance(self) -> None:
        """Starts what can be started, oldest first; called whenever something changed."""
        expired: list[Job] = []
        failed: list[tuple[Job, Exception]] = []
        with self._changed:
            now = time.time()
            for job in tuple(self._queue):
                if job.deadline is not None and now > job.deadline:
                    self._queue.remove(job)
                    expired.append(job)
            opens = True
            for job in tuple(self._queue):
                if len(self._running) >= self._at_once(job):
                    break
                try:
                    pipeline = self.models.acquire(job.model)
                except Exception as error:  # whatever opening led to is the job's
                    self._queue.remove(job)
                    failed.append((job, error))
                    continue
                if pipeline is None:
                    try:
                        if opens:
                            self.models.open(job.model)
                    except NoRoomError:
                        break  # younger jobs would keep the room taken
                    opens = not self.models.limited  # else a younger job's might put this one out again
                    continue
                self._queue.remove(job)
                self._running[job] = len(self._running) + 1
                self._starting.submit(self._start, job, pipeline)
        for job in expired:
            job.ends(JobState.EXPIRED)
        for job, failure in failed:
            job.ends(JobState.FAILED, error=failure)

    def _at_once(self, job: Job) -> int:
        if self.limits.at_once is not None:
            return self.limits.at_once
        return _FULL * max(profile.batch for profile in self.models.bundle(job.model).manifest.profiles)

    def _start(self, job: Job, pipeline: Pipeline) -> None:
        job.starts()
        try:
            self._load_loras(job.order, pipeline)
            keywords = keywords_with_files(job.order, self.models.catalog)
            future = pipeline.submit(job.order.prompt, progress=job.stepped, **keywords)
        except Exception as error:  # a request that cannot be served, or a fault of ours: the job's either way
            self._ended(job, JobState.FAILED, error=error)
            return
        job.follows(future)
        future.add_done_callback(partial(self._drawn, job))

    def _drawn(self, job: Job, future: "PictureFuture") -> None:
        if future.cancelled():
            self._ended(job, JobState.CANCELLED)
            return
        failure = future.exception()
        if failure is None:
            self._ended(job, JobState.DONE, result=future.result())
        else:
            self._ended(job, JobState.FAILED, error=failure)

    def _ended(self, job: Job, state: JobState, **outcome: Any) -> None:
        self.models.release(job.model)
        with self._changed:
            together = max(len(self._running), self._running.pop(job, 1))
            if state is JobState.DONE and job.started is not None:
                seconds = (time.time() - job.started) / together / max(job.cost.total, 1e-9)
                before = self._seconds_per_cost
                self._seconds_per_cost = seconds if before is None else before + _RECENT * (seconds - before)
            self._changed.notify_all()
        job.ends(state, **outcome)
        self._advance()

    def _load_loras(self, order: Order, pipeline: Pipeline) -> None:
        """Loads the LoRAs that an order names, where they are not there yet."""
        catalog = self.models.catalog
        for name in loras_of(order):
            if all(name != lora.name for lora in pipeline.loras):
                try:
                    pipeline.load_lora(catalog.path("LoRA", catalog.loras, name), name)
                except LatentrtError:
                    if all(name != lora.name for lora in pipeline.loras):  # nobody else loaded it meanwhile
                        raise


def _bytes_of(job: Job) -> int:
    """Of its pictures and their latents."""
    if job.result is None:
        return 0
    pictures = sum(3 * image.width * image.height for image in job.result.images if not hasattr(image, "dtype"))
    return pictures + int(job.result.latents.nbytes)
