"""The ASGI application: the routes of every API, behind the guards."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from time import perf_counter
from weakref import WeakSet

from fastapi import FastAPI

from latentrt.runtime.serving.http import health, options
from latentrt.runtime.serving.http import metrics as measured
from latentrt.runtime.serving.http.a1111 import routes as a1111
from latentrt.runtime.serving.http.errors import RESPONSES, add_error_answers
from latentrt.runtime.serving.http.guard.access import Access, SafeHeaders
from latentrt.runtime.serving.http.guard.body import BodyLimit
from latentrt.runtime.serving.http.guard.faults import Faults
from latentrt.runtime.serving.http.jobs import routes as job_routes
from latentrt.runtime.serving.http.metrics import CountedRequests, Metrics
from latentrt.runtime.serving.http.openai import routes as openai
from latentrt.runtime.serving.http.page import routes as page
from latentrt.runtime.serving.http.settings import Settings
from latentrt.runtime.serving.http.taking import Keys
from latentrt.runtime.serving.jobs.log import log_job
from latentrt.runtime.serving.jobs.service import Service

_ROUTERS = (
    health.router,
    measured.router,
    options.router,
    job_routes.router,
    a1111.router,
    openai.router,
    page.router,
)
_THREADS = 4  # that decode and encode pictures
_ABOUT = "Draws pictures with Stable Diffusion models: jobs of its own, A1111's API and OpenAI's."


def create_app(service: Service, settings: Settings | None = None) -> FastAPI:
    """The server's application. It closes nothing: the service is the caller's.

    Args:
        service: draws. Routes find it as ``request.app.state.service``.
        settings: how requests are received; ``request.app.state.settings``.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="latentrt",
        summary=_ABOUT,
        version=version("latentrt"),
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        responses=RESPONSES,
    )
    app.state.service, app.state.settings, app.state.keys = service, settings, Keys()
    metrics = app.state.metrics = Metrics(service)
    app.state.threads = ThreadPoolExecutor(_THREADS, "latentrt-pictures")
    app.state.fetched = WeakSet()  # jobs whose pictures somebody has had
    service.watch(log_job)
    service.watch(metrics.count_job)
    add_error_answers(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(Faults)
    app.add_middleware(CountedRequests, metrics=metrics, clock=perf_counter)
    app.add_middleware(SafeHeaders)  # the last one is the first that a request passes
    _prepare_routes(app)
    return app


def _prepare_routes(app: FastAPI) -> None:
    """Has FastAPI make the models of all routes, which it else does as the first request comes and waits."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": [], "app": app})
