"""The stages of a run, in their order."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from latentrt.benchmarks.gpu import environment, gpu_tests, making, parity, peers, sharing, speed
from latentrt.benchmarks.gpu.models import Model, families, models
from latentrt.benchmarks.gpu.places import Places, labelled
from latentrt.benchmarks.gpu.stage import Settings, Stage
from latentrt.benchmarks.report.gpu.schema import BackendRow, GpuResult
from latentrt.engines.precision import Backend, Precision
from latentrt.models import EMBEDDED

BACKENDS = (Backend.ORT_CUDA, Backend.TENSORRT_RTX, Backend.TENSORRT)
"""Those of an NVIDIA GPU."""
_JUDGED = ("bf16", "int8", "fp8")
_PRECISIONS: Mapping[Backend, tuple[str, ...]] = {
    Backend.ORT_CUDA: ("fp16",),
    Backend.TENSORRT: ("fp16", *_JUDGED),
    Backend.TENSORRT_RTX: ("fp16", *_JUDGED),
    Backend.ORT_CPU: ("fp16", "int8"),
}
"""What each backend is timed in, as far as there is such a precision."""
_OF_NO_BACKEND = "not ort-cuda and not tensorrt"
_TESTS = {
    Backend.ORT_CUDA: "ort-cuda",
    Backend.TENSORRT_RTX: "tensorrt-rtx",
    Backend.TENSORRT: "tensorrt and not tensorrt-rtx",
}


def first_stages(settings: Settings) -> list[Stage]:
    """What the others depend on: the backends that work here, and the device's peak."""
    return [
        Stage(name="backends", work=environment.find_backends),
        Stage(name="peak", work=environment.measure_peaks),
    ]


def working_backends(result: GpuResult) -> tuple[Backend, ...]:
    """The backends that the first stage found to work."""
    return tuple(Backend(row.backend) for row in result.rows if isinstance(row, BackendRow) and row.works)


def all_stages(settings: Settings, backends: Sequence[Backend], *, keep: bool = False) -> list[Stage]:
    """Every stage for the backends that work here; with ``keep`` the models' files stay."""
    stages = [*first_stages(settings), *_embedded(backends), *_tests(backends)]
    for model in models(settings.scale):
        places = Places(work=settings.work, model=model.name)
        stages += _of_model(model, places, backends)
        if not keep:
            cleaning = partial(making.clean, folder=places.folder)
            stages.append(Stage(name=f"clean.{model.name}", work=cleaning, removes=(places.folder,)))
    stages += _families(backends)
    unique: dict[str, Stage] = {}
    for stage in stages:
        unique.setdefault(stage.name, stage)  # what several need is made once
    return list(unique.values())


def _tests(backends: Sequence[Backend]) -> Iterator[Stage]:
    chosen = {"tests.others": _OF_NO_BACKEND}
    chosen |= {f"tests.{backend}": _TESTS[backend] for backend in backends if backend in _TESTS}
    for name, expression in chosen.items():
        yield Stage(name=name, work=partial(gpu_tests.run_tests, stage=name, chosen=expression))


def _embedded(backends: Sequence[Backend]) -> Iterator[Stage]:
    for backend, precision in product(backends, ("fp32", "fp16")):
        name = f"parity.{EMBEDDED}.{precision}.{backend}"
        work = partial(parity.embedded_parity, stage=name, backend=backend.value, precision=precision)
        yield Stage(name=name, work=work)


def _families(backends: Sequence[Backend]) -> Iterator[Stage]:
    for family, backend in product(families(), backends):
        name = f"parity.{family}.{backend}"
        yield Stage(name=name, work=partial(parity.family_parity, stage=name, family=family, backend=backend.value))


def _of_model(model: Model, places: Places, backends: Sequence[Backend]) -> Iterator[Stage]:
    checkpoint = places.checkpoint(model.family)
    name = f"checkpoint.{model.name}"
    work = partial(making.make_checkpoint, stage=name, model=model, folder=checkpoint)
    yield Stage(name=name, work=work, makes=(checkpoint,))
    for peer, title in (("diffusers", peers.EAGER), ("compiled", peers.COMPILED)):
        name = f"speed.{model.name}.{peer}"
        work = partial(peers.peer_speed, stage=name, model=model, name=title, checkpoint=checkpoint)
        yield Stage(name=name, work=work, needs=(checkpoint,))
    makers = {precision.value for precision in making.precisions()}
    for backend in backends:
        for precision in _PRECISIONS.get(backend, ()):
            if precision in makers and precision in model.precisions:
                yield from _bundle(model, places, precision, backend, checkpoint)
                for batch in model.batches:
                    yield from _speed(model, places, precision, backend, batch)
        if model.loras:
            yield from _loras(model, places, backend)


def _bundle(model: Model, places: Places, precision: str, backend: Backend, checkpoint: Path) -> Iterator[Stage]:
    bundle = places.bundle(precision, backend.value)
    source, make = checkpoint, partial(making.make_bundle, model=model)
    if precision in _JUDGED:
        source = places.bundle("fp32", "")
        name = f"bundle.{model.name}.fp32"
        work = partial(
            make, stage=name, precision=Precision.FP32, backend=Backend.ORT_CPU.value, source=checkpoint, bundle=source
        )
        yield Stage(name=name, work=work, needs=(checkpoint,), makes=(source,))
    name = f"bundle.{model.name}.{bundle.stem}"
    work = partial(
        make, stage=name, precision=Precision(precision), backend=backend.value, source=source, bundle=bundle
    )
    yield Stage(name=name, work=work, needs=(source,), makes=(bundle,))


def _speed(model: Model, places: Places, precision: str, backend: Backend, batch: int) -> Iterator[Stage]:
    bundle = places.bundle(precision, backend.value, batch)
    if batch > 1:
        name, source = f"bundle.{model.name}.{bundle.stem}", places.bundle(precision, backend.value)
        work = partial(making.make_wider_bundle, stage=name, model=model, batch=batch, source=source, bundle=bundle)
        yield Stage(name=name, work=work, needs=(source,), makes=(bundle,))
    suffix = f"{model.name}.{labelled(precision, batch)}.{backend}"
    name, engines = f"engines.{suffix}", places.engines(precision, backend.value, batch)
    work = partial(making.make_engines, stage=name, model=model, backend=backend.value, bundle=bundle, mark=engines)
    yield Stage(name=name, work=work, needs=(bundle,), makes=(engines,))
    shared: Mapping[str, Any] = {"model": model, "precision": precision, "backend": backend.value, "bundle": bundle}
    name = f"speed.{suffix}"
    yield Stage(name=name, work=partial(speed.own_speed, stage=name, batch=batch, **shared), needs=(bundle, engines))
    if precision == "fp16" and batch == 1 and model.architecture.frames == 1 and making.has_device_loop():
        steps, name = places.steps(precision, backend.value), f"engines.{suffix}.loop"
        work = partial(
            making.make_engines,
            stage=name,
            model=model,
            backend=backend.value,
            bundle=bundle,
            mark=steps,
            loop="device",
        )
        yield Stage(name=name, work=work, needs=(bundle, engines), makes=(steps,))
        name = f"speed.{suffix}.loop"
        work = partial(speed.own_speed, stage=name, loop="device", **shared)
        yield Stage(name=name, work=work, needs=(bundle, engines, steps))
    if model.lanes and precision == "fp16" and batch == model.batches[-1]:
        name = f"lanes.{suffix}"
        yield Stage(name=name, work=partial(sharing.lanes, stage=name, **shared), needs=(bundle, engines))


def _loras(model: Model, places: Places, backend: Backend) -> Iterator[Stage]:
    source, bundle = places.bundle("fp16", backend.value), places.lora_bundle(backend.value)
    engines, name = places.lora_engines(backend.value), f"engines.{model.name}.loras.{backend}"
    shared: Mapping[str, Any] = {"model": model, "backend": backend.value, "bundle": bundle}
    work = partial(making.make_lora_bundle, stage=name, source=source, mark=engines, **shared)
    yield Stage(name=name, work=work, needs=(source,), makes=(bundle, engines))
    name = f"loras.{model.name}.{backend}"
    yield Stage(name=name, work=partial(sharing.loras, stage=name, **shared), needs=(bundle, engines))
