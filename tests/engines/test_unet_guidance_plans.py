"""Perturbed attentions and FreeU on TensorRT-RTX: drawn with on a stand-in device, as CPUs draw."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInRTX

import latentrt
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.precision import Backend

BACKEND = "tensorrt-rtx"


@pytest.mark.slow
def test_drawn_as_on_the_cpu(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes in a plan for two, of one picture and of two; without a plan it is said what makes one."""
    rtx = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, rtx)
    latentrt.build(tiny_copy, backend=BACKEND)
    common: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent"}
    wishes: list[dict[str, Any]] = [
        {"prompt": "a cat", "seed": 3, "pag_scale": 3.0, "freeu": latentrt.FreeU()},
        {"prompt": ["a", "b"], "seed": [1, 2], "pag_scale": 2.0, "pag_applied_layers": "up_blocks"},
        {"prompt": "a cat", "seed": 3},
    ]
    with (
        latentrt.open(tiny_copy, backend=BACKEND) as pipe,
        pytest.raises(latentrt.EngineError, match=r"--with perturbed-attention,freeu$"),
    ):
        pipe(**wishes[0], **common)
    latentrt.build(tiny_copy, backend=BACKEND, added="perturbed-attention,freeu")
    drawn = []
    for backend in (BACKEND, "ort-cpu"):
        with latentrt.open(tiny_copy, backend=backend, threads=1) as pipe:
            drawn.append([pipe(**wish, **common).latents for wish in wishes])
    for gpu, cpu in zip(*drawn, strict=True):
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-4 * np.abs(cpu).max())
    assert not rtx.driver.live
