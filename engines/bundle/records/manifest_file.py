"""Reads and writes ``bundle.json`` and ``engine.json``: unknown keys and other schemas are refused."""

import json
from pathlib import Path
from typing import TypeVar

from latentrt.engines.bundle.records.engine_manifest import EngineManifest
from latentrt.engines.bundle.records.manifest import BundleManifest
from latentrt.engines.documents import read_document
from latentrt.engines.errors import BundleError

SCHEMA = 2
_Manifest = TypeVar("_Manifest", BundleManifest, EngineManifest)


def read_manifest(path: Path, kind: type[_Manifest]) -> _Manifest:
    """Reads and checks a manifest file.

    Raises:
        BundleError: the file is missing, cut short, not ours, or of a newer schema.
    """
    return read_document(
        path,
        kind,
        schema=SCHEMA,
        error=BundleError,
        remedy="build the bundle again with this latentrt",
        missing=f"got {str(path.parent)!r}, which has no readable {path.name}; "
        "expected a folder written by latentrt build",
    )


def write_manifest(path: Path, manifest: BundleManifest | EngineManifest) -> None:
    """Writes a manifest as readable JSON."""
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", "utf-8")
