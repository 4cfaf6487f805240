"""Where a bundle is written: a folder that may be replaced, on a disk with room for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from latentrt.building.compiling import EnginesToMake
from latentrt.engines.bundle.bundle import Bundle, BundleSort, open_bundle, sort_of
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import BundleError, OutputError, RequestError
from latentrt.engines.files import STAGED
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision
from latentrt.engines.shapes import Loop
from latentrt.engines.store.speed import SPEED_FILE

_BUNDLE_ENTRIES = {
    *(BUNDLE_FILE, SPEED_FILE),
    *("embeddings", "engines", "onnx", "probes", "tokenizer", "tokenizer_2", "weights"),
}
# Per parameter of the ONNX; in eight bits the autoencoder and the text encoders are wider
_BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 2, Precision.FP8: 2}
_ENGINE_SHARE = 1.4  # engines are up to so many times as large as their weights


def destination_from_argument(output: Path | None, sort: BundleSort = BundleSort.MODEL) -> Path:
    """The folder to write, resolved, so that every spelling of it meets the same lock.

    Args:
        output: what the user named.
        sort: what it will be the bundle of.

    Raises:
        RequestError: no folder was given.
        OutputError: there is something else than a bundle, or a bundle of another sort.
    """
    if output is None:
        raise RequestError("got no output folder, expected one for the bundle; add -o DIR")
    folder = output.resolve()
    if folder.exists() and not _replaceable(folder):
        raise OutputError(f"{str(folder)!r} exists and is no bundle; choose a new folder or remove it")
    there = sort_of(folder)
    if there is not None and there is not sort:
        raise OutputError(
            f"{str(folder)!r} is the bundle of {there.label}, which {sort.label} does not replace; choose another "
            "folder"
        )
    return folder


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds nothing but a bundle, damaged or not."""
    return folder.is_dir() and all(path.name in _BUNDLE_ENTRIES for path in folder.iterdir())


def begun_beside(destination: Path) -> tuple[Path, ...]:
    """The folders in which a build that was ended early has left what the next one of the destination goes on with."""
    if not destination.parent.is_dir():
        return ()
    hidden = (path for path in sorted(destination.parent.iterdir()) if path.name.startswith(f".{destination.name}."))
    return tuple(path for path in hidden if path.is_dir() and path.suffix not in STAGED)


def existing_bundle(destination: Path, same: Callable[[BundleManifest], bool]) -> Bundle | None:
    """The whole bundle that is there already, if ``same`` says that a build would make it again."""
    try:
        bundle = open_bundle(destination)
        if not same(bundle.manifest):
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle


def check_space(destination: Path, parameters: int, precision: Precision, engines: EnginesToMake) -> None:
    """Refuses to start where the disk cannot hold the result.

    Raises:
        OutputError: too little space is free.
    """
    parent = next(folder for folder in destination.absolute().parents if folder.exists())
    onnx = _BYTES[precision]
    # ONNX Runtime's CPU kernels are fp32: weights in fp16 are folded to that as they are packed
    weights = 4 if engines.compiler.backend is Backend.ORT_CPU else onnx
    made = len(engines.targets) * (
        2 if engines.added or engines.loop is Loop.DEVICE else 1
    )  # the U-Net is nearly all of a model
    needed = int((onnx + _ENGINE_SHARE * weights * made) * parameters)
    if precision in (*EIGHT_BITS, Precision.BF16):  # the fp32 bundle that it is made of, and its engines
        needed += int((4 + _ENGINE_SHARE * 4) * parameters)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"{str(parent)!r} has {free // 2**20} MB free, the bundle needs about {needed // 2**20} MB; "
            "free some space or choose another disk"
        )
