"""``speed.json``: what a build for speed measured of a bundle, and what it kept."""

import json
from pathlib import Path

from latentrt.engines.bundle.records.manifests.manifest_file import check_seal
from latentrt.engines.bundle.records.manifests.seal import Seal, opened, sealed
from latentrt.engines.bundle.records.profile_text import ProfileText
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.documents import document_from_content
from latentrt.engines.errors import BundleError
from latentrt.engines.files import write_file
from latentrt.engines.precision import Backend, Precision

SPEED_FILE = "speed.json"
_SCHEMA = 1
_REMEDY = "build the bundle with --fastest again, or remove the file"


class SpeedRow(Record):
    """One precision on one backend.

    ``step`` and ``picture`` are seconds, the medians of all rounds: of a model call with its guidance, and of a whole
    picture. ``share`` is the picture's time as a share of the reference's, the median over pairs of one round.
    ``psnr_mean`` and ``psnr_worst`` are dB against the reference's pictures. What was not measured is None.
    ``reason`` is why it was not kept; None of the one that was.
    """

    precision: Precision
    backend: Backend
    step: float | None = None
    picture: float | None = None
    share: float | None = None
    psnr_mean: float | None = None
    psnr_worst: float | None = None
    reason: str | None = None


class SpeedRecord(Record):
    """All of ``speed.json``.

    ``machine`` is what the kept backend calls the machine that this holds for. ``reference`` is the exact engine that
    times and pictures are compared with. ``quality`` is the mean PSNR in dB that was required. ``versions`` are those
    of the backends' libraries, ``made_of`` is a digest of all that decides what a build for speed would try.
    """

    schema_version: int = _SCHEMA
    latentrt: str
    machine: str
    precision: Precision
    backend: Backend
    reference: Backend
    quality: float
    profile: ProfileText
    steps: int
    rounds: int
    pictures: int
    versions: dict[str, str]
    made_of: str
    rows: tuple[SpeedRow, ...]


def read_speed(root: Path) -> SpeedRecord | None:
    """What was measured as the bundle was built for speed; None of one that was not.

    Raises:
        BundleError: the record is damaged or was edited.
    """
    found = speed_and_seal(root)
    if found is None:
        return None
    record, seal = found
    check_seal(seal, root / SPEED_FILE)
    return record


def speed_and_seal(root: Path) -> tuple[SpeedRecord, Seal] | None:
    """The same, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: the record is damaged.
    """
    path = root / SPEED_FILE
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise BundleError(f"cannot read {str(path)!r} ({failure.strerror}); {_REMEDY}") from failure
    content, seal = opened(written)
    record = document_from_content(
        content, repr(str(path)), SpeedRecord, schema=_SCHEMA, error=BundleError, remedy=_REMEDY
    )
    return record, seal


def write_speed(root: Path, record: SpeedRecord) -> None:
    """Writes the record into a bundle's folder, sealed.

    Raises:
        OutputError: it cannot be written.
    """
    text = sealed(json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False))
    write_file(root / SPEED_FILE, lambda path: path.write_text(text, "utf-8", newline="\n"))
