"""Digests of what a picture depends on: the weights of a model, and files and bundles that are named beside it."""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, ComponentsManifest
from latentrt.engines.files import sha256_of_file


def json_digest(data: Mapping[str, Any] | list[Any]) -> str:
    """SHA-256 of data as JSON, whatever the order of its names."""
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def weights_digest(manifest: ComponentsManifest) -> str:
    """Of the names and contents of all files that a bundle's engines are compiled from."""
    return sha256(json.dumps(sorted((name, file.sha256) for name, file in manifest.files.items())).encode()).hexdigest()


class FileDigests:
    """Digests of files and bundles by their paths; each is read once."""

    def __init__(self) -> None:
        """Has read none."""
        self._digests: dict[str, str] = {}

    def of(self, path: str | Path) -> str:
        """SHA-256 of a file, or of a bundle's manifest, which has those of all its files; empty for others."""
        path = str(path)
        if path not in self._digests:
            names = (path, os.path.join(path, BUNDLE_FILE)) if path else ()
            file = next(filter(os.path.isfile, names), None)
            try:
                self._digests[path] = "" if file is None else sha256_of_file(Path(file))
            except OSError:  # what draws with it says what is wrong
                self._digests[path] = ""
        return self._digests[path]
