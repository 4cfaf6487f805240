"""What A1111's API keeps between requests: its settings, and the jobs that are under way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from latentrt.runtime.serving.http.a1111.settings import A1111Settings
from latentrt.runtime.serving.http.pictures import text_from_picture
from latentrt.runtime.serving.jobs.job import Job, JobState

_TIMESTAMP = "%Y%m%d%H%M%S"


class Current:
    """The state of this API; used by the loop alone.

    Its clients know one job, the one that is drawn: of those that were asked for through this API it is the oldest.
    """

    def __init__(self, settings: A1111Settings) -> None:
        """Begins with these settings and no job."""
        self.settings = settings
        self._names: dict[Job, str] = {}  # under way, the oldest first
        self._interrupted: set[Job] = set()
        self._skipped: set[Job] = set()

    @contextmanager
    def follows(self, job: Job, name: str) -> Iterator[None]:
        """Counts a job among those that are under way.

        Args:
            job: it.
            name: what the client calls it.
        """
        self._names[job] = name
        try:
            yield
        finally:
            for known in (self._interrupted, self._skipped):
                known.discard(job)
            self._names.pop(job, None)  # a repeated request waits for the same job

    @property
    def job(self) -> Job | None:
        """The oldest job that is drawn, or else that waits; None: there is none."""
        running = (job for job in self._names if job.state is JobState.RUNNING)
        waiting = (job for job in self._names if job.state is JobState.QUEUED)
        return next(running, None) or next(waiting, None)

    def was_ended(self, job: Job) -> bool:
        """Whether a client interrupted or skipped it."""
        return job in self._interrupted or job in self._skipped

    def interrupt(self) -> None:
        """Ends the job with what there is."""
        self._end(self._interrupted)

    def skip(self) -> None:
        """The same: a job is all the pictures of a request."""
        self._end(self._skipped)

    def progress(self) -> dict[str, Any]:
        """How far the job is, without a picture of it; zeros without a job."""
        job = self.job
        step, steps = (0, 0) if job is None else (job.step, job.steps)
        done = step / steps if steps else 0.0
        return {
            "progress": done,
            "eta_relative": 0.0 if job is None else _seconds_left(job, done),
            "state": {
                "skipped": job in self._skipped,
                "interrupted": job in self._interrupted,
                "stopping_generation": False,
                "job": "" if job is None else self._names[job],
                "job_count": len(self._names),
                "job_timestamp": timestamp(time.time() if job is None else job.created),
                "job_no": 0,
                "sampling_step": step,
                "sampling_steps": steps,
            },
            "current_image": None,
            "textinfo": None if job is None or job.state is JobState.RUNNING else "Waiting",
        }

    def picture(self) -> str | None:
        """The job's first picture as it is now, one pixel per latent, a PNG in base64; None before the first step."""
        previews = [] if self.job is None else self.job.preview()
        return text_from_picture(previews[0]) if previews else None

    def _end(self, ended: set[Job]) -> None:
        job = self.job
        if job is not None:
            ended.add(job)
            job.interrupt()


def current(request: Request) -> Current:
    """The state of the application that a request is sent to."""
    state = request.app.state
    if not hasattr(state, "a1111"):
        state.a1111 = Current(A1111Settings(model=state.service.models.catalog.default))
    found: Current = state.a1111
    return found


def timestamp(seconds: float) -> str:
    """A time as A1111 writes it: ``20260131235959``."""
    return time.strftime(_TIMESTAMP, time.localtime(seconds))


def _seconds_left(job: Job, done: float) -> float:
    """Seconds until a job ends, by what it has taken; 0 before its first step."""
    if job.started is None or not done:
        return 0.0
    taken = time.time() - job.started
    return max(taken / done - taken, 0.0)
