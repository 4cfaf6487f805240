"""What a benchmark reads from bundles about their weights."""

from pathlib import Path

from latentrt.benchmarks.bench.weights import is_pruned, weights_of_bundle
from latentrt.engines.bundle.bundle import open_bundle


def test_all_weights(tiny_bundle: Path) -> None:
    """Nothing was done, and no pictures were judged; the size is that of graph and weights."""
    weights, manifest = weights_of_bundle(tiny_bundle, zipped=False), open_bundle(tiny_bundle).manifest
    unet = manifest.components["unet"]
    assert not weights.changed
    assert (weights.pruned, weights.rounded, weights.averaged, weights.zipped_bytes, weights.judged) == (None,) * 5
    assert weights.bytes == sum(manifest.files[name].size for name in (unet.onnx, unet.weights) if name)
    assert not is_pruned(tiny_bundle)


def test_zeros(pruned_bundle: Path, tiny_bundle: Path) -> None:
    """The same size, smaller in a zip; pictures as the build judged them."""
    weights, whole = weights_of_bundle(pruned_bundle, zipped=True), weights_of_bundle(tiny_bundle, zipped=True)
    record = open_bundle(pruned_bundle).manifest.components["unet"].sparsity
    assert record is not None
    assert is_pruned(pruned_bundle)
    assert weights.pruned is not None
    assert weights.pruned.done == weights.pruned.of == len(record.layers)
    assert weights.bytes == whole.bytes
    assert weights.zipped_bytes is not None
    assert whole.zipped_bytes is not None
    assert weights.zipped_bytes < 0.8 * whole.zipped_bytes
    assert weights.judged is not None
    assert (weights.judged.psnr_mean, weights.judged.psnr_worst) == (record.psnr_mean, record.psnr_worst)
    assert (weights.judged.pictures, weights.judged.steps) == (record.pictures, record.steps)


def test_eight_bits(int8_bundle: Path) -> None:
    """As many layers as the record says."""
    weights, manifest = weights_of_bundle(int8_bundle, zipped=False), open_bundle(int8_bundle).manifest
    record = manifest.components["unet"].quantization
    assert record is not None
    assert weights.rounded is not None
    assert (weights.rounded.done, weights.rounded.of) == (
        sum(node.rounded for node in record.nodes.values()),
        len(record.nodes),
    )
    assert weights.pruned is None
    assert weights.judged is not None
    assert weights.judged.psnr_mean == record.psnr_mean
