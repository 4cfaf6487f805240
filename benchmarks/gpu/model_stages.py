"""The stages of one model: its weights, peers, and every precision on every backend."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from latentrt.benchmarks.gpu.models import Model
from latentrt.benchmarks.gpu.places import Places, labelled
from latentrt.benchmarks.gpu.stage import Stage
from latentrt.benchmarks.gpu.work import making, pairs, peers, sharing, speed
from latentrt.engines.backends.compiler import WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.graphs.quantization.recipe import recipe_for
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision

_PRECISIONS: Mapping[Backend, tuple[str, ...]] = {
    Backend.ORT_CUDA: ("fp16",),
    Backend.TENSORRT: ("fp16", "bf16", "int8", "fp8"),
    Backend.TENSORRT_RTX: ("fp16", "bf16", "int8", "fp8"),
    Backend.ORT_CPU: ("fp16", "int8"),
}
"""What each backend is timed in, as far as there is such a precision."""
_MIXED = "fp32-unet"
_EXPORTED: Mapping[str, tuple[Precision, tuple[str, ...]]] = {
    "fp32": (Precision.FP32, ()),
    "fp16": (Precision.FP16, ()),
    _MIXED: (Precision.FP16, (UNET,)),
}
"""Graphs of a checkpoint by name: their precision, and what is in fp32 all the same."""


def model_stages(model: Model, places: Places, backends: Sequence[Backend]) -> Iterator[Stage]:
    """All stages of a model; a precision behind the other, so that the files of one can go before the next has some."""
    checkpoint = places.checkpoint(model.family)
    name = f"checkpoint.{model.name}"
    work = partial(making.make_checkpoint, stage=name, model=model, folder=checkpoint)
    yield Stage(name=name, work=work, makes=(checkpoint,))
    for peer, batch in product(peers.PEERS, model.batches):
        name = f"speed.{model.name}.{labelled(peer, batch)}"
        shared: Mapping[str, Any] = {"model": model, "checkpoint": checkpoint, "drawn_by_it": places.drawn(peer)}
        work = partial(peers.peer_speed, stage=name, peer=peer, batch=batch, **shared)
        yield Stage(name=name, work=work, needs=(checkpoint,))
    timed = [precision for precision in making.precisions() if precision in model.precisions]
    made = set[str]()
    for place, precision in enumerate(timed):
        for stage in _of_precision(model, places, precision, backends):
            if stage.name not in made:  # what several need is made once
                made.add(stage.name)
                yield stage
        later = {path for other in timed[place + 1 :] for path in _all_graphs(places, other, backends)}
        idle = _all_graphs(places, precision, backends) - later
        if idle:
            yield cleaning(f"clean.{model.name}.{precision}", *sorted(idle))


def cleaning(name: str, *folders: Path) -> Stage:
    """A stage that removes folders."""
    return Stage(name=name, work=partial(making.clean, folders=folders), removes=folders)


def _of_precision(model: Model, places: Places, precision: Precision, backends: Sequence[Backend]) -> Iterator[Stage]:
    for backend in _timed_in(precision, backends):
        yield from _graphs(model, places, precision, backend)
        for batch in model.batches:
            yield from _speed(model, places, precision, backend, batch)
        if precision in EIGHT_BITS:
            yield from _pairs(model, places, precision, backend)
        if model.loras and precision is Precision.FP16:
            yield from _loras(model, places, backend)
        yield cleaning(f"clean.{model.name}.{precision}.{backend}", places.group(precision, backend))


def _timed_in(precision: Precision, backends: Sequence[Backend]) -> list[Backend]:
    return [backend for backend in backends if precision in _PRECISIONS.get(backend, ())]


def _graphs(model: Model, places: Places, precision: Precision, backend: Backend) -> Iterator[Stage]:
    """The graphs of a precision, and those that they are made of."""
    checkpoint, source = places.checkpoint(model.family), _source_of(places, precision, backend)
    exported, kept = _EXPORTED[source.stem]
    name = f"graphs.{model.name}.{source.stem}"
    work = partial(making.export_bundle, stage=name, model=model, precision=exported, fp32=kept)
    yield Stage(name=name, work=partial(work, source=checkpoint, bundle=source), needs=(checkpoint,), makes=(source,))
    bundle = _graphs_of(places, precision, backend)
    if bundle != source:
        name = f"graphs.{model.name}.{bundle.stem}"
        made = partial(making.convert_bundle, stage=name, model=model, precision=precision, backend=backend.value)
        yield Stage(name=name, work=partial(made, source=source, bundle=bundle), needs=(source,), makes=(bundle,))


def _all_graphs(places: Places, precision: Precision, backends: Sequence[Backend]) -> set[Path]:
    """What ``_graphs`` makes for all backends that are timed in a precision."""
    return {
        path
        for backend in _timed_in(precision, backends)
        for path in (_source_of(places, precision, backend), _graphs_of(places, precision, backend))
    }


def _source_of(places: Places, precision: Precision, backend: Backend) -> Path:
    """The graphs that are exported: for eight bits on GPUs, only the U-Net is in fp32."""
    if precision in EIGHT_BITS and recipe_for(backend, precision).symmetric:
        return places.graphs(_MIXED)
    return places.graphs("fp16" if precision is Precision.FP16 else "fp32")


def _graphs_of(places: Places, precision: Precision, backend: Backend) -> Path:
    """The graphs that a backend draws with."""
    return places.graphs(precision if precision is Precision.FP16 else f"{precision}-{backend}")


def _engines(
    name: str, model: Model, graphs: Path, backend: Backend, bundle: Path, batch: int, **options: Any
) -> tuple[Stage, ...]:
    """The engines of a bundle; two stages where they take minutes. The first makes the bundle of graphs."""
    stages: list[Stage] = []
    for part in making.parts_of(backend):
        stage, mark = name if part is making.Part.ALL else f"{name}.{part}", Places.engines(bundle, part)
        chosen: Mapping[str, Any] = {
            "model": model,
            "backend": backend.value,
            "graphs": graphs,
            "batch": batch,
            "bundle": bundle,
        }
        work = partial(making.make_engines, stage=stage, part=part, mark=mark, **chosen, **options)
        needs, makes = ((bundle,), (mark,)) if stages else ((graphs,), (bundle, mark))
        stages.append(Stage(name=stage, work=work, needs=needs, makes=makes))
    return tuple(stages)


def _made_by(stages: Sequence[Stage]) -> tuple[Path, ...]:
    return tuple(made for stage in stages for made in stage.makes)


def _speed(model: Model, places: Places, precision: Precision, backend: Backend, batch: int) -> Iterator[Stage]:
    bundle, graphs = places.bundle(precision, backend, batch), _graphs_of(places, precision, backend)
    suffix = f"{model.name}.{labelled(precision, batch)}.{backend}"
    engines = _engines(f"engines.{suffix}", model, graphs, backend, bundle, batch)
    yield from engines
    needs, name = _made_by(engines), f"speed.{suffix}"
    shared: Mapping[str, Any] = {"model": model, "precision": precision, "backend": backend.value, "bundle": bundle}
    timed = partial(speed.own_speed, batch=batch, beside=places.drawn(peers.EAGER), **shared)
    yield Stage(name=name, work=partial(timed, stage=name), needs=needs)
    if precision is Precision.FP16 and batch == 1 and model.architecture.frames == 1:
        steps = tuple(_step_engines(f"engines.{suffix}.loop", model, graphs, backend, bundle))
        yield from steps
        name = f"speed.{suffix}.loop"
        yield Stage(name=name, work=partial(timed, stage=name, loop="device"), needs=(*needs, *_made_by(steps)))
    if model.lanes and precision is Precision.FP16 and batch == model.batches[-1]:
        name = f"lanes.{suffix}"
        yield Stage(name=name, work=partial(sharing.lanes, stage=name, **shared), needs=needs)


def _step_engines(name: str, model: Model, graphs: Path, backend: Backend, bundle: Path) -> Iterator[Stage]:
    """The engine of whole steps, beside those that a bundle has; elsewhere every U-Net makes them."""
    if COMPILERS[backend].added_apart:
        mark, part = Places.engines(bundle, "loop"), making.Part.UNET
        chosen: Mapping[str, Any] = {
            "model": model,
            "backend": backend.value,
            "graphs": graphs,
            "batch": 1,
            "bundle": bundle,
        }
        work = partial(making.make_engines, stage=name, part=part, mark=mark, loop="device", **chosen)
        yield Stage(name=name, work=work, needs=(bundle,), makes=(mark,))


def _loras(model: Model, places: Places, backend: Backend) -> Iterator[Stage]:
    bundle, graphs = places.lora_bundle(backend), _graphs_of(places, Precision.FP16, backend)
    as_inputs = WeightsAs.INPUTS if COMPILERS[backend].lora_ready else WeightsAs.CONSTANTS
    name = f"engines.{model.name}.loras.{backend}"
    engines = _engines(name, model, graphs, backend, bundle, 1, weights=as_inputs)
    yield from engines
    name = f"loras.{model.name}.{backend}"
    work = partial(sharing.loras, stage=name, model=model, backend=backend.value, bundle=bundle)
    yield Stage(name=name, work=work, needs=_made_by(engines))


def _pairs(model: Model, places: Places, precision: Precision, backend: Backend) -> Iterator[Stage]:
    """What each kind of layer is worth in eight bits: a stage each, as each compiles a U-Net."""
    bundle = places.bundle(precision, backend)
    needs = (bundle, *(Places.engines(bundle, part) for part in making.parts_of(backend)))
    for layers in pairs.Layers:
        name = f"pairs.{model.name}.{precision}.{backend}.{layers}"
        chosen: Mapping[str, Any] = {"model": model, "precision": precision, "backend": backend.value, "bundle": bundle}
        yield Stage(name=name, work=partial(pairs.worth, stage=name, layers=layers, **chosen), needs=needs)
