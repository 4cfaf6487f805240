"""Servers over a pipeline that draws when the test says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stand_in_pipeline import StandInPipeline
from starlette.testclient import TestClient

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.runtime.serving.http.app import create_app
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service


@contextmanager
def servers(bundle: Path, pipeline: StandInPipeline) -> Iterator[Callable[..., TestClient]]:
    """What makes a server's client; keywords are those of its limits."""
    services: list[Service] = []

    def made(settings: Settings | None = None, **limits: Any) -> TestClient:
        catalog = Catalog(models={"tiny": bundle}, loras={"style": Path("style.safetensors")})
        services.append(Service(Models(catalog, pipeline), Limits(**limits)))
        return TestClient(create_app(services[-1], settings), raise_server_exceptions=False)

    yield made
    pipeline.let_go()
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> BundleManifest:
    """Of the model."""
    return open_bundle(tiny_bundle).manifest


@pytest.fixture
def pipeline(manifest: BundleManifest) -> StandInPipeline:
    """What draws."""
    return StandInPipeline(manifest)


@pytest.fixture
def serve(tiny_bundle: Path, pipeline: StandInPipeline) -> Iterator[Callable[..., TestClient]]:
    """Makes servers for one test."""
    with servers(tiny_bundle, pipeline) as made:
        yield made


@pytest.fixture(scope="module")
def steady(tiny_bundle: Path, manifest: BundleManifest) -> Iterator[Callable[..., TestClient]]:
    """Makes servers for all tests of a module, which leave nothing behind."""
    with servers(tiny_bundle, StandInPipeline(manifest)) as made:
        yield made


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    """Of a server with the limits that there are by themselves."""
    return serve()
