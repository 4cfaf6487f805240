"""The server as a Ray Serve application: replicas of the ASGI application that one machine runs."""

from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import EngineError
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.ray.replicas import Routing

if TYPE_CHECKING:
    from latentrt.runtime.serving.ray.replica import ReplicaPlan

_TWICE = 2  # times that the engines' batch is given to a replica: one half computes while the other is between steps
_WATCHERS = 32  # requests of a single replica that only follow jobs
_RETRY_AFTER = 5.0  # seconds, as nobody knows how long what waits will take
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_NAME = "latentrt"


def application(plan: "ReplicaPlan") -> Any:
    """The application for ``serve.run``.

    A replica opens the first model and draws every size before it is sent requests; other models are opened as they
    are asked for, and closed by least use. A client that disconnects cancels its job at the next step.

    Args:
        plan: what replicas are made of.

    Raises:
        BundleError: a bundle that cannot be read here.
        EngineError: Ray is not installed, or is too old for sessions.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise EngineError("serving with Ray needs the package ray; install latentrt[ray]") from error
    replicas, batch = plan.replicas, _largest_batch(plan.catalog)
    ongoing = replicas.ongoing or _TWICE * batch + (0 if replicas.several else _WATCHERS)

    def build_app() -> Any:  # in each replica: a service has threads and engines, which are not sent
        return plan.app()

    class Replica:
        async def check_health(self) -> None:
            self.app.state.faults.check()  # type: ignore[attr-defined]  # Ray Serve adds it

    deployment: Any = serve.deployment(
        name=_NAME,
        max_ongoing_requests=ongoing,
        max_queued_requests=replicas.queued,
        graceful_shutdown_timeout_s=replicas.drain,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        **_counts(plan, batch),
        **_router(replicas.routing),
        **_backpressure(),
    )
    return deployment(serve.ingress(build_app)(Replica)).bind()


def _counts(plan: "ReplicaPlan", batch: int) -> dict[str, Any]:
    """How many replicas there are: as many as keep one batch of requests busy each."""
    replicas = plan.replicas
    if replicas.fewest == replicas.most:
        return {"num_replicas": replicas.most}
    scaling = {
        "min_replicas": replicas.fewest,
        "max_replicas": replicas.most,
        "target_ongoing_requests": batch,
    }
    return {"autoscaling_config": scaling}


def _router(routing: Routing) -> dict[str, Any]:
    if routing is Routing.LOAD:
        return {}
    from importlib.util import find_spec

    from ray.serve.config import RequestRouterConfig

    if find_spec(_ROUTER.rpartition(".")[0]) is None:
        raise EngineError("routing by sessions needs Ray 2.60 or newer; update ray, or leave routing out")
    strict = {"num_fallback_replicas": 0}
    return {"request_router_config": RequestRouterConfig(request_router_class=_ROUTER, request_router_kwargs=strict)}


def _backpressure() -> dict[str, Any]:
    """429 for what does not fit; without, Ray answers 503, which clients take for a server that is down."""
    from ray.serve import config

    kind = getattr(config, "BackpressureConfig", None)  # Ray 2.60 has it
    return {} if kind is None else {"backpressure_config": kind(status_code=429, retry_after_s=_RETRY_AFTER)}


def _largest_batch(catalog: Catalog) -> int:
    """Pictures that the first model's engines take at once."""
    return max(profile.batch for profile in open_bundle(catalog.models[catalog.default]).manifest.profiles)
