"""Opens bundles on the best backend that this machine and the bundle have."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.bundle import BundleSort, open_bundle, sort_of
from latentrt.engines.choices import choice
from latentrt.engines.errors import BundleError
from latentrt.engines.shapes import Loop
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import CHANGED_MODELS, OpenComponents
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.lanes.batching import Batching

if TYPE_CHECKING:
    from latentrt.runtime.addons.addon import Addon
    from latentrt.runtime.upscaling.upscaler import Upscaler


def open(
    path: str | Path,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    lora_cache: int = CHANGED_MODELS,
    batching: str | Batching = Batching.SHARED,
    loop: str | Loop = Loop.HOST,
) -> Pipeline | Any:
    """Opens a bundle: that of a model as a ``Pipeline``, that of an upscaler as an ``Upscaler``.

    To type checkers the result is a pipeline of which they believe all else, too; ``open_upscaler`` has the other type.

    Args:
        path: the bundle's folder; a relative one stays good when the working directory changes.
        backend: its name, or ``"auto"``: what a build for speed kept for this machine, or else the first of tensorrt,
            tensorrt-rtx, ort-cuda, ort-cpu, openvino, openvino-gpu and openvino-npu whose engines the bundle has and
            this machine can run.
            ``backend`` of what is opened says which it is.
        threads: threads of a call on the CPU; None takes one per core.
        lora_cache: of a model: how many sets of LoRAs stay ready after they were drawn with; ``Pipeline.lora_cache``
            tells their memory.
        batching: of a model: "shared" runs together what calls in several threads ask of its engines at the same time;
            "alone" runs each by itself.
        loop: of a model: where the latents are between two model calls, "host" or "device": there an engine makes whole
            steps, where a call's sampler and guidance allow it.

    Raises:
        BundleError: no bundle, an add-on's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend, batching or loop, fewer than 1 thread, or a cache of fewer than 0 sets.
    """
    try:
        return open_pipeline(
            path, backend=backend, threads=threads, lora_cache=lora_cache, batching=batching, loop=loop
        )
    except BundleError:  # only then, so that a model opens as fast as ever
        if sort_of(path) is not BundleSort.UPSCALER:
            raise
    return open_upscaler(path, backend=backend, threads=threads)


def open_pipeline(
    path: str | Path,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    lora_cache: int = CHANGED_MODELS,
    batching: str | Batching = Batching.SHARED,
    loop: str | Loop = Loop.HOST,
) -> Pipeline:
    """Opens a model's bundle; ``open`` takes those of upscalers, too.

    Args:
        path: the bundle's folder; a relative one stays good when the working directory changes.
        backend: its name, or ``"auto"``: what a build for speed kept for this machine, or else the first of tensorrt,
            tensorrt-rtx, ort-cuda, ort-cpu, openvino, openvino-gpu and openvino-npu whose engines the bundle has and
            this machine can run.
            ``Pipeline.backend`` says which it is.
        threads: threads of a call on the CPU; None takes one per core.
        lora_cache: how many sets of LoRAs stay ready after they were drawn with; ``Pipeline.lora_cache`` tells their
            memory.
        batching: "shared" runs together what calls in several threads ask of its engines at the same time; "alone" runs
            each by itself.
        loop: where the latents are between two model calls, "host" or "device": there an engine makes whole steps,
            where a call's sampler and guidance allow it.

    Raises:
        BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine, or none makes whole steps.
        RequestError: an unknown backend, batching or loop, fewer than 1 thread, or a cache of fewer than 0 sets.
    """
    path = _absolute(path)
    batching, loop = choice(Batching, batching, "batching"), choice(Loop, loop, "loop")
    bundle = open_bundle(path)
    components = OpenComponents(
        bundle, chosen_backend(bundle, backend), threads=threads, changed_models=lora_cache, loop=loop
    )
    return Pipeline(
        bundle,
        components,
        threads=threads,
        batching=batching,
        reopen=partial(
            open_pipeline,
            path,
            backend=backend,
            threads=threads,
            lora_cache=lora_cache,
            batching=batching,
            loop=loop,
        ),
    )


def open_addon(path: str | Path, *, backend: str = AUTO, threads: int | None = None) -> "Addon":
    """Opens the bundle of a ControlNet, a T2I-Adapter or an IP-Adapter, for calls of one pipeline or several.

    A call that names a bundle by its path opens it by itself, and the pipeline keeps it. What is opened here is closed
    by who opened it.

    Args:
        path: the bundle's folder.
        backend: its name, or ``"auto"``: the best one. It should be the pipeline's.
        threads: threads of a call on the CPU; None takes one per core.

    Raises:
        BundleError: no bundle, a model's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend.
    """
    from latentrt.runtime.addons.addon import addon_from_path  # loaded by those who use it

    return addon_from_path(path, backend=backend, threads=threads)


def open_upscaler(path: str | Path, *, backend: str = AUTO, threads: int | None = None) -> "Upscaler":
    """Opens the bundle of an upscaler.

    Args:
        path: the bundle's folder; a relative one stays good when the working directory changes.
        backend: its name, or ``"auto"``: the best one.
        threads: threads of a call on the CPU; None takes one per core.

    Raises:
        BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend.
    """
    from latentrt.runtime.upscaling.upscaler import upscaler_from_path  # loaded by those who use it

    return upscaler_from_path(_absolute(path), backend=backend, threads=threads)


def _absolute(path: str | Path) -> str | Path:
    """The path as it stays good; as it is where the working directory is gone, where only an absolute one is good."""
    with suppress(OSError):
        return Path(path).absolute()
    return path
