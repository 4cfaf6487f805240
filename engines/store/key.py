"""The name of a compiled engine: a digest of everything that it depends on."""

import hashlib
import json
from dataclasses import asdict, dataclass

from latentrt.engines.precision import Backend, Precision


@dataclass(frozen=True, kw_only=True)
class EngineIdentity:
    """What an engine is and where it runs. Engines of equal identity are interchangeable.

    ``machine`` is the CPU with its vector extensions, or the platform with the GPU's architecture, and its model
    where the engine is bound to that. ``shapes`` are the profiles it was compiled for; empty where it takes every size.
    """

    component: str
    onnx_sha256: str
    backend: Backend
    backend_version: str
    precision: Precision
    machine: str
    flags: tuple[tuple[str, str], ...]
    shapes: tuple[str, ...]

    @property
    def key(self) -> str:
        """The folder name under ``engines/``: 32 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]
