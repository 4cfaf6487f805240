"""One run of the server: what it says on the terminal, warming its models beside it, and its end."""

import logging
import socket
import sys
import warnings
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from latentrt.cli.terminal import say, tell
from latentrt.engines.errors import LatentrtError
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.server import Server
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.errors import DrainingError
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.log import log_fault
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service
from latentrt.runtime.serving.jobs.warming import sizes_of, warm

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A server of some models.

    Attributes:
        models: that it draws with; closed at its end.
        limits: what it takes on.
        settings: how requests are received.
        warmed: how many of the models are opened before it is ready; None: all.
        drain: seconds in which what runs may finish.
        logs_jobs: whether each job has a line on standard error.
    """

    models: Models
    limits: Limits
    settings: Settings
    warmed: int | None
    drain: float
    logs_jobs: bool

    def run(self, opened: socket.socket) -> None:
        """Serves at a socket that listens, until a signal ends it.

        Raises:
            LatentrtError: a model that should be warm cannot draw.
        """
        _write_log(logging.INFO if self.logs_jobs else logging.ERROR)
        service = Service(self.models, self.limits)
        app = create_app(service, self.settings)
        server = Server(app, service, drain=self.drain)
        failures: list[LatentrtError] = []
        app.state.warm = False
        Thread(target=self._warm, args=(service, app, server, failures), name="latentrt-warm", daemon=True).start()
        self._introduce(service, opened)
        try:
            with warnings.catch_warnings(action="ignore"):  # they quote prompts
                server.run(sockets=[opened])
        finally:
            service.close()
        if failures:
            raise failures[0]
        tell("all that was promised is drawn; ended")

    def _warm(self, service: Service, app: "FastAPI", server: Server, failures: list[LatentrtError]) -> None:
        for name in list(self.models.catalog.models)[: self.warmed]:
            try:
                warm(service, name)
            except DrainingError:
                return
            except LatentrtError as error:
                failures.append(error)
                server.stop()
                return
            except Exception as error:
                log_fault(error, f"warming {name}")
                failures.append(LatentrtError(f"{name} cannot draw; what is above says where it failed"))
                server.stop()
                return
        app.state.warm = True
        if self.warmed != 0:
            tell("ready")

    def _introduce(self, service: Service, opened: socket.socket) -> None:
        host, port = opened.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = [f"{name} ({_sizes(service, name)})" for name in self.models.catalog.models]
        say(f"latentrt serves {', '.join(names)}")
        say(f"  page   {address}/")
        say(f"  APIs   {address}/v1/jobs, /v1/images/generations, /sdapi/v1/txt2img; all: /openapi.json")
        needed = "none" if self.settings.token is None else "as Authorization: Bearer, or as Basic's password"
        say(f"  token  {needed}")
        say(f"  end    Ctrl+C: what is drawn is finished first, within {self.drain:g} s")


def _sizes(service: Service, name: str) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sizes_of(service, name)) or "none of the sizes allowed"


def _write_log(level: int) -> None:
    """The lines of jobs and faults go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name, least in (("latentrt.serving", level), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
