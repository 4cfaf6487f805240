"""Reads and writes ``bundle.json`` and ``engine.json``: unknown keys, other schemas and edited values are refused."""

import json
from pathlib import Path
from typing import TypeVar

from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.manifests.engine_manifest import EngineManifest
from latentrt.engines.bundle.records.manifests.seal import Seal, opened, sealed
from latentrt.engines.documents import document_from_content
from latentrt.engines.errors import BundleError

SCHEMA = 3
_REMEDY = "build the bundle again with this latentrt"
_Manifest = TypeVar("_Manifest", bound=ComponentsManifest | EngineManifest)


def read_manifest_and_seal(path: Path, kind: type[_Manifest]) -> tuple[_Manifest, Seal]:
    """A manifest file, for callers who look at one whose seal is broken, too.

    Raises:
        BundleError: the file is missing, cut short, not ours, of another schema, or holds what no manifest may.
    """
    try:
        content, seal = opened(path.read_bytes())
    except OSError as failure:
        raise BundleError(
            f"got {str(path.parent)!r}, which has no readable {path.name}; expected a folder written by latentrt build"
        ) from failure
    return document_from_content(content, repr(str(path)), kind, schema=SCHEMA, error=BundleError, remedy=_REMEDY), seal


def check_seal(seal: Seal, path: Path) -> None:
    """Refuses a manifest file whose seal is broken.

    Raises:
        BundleError: with both digests.
    """
    fault = seal.fault(repr(str(path)))
    if fault is not None:
        raise BundleError(f"{fault}; undo the edit or build the bundle again; latentrt inspect still shows it")


def write_manifest(path: Path, manifest: ComponentsManifest | EngineManifest) -> None:
    """Writes a manifest as readable JSON, sealed."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    path.write_text(sealed(text), "utf-8", newline="\n")
