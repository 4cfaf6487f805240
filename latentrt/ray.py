"""The server on Ray Serve: ``serve run latentrt.ray:build bundles=emoji.bundle``."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from latentrt.opening import open_pipeline
from latentrt.runtime.serving.jobs.catalog import catalog_from_folders
from latentrt.runtime.serving.ray.application import application
from latentrt.runtime.serving.ray.replicas import Replicas, Routing

_TOKEN = "LATENTRT_TOKEN"


def _paths(value: Any) -> Any:
    """Paths as ``serve run`` has them: one text, with commas between several."""
    return value.split(",") if isinstance(value, str) else value


class Arguments(BaseModel):
    """What ``build`` takes: behind its name in ``serve run``, or under ``args`` in a file for ``serve deploy``.

    All paths must be good on every machine of the cluster.

    Attributes:
        bundles: of models; the first one is opened as a replica starts, and drawn with where none is named.
        loras: the folder of LoRAs, as the folders that follow have what requests may name.
        embeddings: textual inversions.
        nets: bundles of control nets and IP-Adapters.
        upscalers: bundles of upscalers.
        wildcards: wildcards' files.
        backend: whose engines run.
        memory: bytes of the engines of all models that are open in a replica; None: any.
        token: what clients must send; the variable LATENTRT_TOKEN where ``build`` runs does as well.
        replicas: how many there are; with ``max_replicas`` the fewest.
        max_replicas: how many there may be.
        cpus: of each replica.
        gpus: of each replica.
        ongoing: requests that a replica is given at once; None: twice the engines' batch.
        queued: requests that wait for a replica.
        drain: seconds in which a replica that is stopped may finish.
        routing: ``load``, or ``sessions`` for requests with X-Session-Id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], BeforeValidator(_paths), Field(min_length=1)]
    loras: Path | None = None
    embeddings: Path | None = None
    nets: Path | None = None
    upscalers: Path | None = None
    wildcards: Path | None = None
    backend: str = "auto"
    memory: Annotated[int, Field(gt=0)] | None = None
    token: Annotated[str | None, Field(min_length=1, repr=False)] = None
    replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    cpus: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0
    ongoing: Annotated[int, Field(ge=1)] | None = None
    queued: Annotated[int, Field(ge=1)] = 64
    drain: Annotated[float, Field(ge=0)] = 120.0
    routing: Routing = Routing.LOAD


def build(arguments: Arguments) -> Any:
    """The Ray Serve application of these arguments.

    Raises:
        BundleError: a bundle that cannot be read here.
        RequestError: a folder that is not there.
        EngineError: Ray is not installed.
    """
    from latentrt.runtime.serving.http.settings import Settings
    from latentrt.runtime.serving.ray.replica import ReplicaPlan

    catalog = catalog_from_folders(
        arguments.bundles,
        loras=arguments.loras,
        embeddings=arguments.embeddings,
        nets=arguments.nets,
        upscalers=arguments.upscalers,
        wildcards=arguments.wildcards,
    )
    replicas = Replicas(
        fewest=arguments.replicas,
        most=max(arguments.max_replicas or arguments.replicas, 1),
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        ongoing=arguments.ongoing,
        queued=arguments.queued,
        drain=arguments.drain,
        routing=arguments.routing,
    )
    return application(
        ReplicaPlan(
            catalog=catalog,
            opens=partial(open_pipeline, backend=arguments.backend, threads=arguments.cpus),
            replicas=replicas,
            byte_limit=arguments.memory,
            settings=Settings(token=arguments.token or os.environ.get(_TOKEN) or None),
        )
    )
