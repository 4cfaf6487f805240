"""A server with a tiny model, and visits of its page in Chromium."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_visits import SOON, Gate, Server
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.benchmarks.studies.page_picture import served
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tiny model of two sizes, one picture after the other, with a gate."""
    gate = Gate()
    gate.open.set()

    def opened(path: Path) -> Pipeline:
        pipe = latentrt.open(path)
        submit = pipe.submit
        pipe.submit = lambda *args, progress, **keywords: submit(  # type: ignore[method-assign]
            *args, progress=gate.behind(progress), **keywords
        )
        return pipe

    style = save_tiny_lora(tmp_path_factory.mktemp("loras") / "style.safetensors", tiny_bundle)
    catalog = Catalog(models={"tiny": tiny_bundle, "other": tiny_bundle}, loras={"style": style})
    service = Service(Models(catalog, opened), Limits(at_once=1, pictures=4))
    try:
        with served(service, Settings()) as url:
            yield Server(url, gate, service)
    finally:
        service.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Opens the page as a window of that size. It must complain of nothing, and ask nobody but its server."""
    pages: list[Any] = []
    complaints: list[str] = []
    asked: list[str] = []

    def open_page(width: int = 1280, height: int = 800, *, url: str = server.url, **more: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        page = context.new_page()
        page.set_default_timeout(SOON)
        pages.append(page)
        # Chromium itself writes every answer that is an error to the console
        page.on("console", lambda told: complaints.append(told.text) if "status of 4" not in told.text else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.locator("#sampler option").first.wait_for(state="attached")
        page.fill("#num_inference_steps", "3")
        page.fill("#guidance_scale", "1")
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert complaints == []
    assert {
        url for url in asked if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"))
    } == set()
