"""Whether bundles, and the checkpoint that peers draw with, hold the same model: by the digests of what was read."""

from collections.abc import Sequence
from pathlib import Path

from latentrt.engines.bundle.bundle import open_bundle
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
        if first.family != manifest.family:
            raise RequestError(
                f"got bundles of families {first.family} and {manifest.family}, expected one model; measure apart"
            )
        for name, record in manifest.source.files.items():
            same = first.source.files.get(name, record)
            if same.sha256 != record.sha256:
                raise RequestError(
                    f"got bundles {bundles[0].name} and {root.name}, whose checkpoints differ in {name}, expected one "
                    "model; build both from one checkpoint, or measure apart"
                )
            if checkpoint and (path := checkpoint / name).is_file() and sha256_of_file(path) != record.sha256:
                raise RequestError(
                    f"got checkpoint {checkpoint.name!r}, whose {name} is not what {root.name} was built from, "
                    "expected one model; name the folder that the bundle was built from, or build the bundle again"
                )
