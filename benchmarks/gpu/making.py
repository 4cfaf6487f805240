"""Checkpoints of random weights, bundles and engines of them."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import Any

import latentrt
from latentrt.benchmarks.gpu.models import Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.gpu.schema import Loop, MadeRow, Row
from latentrt.benchmarks.studies.architectures import save_architecture
from latentrt.benchmarks.studies.full_size import convert, quantize
from latentrt.cli.terminal import BuildProgress
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision

_JUDGED: Mapping[Precision, Callable[[Path, Path, Backend], None]] = {
    Precision.BF16: convert,
    **{precision: partial(quantize, precision=precision) for precision in EIGHT_BITS},
}
"""What makes a bundle in a precision of one in fp32, for speed alone."""


def precisions() -> tuple[Precision, ...]:
    """Those that can be made."""
    return (Precision.FP32, Precision.FP16, *_JUDGED)


def has_device_loop() -> bool:
    """Whether there are engines that make whole steps."""
    return "loop" in signature(latentrt.open).parameters


def loop_options(loop: Loop) -> dict[str, Any]:
    """Keywords of ``latentrt.build`` and ``latentrt.open`` for a loop on the device; none for one on the host."""
    return {} if loop == "host" else {"loop": loop}


def make_checkpoint(settings: Settings, stage: str, model: Model, folder: Path) -> Iterator[Row]:
    """Random weights, drawn on the device."""
    yield _made(
        stage,
        model.name,
        "checkpoint",
        folder,
        lambda: save_architecture(model.architecture, folder, device=settings.device),
    )


def make_bundle(
    settings: Settings, stage: str, model: Model, precision: Precision, backend: str, source: Path, bundle: Path
) -> Iterator[Row]:
    """A bundle of a checkpoint; in a precision that is judged by pictures, of a bundle in fp32."""

    def make() -> None:
        make_it = _JUDGED.get(precision)
        if make_it is not None:
            make_it(source, bundle, Backend(backend))
        else:
            latentrt.build(
                source,
                bundle,
                precision=precision,
                profiles=[model.profile()],
                backend=backend,
                progress=BuildProgress(),
            )

    yield _made(stage, model.name, f"{precision} bundle", bundle, make)


def make_wider_bundle(
    settings: Settings, stage: str, model: Model, batch: int, source: Path, bundle: Path
) -> Iterator[Row]:
    """The bundle once more, for so many pictures at once: its graphs take any batch."""

    def make() -> None:
        partial = _copied(source, bundle)
        manifest = open_bundle(source).manifest
        wider = manifest.model_copy(update={"profiles": (model.profile(batch),)})
        write_manifest(partial / BUNDLE_FILE, wider)
        os.rename(partial, bundle)

    yield _made(stage, model.name, f"bundle of {batch} pictures", bundle, make)


def make_engines(
    settings: Settings, stage: str, model: Model, backend: str, bundle: Path, mark: Path, loop: Loop = "host"
) -> Iterator[Row]:
    """The backend's engines, gated here; ``mark`` is there when they are.

    Whole steps are a plan of their own where added inputs are, too; elsewhere every U-Net makes them.
    """
    begin = perf_counter()
    apart = COMPILERS[Backend(backend)].added_apart
    latentrt.build(bundle, backend=backend, progress=BuildProgress(), **loop_options(loop if apart else "host"))
    seconds = perf_counter() - begin
    mark.touch()
    yield MadeRow(
        stage=stage,
        model=model.name,
        what=f"engines of {bundle.stem} for {backend}" + (", whole steps" if loop == "device" else ""),
        seconds=seconds,
        bytes=bytes_of(bundle / "engines"),
    )


def make_lora_bundle(
    settings: Settings, stage: str, model: Model, backend: str, source: Path, bundle: Path, mark: Path
) -> Iterator[Row]:
    """The bundle once more, with engines that take weights as inputs where a backend has such; ``mark`` as above."""
    begin = perf_counter()
    if not bundle.exists():
        partial = _copied(source, bundle)
        shutil.copyfile(source / BUNDLE_FILE, partial / BUNDLE_FILE)
        os.rename(partial, bundle)
    latentrt.build(bundle, backend=backend, lora_ready=COMPILERS[Backend(backend)].lora_ready, progress=BuildProgress())
    mark.touch()
    yield MadeRow(
        stage=stage,
        model=model.name,
        what=f"fp16 engines for LoRAs, {backend}",
        seconds=perf_counter() - begin,
        bytes=bytes_of(bundle / "engines"),
    )


def _copied(source: Path, bundle: Path) -> Path:
    """A bundle's files but for its manifest and its engines, beside where it will be.

    They are not linked: onnx refuses weights that have links.
    """
    partial = bundle.with_name(f".{bundle.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    left_out = shutil.ignore_patterns("engines", BUNDLE_FILE)
    return Path(shutil.copytree(source, partial, ignore=left_out))


def clean(settings: Settings, folder: Path) -> Iterator[Row]:
    """Removes a model's files, for the next one to have the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    yield from ()


def bytes_of(folder: Path) -> int:
    """The size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _made(stage: str, model: str, what: str, place: Path, make: Callable[[], object]) -> MadeRow:
    begin = perf_counter()
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        make()
    return MadeRow(stage=stage, model=model, what=what, seconds=perf_counter() - begin, bytes=bytes_of(place))
