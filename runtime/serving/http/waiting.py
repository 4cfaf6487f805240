"""Waiting for jobs without blocking the loop, and ending those that nobody waits for any more."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from starlette.requests import Request

from latentrt.runtime.call.result import Result
from latentrt.runtime.serving.http.errors import Refusal, RefusedError, refusal_from
from latentrt.runtime.serving.jobs.errors import DrainingError
from latentrt.runtime.serving.jobs.job import Job, JobState

P = ParamSpec("P")
T = TypeVar("T")
_waiting: WeakKeyDictionary[Job, int] = WeakKeyDictionary()  # by job, how many requests; used by the loop alone
_outliving: WeakSet[Job] = WeakSet()


async def in_thread(request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function gives that computes for long, such as one that decodes a picture; the loop goes on meanwhile."""
    threads: Executor = request.app.state.threads
    return await asyncio.get_running_loop().run_in_executor(threads, partial(function, *args, **kwargs))


def _any_change(_: Job) -> bool:
    return True


@contextmanager
def changes_of(job: Job, counts: Callable[[Job], bool] = _any_change) -> Iterator[asyncio.Event]:
    """An event that is set at every change of a job that counts; it is cleared by who has looked.

    Waking the loop takes a moment of the cores that draw: who does not show steps leaves them out.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell(job: Job) -> None:
        if counts(job):
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

    unwatch = job.watch(tell)
    try:
        yield changed
    finally:
        unwatch()


@contextmanager
def ends_with(job: Job) -> Iterator[None]:
    """A job that is wanted as long as this lasts: who leaves it before the job has ended cancels it.

    Where several wait for one job, the last one does. One that ``outlives_its_client`` goes on.
    """
    _waiting[job] = _waiting.get(job, 0) + 1
    try:
        yield
    finally:
        _waiting[job] -= 1
        if not _waiting[job] and job not in _outliving and not job.state.final:
            job.cancel()


def outlives_its_client(job: Job) -> None:
    """Lets a job go on when nobody waits for it: its client has a key, by which it comes back for the pictures."""
    _outliving.add(job)


async def steps_of(job: Job, *, every: float | None = None) -> AsyncIterator[bool]:
    """Goes on at every change of a job, first at once, last when it has ended.

    Who is slow misses changes, and finds the job as it is.

    Args:
        job: it.
        every: seconds after which it goes on without a change as well; None: never.

    Yields:
        Whether something changed.
    """
    with changes_of(job) as changed:
        while True:
            final = job.state.final  # asked first: what changes from here on sets the event
            changed.clear()
            yield True
            if final:
                return
            while not changed.is_set():
                try:
                    async with asyncio.timeout(every):
                        await changed.wait()
                except TimeoutError:
                    yield False


@asynccontextmanager
async def disconnect_of(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends when the client goes away. The body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(gone())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))  # does not raise what it raised, and is itself cancelled where its own task is
        if not task.cancelled():
            task.exception()  # else it would be logged as never looked at


async def result_of(request: Request, job: Job) -> Result:
    """Waits for a job's pictures. A client that disconnects cancels the job at its next step, as ``ends_with`` says.

    Args:
        request: whose client waits.
        job: it.

    Raises:
        RefusedError: there are none, and why; what is raised to a client that has gone reaches nobody.
    """
    with ends_with(job):
        async with disconnect_of(request) as gone:
            ended = asyncio.create_task(_ended(job))
            try:
                await asyncio.wait((gone, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
        if not job.state.final:
            raise RefusedError(Refusal(status=410, message="the client has gone", code="disconnected"))
    request.app.state.fetched.add(job)
    return finished(job)


async def _ended(job: Job) -> None:
    with changes_of(job, lambda job: job.state.final) as ended:
        if not job.state.final:
            await ended.wait()


def finished(job: Job) -> Result:
    """The pictures of a job that has ended.

    Raises:
        RefusedError: there are none, and why.
    """
    if job.result is not None:
        return job.result
    raise RefusedError(refusal_of(job))


def refusal_of(job: Job) -> Refusal:
    """Why a job that has ended has no pictures."""
    if isinstance(job.error, DrainingError) or (job.state is JobState.FAILED and isinstance(job.error, Exception)):
        return refusal_from(job.error)
    if job.state is JobState.EXPIRED:
        return Refusal(
            status=410, code="expired", message="the deadline passed while the job waited; allow more, or ask for less"
        )
    if job.state is JobState.CANCELLED:
        return Refusal(status=410, code="cancelled", message="the job was cancelled; ask again for its pictures")
    return refusal_from(RuntimeError())
