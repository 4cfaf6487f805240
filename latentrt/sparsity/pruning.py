"""A pruning in progress: the U-Net, its layers, the settings, and what an earlier attempt left."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.engines.backends.ort_cpu.model import version as onnxruntime_version
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.pruning.layers import PrunableLayer, Pruned, prunable_layers
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.calibration import check_prompts
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.quantization import QuantizableComponent
from latentrt.sparsity.settings import SparsitySettings

_ALGORITHM = 1  # counted up when other code would come to other results
_PRUNED_IN = (Precision.FP32, Precision.FP16)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One bundle's U-Net on its way to 2:4."""

    base: Bundle
    settings: SparsitySettings
    unet: QuantizableComponent
    weights: ComponentWeights
    layers: tuple[PrunableLayer, ...]
    checkpoints: Checkpoints
    progress: Progress

    @property
    def components(self) -> tuple[QuantizableComponent, ...]:
        """What is watched while calibrating."""
        return (self.unet,)

    def changes(self, layers: Iterable[PrunableLayer], pruned: Mapping[str, Pruned]) -> Changes:
        """What pruning some layers changes; ``pruned`` are by path."""
        weights = {layer.weight: pruned[layer.path] for layer in layers}
        key = " ".join(f"{name} {how.criterion}" for name, how in sorted(weights.items()))
        return Changes(key=hashlib.sha256(key.encode()).hexdigest(), weights=weights)

    def engine(self, engines: OpenComponents[Bundle], changes: Changes | None = None) -> Engine:
        """The U-Net at the first profile's size."""
        return engines.engine(UNET, Shapes(profile=self.base.manifest.profiles[0]), changes)


def pruning_of_bundle(base: Bundle, settings: SparsitySettings, work: Path, progress: Progress) -> Pruning:
    """Reads the U-Net of a bundle that shall be pruned.

    Args:
        base: a bundle with engines for the CPU.
        settings: what the result must reach.
        work: a folder for results that outlive the process.
        progress: receives the stages.

    Raises:
        RequestError: a U-Net that is pruned already or in another precision than fp32 and fp16, or a prompt without
            tokens.
    """
    check_dense(base)
    check_prompts(base, settings.calibration.prompts)
    component = Component(root=base.root, manifest=base.manifest, name=UNET)
    graph, weights = OnnxWeights(component.onnx), base.weights(UNET)
    fingerprint = {
        "base": base.manifest.model_dump(mode="json", include={"files", "schedule", "defaults", "conditioning"}),
        "profile": str(base.manifest.profiles[0]),
        "calibration": settings.calibration.sha256,
        "effort": str(settings.effort),
        "pattern": settings.pattern,
        "made by": [_ALGORITHM, np.__version__, onnxruntime_version()],
    }
    return Pruning(
        base=base,
        settings=settings,
        unet=QuantizableComponent(
            component=component,
            weights=graph,
            nodes=graph.quantizable(),
            spec=component.spec_of_any_batch(Shapes(profile=base.manifest.profiles[0])),
        ),
        weights=weights,
        layers=tuple(prunable_layers(graph, weights)),
        checkpoints=Checkpoints(work / "pruning", fingerprint),
        progress=progress,
    )


def check_not_pruned(bundle: Bundle, asked: str, beside: str = "") -> None:
    """Refuses to make of a pruned bundle what is judged by the pictures of all weights.

    Args:
        bundle: it.
        asked: what was asked of it.
        beside: what to ask for beside that of the bundle with all weights.

    Raises:
        RequestError: it is pruned.
    """
    sparsity = bundle.manifest.components[UNET].sparsity
    if sparsity is not None:
        raise RequestError(
            f"got {asked} for {str(bundle.root)!r}, whose U-Net is pruned to {sparsity.pattern}, expected a bundle "
            f"with all its weights; build from the one that it was made of{beside}"
        )


def check_dense(base: Bundle) -> None:
    """Refuses a bundle that cannot be pruned.

    Raises:
        RequestError: its U-Net is pruned already, or in another precision than fp32 and fp16.
    """
    unet = base.manifest.components[UNET]
    if unet.sparsity is not None:
        raise RequestError(
            f"got a bundle whose U-Net is pruned already ({unet.sparsity.pattern}), expected all of its weights; build "
            "from the model, or from the bundle that it was made of"
        )
    if unet.precision not in _PRUNED_IN:
        raise RequestError(
            f"got a bundle whose U-Net is {unet.precision}, expected fp32 or fp16 to prune; build from the model, or "
            "from its bundle in fp32"
        )
