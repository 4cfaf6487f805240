"""Checkpoints of random weights, bundles of them, and engines at the size that is drawn."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from time import perf_counter

from latentrt.benchmarks.gpu.models import Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.gpu.schema import Loop, MadeRow, Row
from latentrt.benchmarks.studies.architectures import save_architecture
from latentrt.benchmarks.studies.full_size import convert, quantize
from latentrt.building.compiling import EnginesToMake, engines_to_make
from latentrt.building.from_model import build_from_model
from latentrt.building.request import BuildRequest
from latentrt.cli.terminal import BuildProgress
from latentrt.engines.backends.compiler import Compiler, Target, WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.files import locked
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Loop as LoopOf
from latentrt.engines.store.compile import compile_component, new_engine
from latentrt.engines.store.store import engine_whole, target_identity
from latentrt.export.sources.partial_model import Choices

_JUDGED: Mapping[Precision, Callable[[Path, Path, EnginesToMake], None]] = {
    Precision.BF16: convert,
    # The decoder stays as it is, as on GPUs: with random weights it misses the gate of eight bits
    **{precision: partial(quantize, precision=precision, kept_fp32=(VAE_DECODER,)) for precision in EIGHT_BITS},
}
"""What makes a bundle in a precision of another, for speed alone."""


class Part(StrEnum):
    """The components that a stage compiles: where that takes minutes, the U-Net is a stage of its own."""

    ALL = "all"
    UNET = "unet"
    OTHERS = "others"

    def holds(self, component: str) -> bool:
        """Whether a component is one of them."""
        return self is Part.ALL or (component == UNET) is (self is Part.UNET)


def parts_of(backend: str) -> tuple[Part, ...]:
    """How a backend's engines are split: into two stages where an engine is made for one size."""
    return (Part.UNET, Part.OTHERS) if _compiler(backend).added_apart else (Part.ALL,)


def precisions() -> tuple[Precision, ...]:
    """Those that can be made."""
    return (Precision.FP32, Precision.FP16, *_JUDGED)


def make_checkpoint(settings: Settings, stage: str, model: Model, folder: Path) -> Iterator[Row]:
    """Random weights, drawn on the device."""
    yield _made(
        stage,
        model.name,
        "checkpoint",
        folder,
        lambda: save_architecture(model.architecture, folder, device=settings.device),
    )


def export_bundle(
    settings: Settings,
    stage: str,
    model: Model,
    precision: Precision,
    source: Path,
    bundle: Path,
    fp32: tuple[str, ...] = (),
) -> Iterator[Row]:
    """A checkpoint's bundle, without engines: its graphs take every size, and are gated at one that a CPU computes."""

    def make() -> None:
        request = BuildRequest(
            model=str(source),
            output=bundle,
            precision=precision,
            profiles=(model.exported,),
            engines=_portable(Backend.ORT_CPU),
            seamless=Seamless.NONE,
            fp32=fp32,
            loras=(),
            choices=Choices(),
            quantization=None,
        )
        build_from_model(request, StageTimer(BuildProgress()), None)

    yield _made(stage, model.name, f"{precision} graphs", bundle, make)


def convert_bundle(
    settings: Settings, stage: str, model: Model, precision: Precision, backend: str, source: Path, bundle: Path
) -> Iterator[Row]:
    """A bundle without engines, in a precision that is judged by pictures, of another."""
    make = partial(_JUDGED[precision], source, bundle, _portable(Backend(backend)))
    yield _made(stage, model.name, f"{precision} graphs for {backend}", bundle, make)


def make_bundle(model: Model, batch: int, graphs: Path, bundle: Path) -> None:
    """A bundle's files once more, for engines of so many pictures at the size that is drawn, unless it is there.

    They are not linked: onnx refuses weights that have links.
    """
    if bundle.exists():
        return
    partial = bundle.with_name(f".{bundle.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(graphs, partial, ignore=shutil.ignore_patterns("engines", BUNDLE_FILE))
    sized = open_bundle(graphs).manifest.model_copy(update={"profiles": (model.profile(batch),)})
    write_manifest(partial / BUNDLE_FILE, sized)
    os.rename(partial, bundle)


def make_engines(
    settings: Settings,
    stage: str,
    model: Model,
    backend: str,
    graphs: Path,
    batch: int,
    bundle: Path,
    mark: Path,
    part: Part = Part.ALL,
    loop: Loop = "host",
    weights: WeightsAs = WeightsAs.CONSTANTS,
) -> Iterator[Row]:
    """The backend's engines of some components, in a bundle of the graphs; ``mark`` is there when they are.

    Those of a fixed size are not gated: the recorded runs are smaller. With a loop on the device the U-Net's is that of
    whole steps, beside the plain one.
    """
    begin = perf_counter()
    make_bundle(model, batch, graphs, bundle)
    opened, compiler = open_bundle(bundle), _compiler(backend)
    engines = engines_to_make(Backend(backend), (), None, weights, loop=LoopOf(loop))
    with locked(bundle.resolve()):
        for component in engines.components(opened):
            if part.holds(component.name):
                variant = engines.variants(component)[-1]
                for target in engines.targets:
                    _compile(opened, variant, compiler, target)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    yield MadeRow(
        stage=stage,
        model=model.name,
        what=f"engines, {stage.split('.', 2)[2]}",
        seconds=perf_counter() - begin,
        bytes=bytes_of(bundle / "engines"),
    )


def _compile(bundle: Bundle, component: Component, compiler: Compiler, target: Target) -> None:
    timer = StageTimer(BuildProgress())
    with timer.stage(f"{component.label}: compile"):
        if not compiler.profiles(component):
            compile_component(component, compiler, target, bundle.probes(component.name), timer)
        elif engine_whole(component, compiler, target) is None:
            identity = target_identity(component, compiler, target)
            new_engine(
                component.root,
                identity,
                None,
                lambda folder: (compiler.compile(component, target, folder, timer), None),
            )


def clean(settings: Settings, folders: tuple[Path, ...]) -> Iterator[Row]:
    """Removes files, for what comes next to have the disk."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    yield from ()


def bytes_of(folder: Path) -> int:
    """The size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _compiler(backend: str) -> Compiler:
    return COMPILERS[Backend(backend)]


def _portable(backend: Backend) -> EnginesToMake:
    """No engines: ONNX Runtime gates the graphs themselves on the CPU."""
    return EnginesToMake(compiler=COMPILERS[backend], targets=())


def _made(stage: str, model: str, what: str, place: Path, make: Callable[[], object]) -> MadeRow:
    begin = perf_counter()
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        make()
    return MadeRow(stage=stage, model=model, what=what, seconds=perf_counter() - begin, bytes=bytes_of(place))
