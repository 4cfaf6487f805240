"""The digest of an order: of all that decides its pictures, and so the name of their files."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.digests import FileDigests, json_digest, weights_digest
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.named_files import LORA_IN_PROMPT
from latentrt.runtime.serving.render.pictures import Pictures, with_pictures

_DIGITS = 20  # of a SHA-256: 80 bits
_SEED_DIGITS = 8  # 32 bits


class Digests:
    """Makes the digests of a file's orders, line by line.

    An order's digest depends on what it says, on the contents of its pictures, on the model's weights, schedule and
    defaults, and on the LoRAs, nets, upscalers, embeddings and wildcards that it may use; neither on its ``id``, its
    place in the file, nor on what draws it.
    """

    def __init__(self, catalog: Catalog, manifest: BundleManifest, pictures: Pictures) -> None:
        """Takes what orders may name, the manifest of the bundle that draws, and what reads pictures."""
        self._catalog, self._files, self._pictures = catalog, FileDigests(), pictures
        self._model = {
            "weights": weights_digest(manifest),
            "defaults": manifest.defaults.model_dump(mode="json"),
            "schedule": manifest.schedule.model_dump(mode="json"),
            "embeddings": sorted(map(self._files.of, catalog.embeddings.values())),
        }
        self._seen: Counter[str] = Counter()

    def seeds(self, request: Mapping[str, Any], pictures: int) -> list[int]:
        """Seeds for an order without any, one for each picture, the same in every run.

        They depend on the order and on how many equal ones stood above it, so equal lines give different pictures and
        a new line changes no other.
        """
        digest = self.of(request)
        self._seen[digest] += 1
        first = int(json_digest([digest, self._seen[digest]])[:_SEED_DIGITS], 16)
        return [(first + index) % (1 << 32) for index in range(pictures)]

    def of(self, request: Mapping[str, Any]) -> str:
        """The digest of an order.

        Args:
            request: it as JSON, without what is at its default, with absolute paths of pictures.

        Raises:
            RequestError: a picture's file cannot be read.
        """
        data = {
            "request": with_pictures(request, self._pictures.digest),
            "model": self._model,
            "files": self._named(request),
            "wildcards": self._below(self._catalog.wildcards) if request.get("wildcards") else None,
        }
        return json_digest(data)[:_DIGITS]

    def _named(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The files of the catalog whose names stand in an order, with their digests."""
        catalog = self._catalog
        files = {**catalog.loras, **catalog.nets, **catalog.upscalers}
        if not files:
            return {}
        texts = _texts(with_pictures(request, lambda text: ""))
        named = {*texts, *(name for text in texts for name in LORA_IN_PROMPT.findall(text))}
        return {name: self._digest(path) for name, path in sorted(files.items()) if name in named}

    def _digest(self, path: Path) -> str:
        """Of a file, of a bundle, or of all files of a LoRA's folder."""
        return self._files.of(path) or json_digest(self._below(path))

    def _below(self, folder: Path | None) -> list[Any]:
        """The files of a folder with their digests."""
        if folder is None:
            return []
        files = sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)
        return [[file.relative_to(folder).as_posix(), self._files.of(file)] for file in files]


def _texts(value: Any) -> list[str]:
    """All texts in JSON, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [*value, *(text for one in value.values() for text in _texts(one))]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []
