"""The gate that every component passes, and the alignment of packed weights."""

import math
from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.backends.ort_cpu.compile import _packing_aligned
from latentrt.engines.bundle.checks.parity import EXACT, Parity, gate, parity_of
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.errors import ParityError
from latentrt.engines.precision import Precision

REFERENCE = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)


def test_equal_arrays_are_exact() -> None:
    """No error, infinite PSNR; and the gate lets them pass."""
    assert parity_of(REFERENCE, REFERENCE.copy()) == EXACT
    gate("unet", ComponentKind.UNET, EXACT, Precision.FP32)


def test_figures_are_those_of_their_definitions() -> None:
    """A hundredth more everywhere: 1 % relative error, PSNR from range and mean square."""
    parity = parity_of(REFERENCE * np.float32(1.01), REFERENCE)
    assert parity.relative_error == pytest.approx(0.01, rel=1e-3)
    mse = float(np.mean((REFERENCE.astype(float) * 0.01) ** 2))
    assert parity.psnr == pytest.approx(10 * math.log10(np.ptp(REFERENCE) ** 2 / mse), abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_one_wrong_value_fails(value: float) -> None:
    """The component and the gate are named."""
    result = REFERENCE.copy()
    result[0, 0, 0, 0] = value
    with pytest.raises(ParityError, match=r"vae_decoder \(fp32\).*expected a relative error of at most 0.0001"):
        gate("vae_decoder", ComponentKind.VAE_DECODER, parity_of(result, REFERENCE), Precision.FP32)


@pytest.mark.parametrize(
    "result", [REFERENCE[:1], REFERENCE * 0, REFERENCE.swapaxes(2, 3), REFERENCE * np.float32(1.001)]
)
def test_wrong_outputs_fail(result: np.ndarray) -> None:
    """Cut, empty, transposed, off by a thousandth."""
    with pytest.raises(ParityError, match="unet"):
        gate("unet", ComponentKind.UNET, parity_of(result, REFERENCE), Precision.FP32)


def test_nan_stays_the_worst() -> None:
    """Whatever it is combined with."""
    broken = parity_of(REFERENCE * np.nan, REFERENCE)
    for worst in (broken.worse(EXACT), EXACT.worse(broken)):
        with pytest.raises(ParityError):
            gate("unet", ComponentKind.UNET, worst, Precision.FP32)


@pytest.mark.parametrize(
    ("places", "aligned"),
    [
        (b"no packed weights", True),
        (b"MatMul+1234|0;4096;x MatMul+56|4096;64;", True),
        (b"MatMul+1234|0;4096;x MatMul+56|4100;64;", False),
    ],
)
def test_packed_weights_must_lie_aligned(tmp_path: Path, places: bytes, aligned: bool) -> None:
    """Where ONNX Runtime would end the process."""
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a" + places + b"\x00")
    assert _packing_aligned(tmp_path / "model.onnx") is aligned


def test_large_pictures_of_the_autoencoder_may_differ_more_in_fp32() -> None:
    """By a power of their pixels; small ones, other components and fp16 have one bound."""
    error = Parity(relative_error=1.4e-3, psnr=88.0)
    gate("vae_decoder", ComponentKind.VAE_DECODER, error, Precision.FP32, 1024 * 1024)
    with pytest.raises(ParityError, match=r"at most 0\.006"):
        gate(
            "vae_decoder",
            ComponentKind.VAE_DECODER,
            Parity(relative_error=7e-3, psnr=88.0),
            Precision.FP32,
            1024 * 1024,
        )
    for component, pixels in (("vae_decoder", 256 * 256), ("unet", 1024 * 1024)):
        with pytest.raises(ParityError, match=r"at most 0\.0001"):
            gate(component, ComponentKind(component), error, Precision.FP32, pixels)
    with pytest.raises(ParityError, match=r"at most 0\.01"):
        gate("unet", ComponentKind.UNET, Parity(relative_error=2e-2, psnr=95.0), Precision.FP16, 2048 * 2048)


def test_a_grey_picture_may_differ_more_in_int8() -> None:
    """Its norm is small, and its PSNR tells; of a U-Net's prediction the norm tells."""
    grey = Parity(relative_error=0.9, psnr=31.0)
    gate("vae_decoder", ComponentKind.VAE_DECODER, grey, Precision.INT8)
    with pytest.raises(ParityError, match=r"at most 0\.5"):
        gate("unet", ComponentKind.UNET, grey, Precision.INT8)
    with pytest.raises(ParityError, match="at least 20 dB"):
        gate("vae_decoder", ComponentKind.VAE_DECODER, Parity(relative_error=0.1, psnr=19.0), Precision.INT8)
