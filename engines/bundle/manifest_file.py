"""Reads and writes ``bundle.json`` and ``engine.json``: unknown keys and other schemas are refused."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from latentrt.engines.bundle.engine_manifest import EngineManifest
from latentrt.engines.bundle.manifest import BundleManifest
from latentrt.engines.errors import BundleError, LatentrtError

SCHEMA = 2
_Manifest = TypeVar("_Manifest", BundleManifest, EngineManifest)


def read_manifest(path: Path, kind: type[_Manifest]) -> _Manifest:
    """Reads and checks a manifest file.

    Raises:
        BundleError: the file is missing, cut short, not ours, or of a newer schema.
    """
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"got {str(path.parent)!r}, which has no readable {path.name}; expected a folder written by latentrt build"
        ) from error
    except ValueError as error:
        raise BundleError(f"{str(path)!r} is cut short or not JSON; build the bundle again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{str(path)!r} was not written by latentrt (it has no schema_version); build the bundle")
    if version != SCHEMA:
        newer = version > SCHEMA
        raise BundleError(
            f"{str(path)!r} has schema {version}, this latentrt reads schema {SCHEMA}; "
            + ("update latentrt" if newer else "build the bundle again with this latentrt")
        )
    try:
        return kind.model_validate(data)
    except (ValidationError, LatentrtError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise BundleError(f"{str(path)!r} was altered or is damaged ({reason}); build the bundle again") from error


def write_manifest(path: Path, manifest: BundleManifest | EngineManifest) -> None:
    """Writes a manifest as readable JSON."""
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", "utf-8")
