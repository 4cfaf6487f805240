"""IP-Adapters on TensorRT-RTX: drawn with on a stand-in device, and their plans really built."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import StandInRTX

import latentrt
from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_addon
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import IMAGE_ENCODER, PROJECTION
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend

BACKEND = "tensorrt-rtx"


@pytest.mark.slow
def test_drawn_as_on_the_cpu(
    tiny_copy: Path, adapter_bundle: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two adapters of 4 and 8 tokens in a plan for 16, with a mask; one whose tokens do not go into it is refused."""
    rtx = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, rtx)
    adapters = {}
    for kind in ("base", "plus", "full"):
        adapters[kind] = Path(shutil.copytree(adapter_bundle("sd1", kind), tmp_path / f"{kind}.bundle"))
        latentrt.build(adapters[kind], backend=BACKEND)
    latentrt.build(tiny_copy, backend=BACKEND, added="image-prompt")
    seen = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8))
    mask = np.zeros((32, 32), bool)
    mask[:, 7:20] = True
    drawn = []
    for backend in (BACKEND, "ort-cpu"):
        with latentrt.open(tiny_copy, backend=backend, threads=1) as pipe:
            prompts = [
                latentrt.ImagePrompt(adapters["base"], seen, mask=mask),
                latentrt.ImagePrompt(adapters["plus"], seen, scale=0.7, end=0.5),
            ]
            drawn.append(pipe("a cat", num_inference_steps=4, seed=3, output_type="latent", image_prompt=prompts))
            if backend == BACKEND:
                with pytest.raises(latentrt.RequestError, match="17 tokens"):
                    pipe("a cat", num_inference_steps=1, image_prompt=latentrt.ImagePrompt(adapters["full"], seen))
    gpu, cpu = (result.latents for result in drawn)
    np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-4 * np.abs(cpu).max())
    assert not rtx.driver.live


@pytest.mark.parametrize("kind", ["base", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("plus", "full"))])
def test_plans_are_built(adapter_bundle: Callable[[str, str], Path], kind: str, tmp_path: Path) -> None:
    """By TensorRT-RTX, for a GPU that is not here."""
    pytest.importorskip("tensorrt_rtx")
    root = adapter_bundle("sd1", kind)
    for name in (IMAGE_ENCODER, PROJECTION):
        component = Component(root=root, manifest=open_addon(root).manifest, name=name)
        (tmp_path / name).mkdir()
        contents = TensorRTRTX().compile(component, Target(machine=gpu_machine("sm89")), tmp_path / name, None)
        assert contents is not None
        for got, static in zip(contents.shapes, component.static_shapes, strict=True):
            for side in ("inputs", "outputs"):
                shapes = {key: record.shape for key, record in getattr(got, side).items()}
                tensors = getattr(static.spec, side)
                assert shapes == {key: tensor.sized(static.spec.batches[0]) for key, tensor in tensors.items()}
