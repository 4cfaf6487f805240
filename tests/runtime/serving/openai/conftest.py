"""A server over the tiny model, and OpenAI's own clients before it."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from openai import AsyncOpenAI, OpenAI
from starlette.types import ASGIApp, Receive, Scope, Send

import latentrt
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service

TOKEN = "a token of this test"


@dataclass
class Counted:
    """Counts the requests that reach an application."""

    app: ASGIApp
    paths: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http":
            self.paths.append(scope["path"])
        await self.app(scope, receive, send)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    url: str
    service: Service
    counted: Counted

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's client as it comes."""
        return OpenAI(**{"base_url": self.url, "api_key": TOKEN, **options})

    def async_client(self, **options: Any) -> AsyncOpenAI:
        """The one for asyncio."""
        return AsyncOpenAI(**{"base_url": self.url, "api_key": TOKEN, **options})

    @property
    def requests(self) -> int:
        """How many have arrived."""
        return len(self.counted.paths)


@pytest.fixture(scope="session")
def tiny_pipe(tiny_bundle: Path) -> Iterator[Pipeline]:
    """The tiny model without a server."""
    with latentrt.open(tiny_bundle) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def serving() -> Iterator[Callable[..., Served]]:
    """Starts a server over a bundle, on a free port of the loopback."""
    running: list[tuple[uvicorn.Server, Thread, Service]] = []

    def serve(bundle: Path, limits: Limits | None = None, opens: Callable[[Path], Pipeline] = latentrt.open) -> Served:
        service = Service(Models(Catalog(models={"tiny": bundle}), opens), limits)
        counted = Counted(create_app(service, Settings(token=TOKEN)))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(counted, log_config=None, lifespan="off", timeout_graceful_shutdown=5))
        thread = Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        running.append((server, thread, service))
        return Served(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", service=service, counted=counted)

    yield serve
    for server, thread, service in running:
        server.should_exit = True
        thread.join(30)
        service.close()


@pytest.fixture(scope="session")
def served(serving: Callable[..., Served], tiny_bundle: Path) -> Served:
    """A server that most tests share."""
    return serving(tiny_bundle)
