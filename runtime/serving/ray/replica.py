"""One replica: the models, the service and the application of the single-machine server, in a process of Ray's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from latentrt.engines.errors import RequestError
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service
from latentrt.runtime.serving.jobs.warming import warm
from latentrt.runtime.serving.ray.replicas import Replicas
from latentrt.runtime.serving.ray.stateful import OneReplica

_MOST_FAULTS = 3  # in a row, after which a replica is taken to be broken


@dataclass(frozen=True, kw_only=True)
class ReplicaPlan:
    """All that a replica is made of; it can be pickled if ``opens`` can be.

    Attributes:
        catalog: models, and what requests may name; their paths are good on every machine.
        opens: opens a model's bundle.
        replicas: how many there are, and how requests reach them.
        byte_limit: of the engines of all models that are open in a replica; None: any.
        limits: what a replica takes on.
        settings: how requests are received.
    """

    catalog: Catalog
    opens: Callable[[Path], Pipeline]
    replicas: Replicas = field(default_factory=Replicas)
    byte_limit: int | None = None
    limits: Limits = field(default_factory=Limits)
    settings: Settings = field(default_factory=Settings)

    def app(self) -> FastAPI:
        """The application, once the first model is open and has drawn every size.

        Raises:
            Exception: what kept it from drawing.
        """
        service = Service(Models(self.catalog, self.opens, byte_limit=self.byte_limit), self.limits)
        app = create_app(service, self.settings)
        warm(service, self.catalog.default)  # whose faults are logged by now
        app.state.faults = Faults(service)
        if self.replicas.several:
            app.add_middleware(OneReplica, routing=self.replicas.routing)
        return app


class Faults:
    """Notices that a replica has stopped drawing, such as one whose GPU was lost: Ray puts another in its place."""

    def __init__(self, service: Service) -> None:
        """Watches the jobs of a service."""
        self._in_a_row = 0
        service.watch(self._ended)

    def check(self) -> None:
        """Says whether the replica draws.

        Raises:
            RuntimeError: the last jobs failed for reasons that no request has.
        """
        if self._in_a_row >= _MOST_FAULTS:
            raise RuntimeError(f"the last {self._in_a_row} jobs failed, and not for what they asked for")

    def _ended(self, job: Job) -> None:
        if job.state is JobState.DONE:
            self._in_a_row = 0
        elif job.state is JobState.FAILED and not isinstance(job.error, RequestError):
            self._in_a_row += 1
