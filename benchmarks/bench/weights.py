"""What a bundle says of its U-Net's weights."""

import zlib
from pathlib import Path

from latentrt.benchmarks.report.schema import JudgedPictures, Layers, Weights
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest

_BLOCK = 1 << 22  # bytes
_AVERAGED = {"ema": True, "non-ema": False}  # as export/sources decides


def is_pruned(root: Path) -> bool:
    """Whether a bundle's U-Net has zeros among its weights."""
    return open_bundle(root).manifest.components[UNET].sparsity is not None


def weights_of_bundle(root: Path, *, zipped: bool) -> Weights:
    """Its own record, and sizes.

    Args:
        root: the bundle.
        zipped: whether to find out what a zip makes of the U-Net: a second or two for each 50 MB.

    Raises:
        BundleError: the folder is no bundle.
    """
    manifest = open_bundle(root).manifest
    component = Component(root=root, manifest=manifest, name=UNET)
    sparsity, quantization = component.record.sparsity, component.record.quantization
    decided = manifest.source.decisions.get("weights")
    return Weights(
        averaged=None if decided is None else _AVERAGED.get(decided.value),
        pruned=None
        if sparsity is None
        else Layers(done=sum(layer.pruned for layer in sparsity.layers.values()), of=len(sparsity.layers)),
        rounded=None
        if quantization is None
        else Layers(done=sum(node.rounded for node in quantization.nodes.values()), of=len(quantization.nodes)),
        bytes=component.onnx_bytes,
        zipped_bytes=_zipped_bytes(component) if zipped else None,
        judged=_judged(manifest),
    )


def _judged(manifest: BundleManifest) -> JudgedPictures | None:
    """The pictures that the build drew, with all that was done to the weights."""
    unet = manifest.components[UNET]
    record = unet.quantization or unet.sparsity or manifest.pictures
    if record is None:
        return None
    return JudgedPictures(
        pictures=record.pictures, steps=record.steps, psnr_mean=record.psnr_mean, psnr_worst=record.psnr_worst
    )


def _zipped_bytes(component: Component) -> int:
    """What deflate leaves of graph and weights."""
    left = 0
    for name in component.onnx_files:
        packer = zlib.compressobj()
        with (component.root / name).open("rb") as file:
            while block := file.read(_BLOCK):
                left += len(packer.compress(block))
        left += len(packer.flush())
    return left
