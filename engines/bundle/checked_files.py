"""Files with recorded sizes and digests."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.errors import BundleError
from latentrt.engines.files import sha256_of_file

# Files up to this size are hashed whenever they are opened (tens of milliseconds); `verify` hashes them all.
HASHED_AT_OPEN = 64 * 2**20


def record_file(path: Path) -> FileRecord:
    """Size and digest of one file."""
    return FileRecord(size=path.stat().st_size, sha256=sha256_of_file(path))


def record_files(root: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Sizes and digests of files below ``root``, in the order of their names."""
    return {name: record_file(root / name) for name in sorted(names)}


def check_files(root: Path, files: Mapping[str, FileRecord], *, largest_hashed: int | None) -> None:
    """Compares files with their records: size always, digest up to ``largest_hashed`` bytes (None: all).

    Raises:
        BundleError: naming every file that differs and how.
    """
    refuse_damaged(root, file_faults(root, files, largest_hashed=largest_hashed))


def refuse_damaged(root: Path, faults: Sequence[str]) -> None:
    """Says all that is wrong with the files below ``root``.

    Raises:
        BundleError: there are faults.
    """
    if faults:
        raise BundleError(f"{str(root)!r} is damaged: {'; '.join(faults)}; build the bundle again")


def file_faults(root: Path, files: Mapping[str, FileRecord], *, largest_hashed: int | None) -> list[str]:
    """Which files differ from their records and how, as ``check_files`` compares them."""
    faults = []
    for name, record in files.items():
        path = root / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            faults.append(f"{name} is missing")
        elif size != record.size:
            faults.append(f"{name} has {size} bytes instead of {record.size}")
        elif (largest_hashed is None or size <= largest_hashed) and sha256_of_file(path) != record.sha256:
            faults.append(f"{name} was altered")
    return faults
