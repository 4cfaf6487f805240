"""What Prometheus reads."""

from collections.abc import Callable, Iterable

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.runtime.call.result import Result
from latentrt.runtime.serving.jobs.job import Job, JobState
from latentrt.runtime.serving.jobs.service import Service

router = APIRouter(tags=["health"])
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CALLS = (1, 2, 3, 4, 6, 8, 12, 16, 32)  # for which a run is made
_STAGES = ("encode_prompt", "encode_image", "denoise", "enlarge", "decode")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        """Counts what a service draws."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, time on the CPU, open files
        registry.register(_ServiceCollector(service))
        self.requests = Counter(
            "latentrt_http_requests", "Requests answered.", ("method", "route", "code"), registry=registry
        )
        self.request_seconds = Histogram(
            "latentrt_http_request_seconds",
            "Until the answer was sent.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "latentrt_orders_refused", "Orders that were not taken on.", ("reason",), registry=registry
        )
        self.jobs = Counter("latentrt_jobs", "Jobs that ended.", ("model", "state"), registry=registry)
        self.pictures = Counter("latentrt_pictures", "Pictures drawn.", ("model",), registry=registry)
        self.waited = Histogram("latentrt_queue_wait_seconds", "What jobs waited.", buckets=_SECONDS, registry=registry)
        self.steps = Histogram(
            "latentrt_step_seconds",
            "A model call with all of its passes, by the job's size and pictures.",
            ("model", "size", "pictures"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "latentrt_stage_seconds", "The stages of a job.", ("model", "stage"), buckets=_SECONDS, registry=registry
        )

    def count_job(self, job: Job) -> None:
        """Counts a job that has ended."""
        self.jobs.labels(job.model, job.state).inc()
        if job.started is not None:
            self.waited.observe(job.started - job.created)
        if job.state is JobState.DONE and job.result is not None:
            self._count_result(job, job.result)

    def _count_result(self, job: Job, result: Result) -> None:
        self.pictures.labels(job.model).inc(len(result.images))
        steps = self.steps.labels(job.model, f"{job.cost.width}x{job.cost.height}", str(job.cost.pictures))
        for seconds in result.timings.calls:
            steps.observe(seconds)
        for stage in _STAGES:
            self.stages.labels(job.model, stage).observe(getattr(result.timings, stage))


class _ServiceCollector(Collector):
    """What a service is at, asked for when somebody looks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        service = self._service
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "latentrt_queue_depth": ("Jobs that wait.", lambda: service.queued),
            "latentrt_jobs_running": ("Jobs that are drawn.", lambda: service.running),
            "latentrt_queue_seconds": (
                "Seconds until all that was taken on is drawn, as far as is known.",
                lambda: service.seconds_waiting,
            ),
            "latentrt_models_open": ("Models that are open.", lambda: len(service.models.opened)),
            "latentrt_models_bytes": ("Of the engines of models that are open.", lambda: service.models.bytes),
            "latentrt_draining": ("1 while the server ends.", lambda: float(service.draining)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value())
        shared = HistogramMetricFamily(
            "latentrt_calls_per_run", "For how many calls a run of an engine was made.", labels=("model",)
        )
        for model, pipeline in service.models.pipelines.items():
            runs = pipeline.shared_runs
            buckets = [(str(most), sum(n for calls, n in runs.items() if calls <= most)) for most in _CALLS]
            total = sum(calls * n for calls, n in runs.items())
            shared.add_metric((model,), [*buckets, ("+Inf", sum(runs.values()))], sum_value=total)
        yield shared


class CountedRequests:
    """Counts requests by method, the route's template, and the answer's code."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float]) -> None:
        """Takes the application whose answers are counted."""
        self._app, self._metrics, self._clock = app, metrics, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code, begin = 499, self._clock()  # 499: the client went before there was an answer

        async def watched(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, str(code)).inc()
            self._metrics.request_seconds.labels(route).observe(self._clock() - begin)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(request: Request) -> Response:
    """Requests, jobs, the queue, steps, stages, models and the process."""
    return Response(generate_latest(request.app.state.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
