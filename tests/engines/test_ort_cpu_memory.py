"""Components that are too large to be optimised are saved as they are, and run the same."""

import shutil
from pathlib import Path

import pytest

import latentrt
from latentrt.engines import ort_cpu
from latentrt.engines.bundle import open_bundle
from latentrt.engines.cache import engines_in
from latentrt.engines.machine import available_memory


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_too_large_to_optimise(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The engine has the ONNX's weights and not a packed copy, passes its gate and draws."""
    folder = tmp_path / "new.bundle"
    latentrt.build(tiny_checkpoint, folder, precision=precision)
    sizes = []
    for memory in (available_memory(), 2**20):
        shutil.rmtree(folder / "engines")
        monkeypatch.setattr(ort_cpu, "available_memory", lambda memory=memory: memory)
        latentrt.build(folder)
        unet = next(engine for engine in engines_in(folder) if engine.component == "unet")
        assert unet.parity is not None
        sizes.append(sum(file.size for file in unet.files.values()))
    manifest = open_bundle(folder).manifest
    weights = manifest.components["unet"].weights
    assert weights is not None
    assert manifest.files[weights].size <= sizes[1] < 1.3 * manifest.files[weights].size
    assert sizes[1] < sizes[0]
    with latentrt.open(folder) as pipe:
        assert pipe("a cat", num_inference_steps=1, seed=1).images


def test_memory_is_told() -> None:
    """A number of bytes that a machine can have."""
    assert 2**26 < available_memory() <= 2**63
