"""The server process: it listens, and on a signal finishes what it has promised."""

import logging
import os
import socket
import time
from threading import Thread
from types import FrameType

import uvicorn
from fastapi import FastAPI

from latentrt.runtime.serving.jobs.log import log
from latentrt.runtime.serving.jobs.service import Service

_ARRIVING = 0.5  # seconds in which requests that were on their way as it began to drain are told that it does
_DELIVERY = 5.0  # seconds within which answers that are ready must be taken
_CONNECTIONS = 2000  # at once; more are answered with 503 before anything of them is read
_AT_ONCE = 1  # exit status of a server that was told twice to end


class Server(uvicorn.Server):
    """Serves one application.

    The first SIGTERM or SIGINT drains: new orders and those that wait are answered with 503, what runs is finished
    within a time, and the process ends with status 0. A second signal ends it at once.
    """

    def __init__(self, app: FastAPI, service: Service, *, drain: float) -> None:
        """Serves the application.

        Args:
            app: ``create_app``'s.
            service: its.
            drain: seconds in which what runs may finish.
        """
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,  # its lines have the query; jobs have lines of their own
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=round(_DELIVERY),
        )
        super().__init__(config)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._service, self._drain_seconds, self._app = service, drain, app
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with a signal, by the loop's thread."""
        if self._told:
            os._exit(_AT_ONCE)
        self._told = True
        Thread(target=self._drain, name="latentrt-drain", daemon=True).start()

    def stop(self) -> None:
        """Ends it without a signal."""
        self.should_exit = True

    def _drain(self) -> None:
        """Requests are answered all the while: those who were promised pictures come for them."""
        service, begin = self._service, time.monotonic()
        log.info("draining: %d jobs are finished, %d that wait are refused", service.running, service.queued)
        promised = [job for job in service.jobs if not job.state.final]
        if not service.drain(self._drain_seconds):
            log.warning("not all was finished within %g seconds; the rest is cancelled", self._drain_seconds)
        time.sleep(min(_ARRIVING, self._drain_seconds))
        until = min(time.monotonic() + _DELIVERY, begin + self._drain_seconds)
        fetched = self._app.state.fetched
        while time.monotonic() < until and any(job.result is not None and job not in fetched for job in promised):
            time.sleep(0.05)
        self.should_exit = True


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio lets TCP wait for acknowledgements, 40 ms, but where the protocol is named
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # a server that was just ended leaves connections behind
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(2048)
    except OSError:
        opened.close()
        raise
    return opened
