"""A server over the tiny model, and the clients of A1111's API before it, as they come."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
from sd_backend_client.api.a1111_webservice import A1111Webservice
from webuiapi import WebUIApi

import latentrt
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.shapes import profile_from_text
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service

SOON = 60.0  # seconds that nothing here takes
SIZES = ("32x32x2", "48x32", "64x64")


def built_for_sizes(bundle: Bundle) -> None:
    """Makes a bundle as if it was built for other sizes, too: engines for the CPU take every one."""
    sizes = tuple(map(profile_from_text, SIZES))
    object.__setattr__(bundle, "manifest", bundle.manifest.model_copy(update={"profiles": sizes}))


def opened(path: Path) -> Pipeline:
    """The model without a server."""
    pipe = latentrt.open(path, threads=1)
    built_for_sizes(pipe._bundle)
    return pipe


@dataclass
class Held:
    """Holds runs in their second model call, until they are let go."""

    on: bool = False
    reached: Event = field(default_factory=Event)
    go: Event = field(default_factory=Event)

    def __call__(self, path: Path) -> Pipeline:
        """Opens a bundle."""
        pipe = opened(path)
        submit = pipe.submit

        def held(prompt: Any = None, **keywords: Any) -> Any:
            if self.on:
                keywords["callback_on_step_end"] = self._hold
            return submit(prompt, **keywords)

        pipe.submit = held  # type: ignore[method-assign]
        return pipe

    def _hold(self, pipe: Any, index: int, timestep: float, tensors: Any) -> Any:
        if index == 1:  # the first one was told
            self.reached.set()
            assert self.go.wait(SOON)
        return tensors


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    port: int
    held: Held
    service: Service

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def webui(self) -> WebUIApi:
        """webuiapi, unmodified."""
        return WebUIApi(port=self.port, sampler="Euler", steps=2)

    @property
    def backend(self) -> A1111Webservice:
        """sd-backend-client, unmodified."""
        return A1111Webservice(self.url)


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers on free ports of the loopback."""
    running: list[tuple[uvicorn.Server, Thread, Service]] = []

    def start(catalog: Catalog, **settings: Any) -> Served:
        held = Held()
        models = Models(catalog, held)
        for name in catalog.models:
            built_for_sizes(models.bundle(name))
        service = Service(models)
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(service, Settings(**settings)), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread, service))
        return Served(port=listening.getsockname()[1], held=held, service=service)

    yield start
    for server, thread, service in running:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture(scope="session")
def catalog(tiny_bundle: Path) -> Catalog:
    """The tiny model, under two names."""
    return Catalog(models={"tiny": tiny_bundle, "twin": tiny_bundle})


@pytest.fixture(scope="session")
def served(serve: Callable[..., Served], catalog: Catalog) -> Served:
    """A server that anybody may ask."""
    return serve(catalog)


@pytest.fixture(scope="session")
def sized_pipe(tiny_bundle: Path) -> Iterator[Pipeline]:
    """The same model without a server."""
    with opened(tiny_bundle) as pipe:
        yield pipe


@pytest.fixture
def held(served: Served) -> Iterator[Held]:
    """Runs are held in their second model call."""
    held = served.held
    held.on = True
    yield held
    held.go.set()
    held.on = False
    held.reached.clear()
    held.go.clear()
