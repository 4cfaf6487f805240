"""Of an engine of ours: the U-Net's, opened once more beside whatever is open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.bench.machine.operators import unet_trace
from latentrt.benchmarks.peers.arithmetic.onnx_trace import arithmetic_of_trace
from latentrt.benchmarks.peers.arithmetic.openvino_nodes import arithmetic_of_compiled
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import profile_for_size
from latentrt.engines.store.store import compiled_folder


def arithmetic_of_engine(
    root: Path, backend: str, request: Mapping[str, Any], *, threads: int | None
) -> Mapping[str, Any] | None:
    """What a bundle's U-Net computes in on a backend; None where its builder does not tell.

    Args:
        root: the bundle.
        backend: of the engine.
        request: a draw, as workers take it.
        threads: of a call; None takes one per core.

    Raises:
        BundleError: the engine is damaged.
        EngineError: there is none, or it does not run.
    """
    bundle = open_bundle(root)
    if backend == Backend.ORT_CPU:
        manifest = bundle.manifest
        profile = profile_for_size(
            manifest.profiles, request["width"], request["height"], multiple=manifest.pixel_multiple
        )
        batch = manifest.components["unet"].batch_per_picture if request["guidance"] > 1 else 1
        return arithmetic_of_trace(unet_trace(bundle, profile, batch, threads=threads, calls=1))
    return _of_openvino(bundle, threads) if backend == Backend.OPENVINO else None


def _of_openvino(bundle: Bundle, threads: int | None) -> Mapping[str, Any]:
    """Of the graph that is drawn with most."""
    from latentrt.engines.backends.openvino.model import OpenVinoModel

    component = Component(root=bundle.root, manifest=bundle.manifest, name="unet")
    model = OpenVinoModel(component, compiled_folder(component, Backend.OPENVINO), threads=threads)
    model.open_first()
    try:
        return arithmetic_of_compiled(model.compiled[0])
    finally:
        model.close()
