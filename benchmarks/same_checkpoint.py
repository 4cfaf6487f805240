"""Whether bundles, and the checkpoint that peers draw with, hold the same model: by the digests of what was read."""

from collections.abc import Sequence
from pathlib import Path

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.files import sha256_of_file


def check_same_checkpoint(bundles: Sequence[Path], checkpoint: Path | None) -> None:
    """Compares every bundle with the first one and with the checkpoint.

    Files are matched by their names: those of other names (a variant, a single file) say nothing.

    Raises:
        BundleError: a folder is no bundle.
        RequestError: two of them differ.
    """
    first = open_bundle(bundles[0]).manifest
    for root in bundles:
        manifest = open_bundle(root).manifest
        _check_alike(first, manifest, bundles[0], root)
        if checkpoint is not None:
            _check_built_from(manifest, root, checkpoint)


def _check_alike(one: BundleManifest, other: BundleManifest, first: Path, second: Path) -> None:
    names = f"{first.name} and {second.name}"
    if one.family != other.family:
        raise RequestError(
            f"got bundles of families {one.family} and {other.family}, expected one model; measure apart"
        )
    for name in one.source.files.keys() & other.source.files.keys():
        if one.source.files[name].sha256 != other.source.files[name].sha256:
            raise RequestError(
                f"got bundles {names}, whose checkpoints differ in {name}, expected one model; build both from one "
                "checkpoint, or measure apart"
            )


def _check_built_from(manifest: BundleManifest, root: Path, checkpoint: Path) -> None:
    for name, record in manifest.source.files.items():
        path = checkpoint / name
        if path.is_file() and (path.stat().st_size != record.size or sha256_of_file(path) != record.sha256):
            raise RequestError(
                f"got checkpoint {checkpoint.name!r}, whose {name} is not what {root.name} was built from, expected "
                "one model; name the folder that the bundle was built from, or build the bundle again"
            )
