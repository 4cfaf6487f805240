"""The name of a compiled engine: a digest of everything that it depends on."""

import hashlib
import json
from collections.abc import Mapping

from latentrt.engines.manifest import BundleManifest
from latentrt.engines.precision import Backend, Precision


def onnx_digest(manifest: BundleManifest, component: str) -> str:
    """SHA-256 over the digests of a component's graph and weights."""
    record = manifest.components[component]
    names = [record.onnx] + ([record.weights] if record.weights else [])
    return hashlib.sha256(" ".join(manifest.files[name].sha256 for name in names).encode()).hexdigest()


def engine_key(
    *,
    component: str,
    onnx_sha256: str,
    backend: Backend,
    backend_version: str,
    precision: Precision,
    machine: str,
    flags: Mapping[str, str],
) -> str:
    """The folder name under ``engines/``: 32 hex digits. Equal keys mean interchangeable engines."""
    parts = [
        component,
        onnx_sha256,
        backend,
        backend_version,
        precision,
        machine,
        dict(sorted(flags.items())),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
