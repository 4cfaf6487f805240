"""TensorRT-RTX's compiled kernels of a plan, kept for the next time that it is opened on this machine."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentrt.engines.backends.cuda import Driver
from latentrt.engines.bundle.records.manifests.engine_manifest import LEFT_BY_RUNS
from latentrt.engines.errors import OutputError
from latentrt.engines.files import user_cache, write_file

_DIGEST_BYTES = hashlib.sha256().digest_size


class KernelCache:
    """The runtime cache that all contexts of a plan share, and its file.

    A plan of TensorRT-RTX holds no kernels: a context compiles them for the GPU that is present. They lie beside the
    plan, by the GPU's model, so the folder's name is their key; in the user's cache folder where that cannot be
    written. TensorRT-RTX itself refuses what another version, GPU or driver compiled; a digest refuses what was cut off
    or altered. What is refused is compiled again, and replaced.
    """

    def __init__(self, plan: Path, driver: Driver) -> None:
        """Reads nothing yet.

        Args:
            plan: the file, in the folder of its key.
            driver: the device.
        """
        name = re.sub(r"[^A-Za-z0-9.]+", "-", driver.model()).strip("-")
        self._places = (
            plan.with_name(f"kernels-{name}{LEFT_BY_RUNS}"),
            user_cache() / "kernels" / f"{plan.parent.name}-{name}{LEFT_BY_RUNS}",
        )
        self._cache: Any = None
        self._kept_bytes = 0

    def use(self, config: Any) -> None:
        """Lets a context of this configuration take its kernels from the cache, and leave there what it compiles."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._read(self._cache)
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Writes the kernels where they have become more; where no place can be written, the next opening compiles."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()
        if serialized is None or serialized.nbytes <= self._kept_bytes:
            return
        content = bytes(memoryview(serialized))
        self._kept_bytes = len(content)
        for path in self._places:
            with suppress(OSError, OutputError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, lambda partial: partial.write_bytes(hashlib.sha256(content).digest() + content))
                return

    def close(self) -> None:
        """Lets go of TensorRT's cache."""
        self._cache = None

    def _read(self, cache: Any) -> None:
        for path in self._places:
            content = b""
            with suppress(OSError):
                content = path.read_bytes()
            digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if kernels and hashlib.sha256(kernels).digest() == digest and cache.deserialize(kernels):
                self._kept_bytes = len(kernels)
                return
