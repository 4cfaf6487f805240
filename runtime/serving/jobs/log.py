"""What the log says of jobs and of faults: never a prompt, nor a message that may quote one."""

import logging
from traceback import extract_tb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentrt.runtime.serving.jobs.job import Job

log = logging.getLogger("latentrt.serving")
"""Where a server writes; what is done with it is for the program to say."""


def log_job(job: "Job") -> None:
    """One line for a job that has ended."""
    from latentrt.engines.errors import RequestError

    cost, started, ended = job.cost, job.started, job.ended or job.created
    fields = {
        "model": job.model,
        "pictures": cost.pictures,
        "size": f"{cost.width}x{cost.height}",
        "steps": cost.steps,
        "waited": f"{(started or ended) - job.created:.3f}",
        "seconds": f"{0.0 if started is None else ended - started:.3f}",
        "state": job.state,
    }
    if job.error is not None:
        fields["error"] = type(job.error).__name__
    log.info("job %s %s", job.id, " ".join(f"{name}={value}" for name, value in fields.items()))
    if job.state == "failed" and job.error is not None and not isinstance(job.error, RequestError):
        log_fault(job.error, f"job {job.id}", quotes=job.order.prompts)


def log_fault(error: BaseException, where: str, *, quotes: "tuple[str, ...] | None" = None) -> None:
    """One entry for an error that no user can mend: its kind and the lines that it passed.

    Args:
        error: it.
        where: it came from.
        quotes: the prompts that its message might quote, in which case it is left out; None: any.
    """
    message = str(error)
    if quotes is None or any(text and text in message for text in quotes):
        message = "(its message may quote a request)"
    frames = extract_tb(error.__traceback__)
    lines = "".join(f"\n    {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    log.error("fault in %s: %s: %s%s", where, type(error).__qualname__, message, lines)
