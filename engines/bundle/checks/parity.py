"""How close two arrays are, and the gates that a build must pass."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from latentrt.engines.bundle.kinds import ComponentKind, Planes
from latentrt.engines.errors import ParityError
from latentrt.engines.precision import EIGHT_BITS, Precision
from latentrt.engines.spec import Array


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Distance of a result to its reference: relative error ‖a−b‖/‖b‖ and PSNR in dB."""

    relative_error: float
    psnr: float

    def __str__(self) -> str:
        return f"relative error {self.relative_error:.1e}, PSNR {self.psnr:.1f} dB"

    def worse(self, other: "Parity") -> "Parity":
        """The worse of two, figure by figure; NaN counts as worst."""
        return Parity(
            relative_error=float(np.maximum(self.relative_error, other.relative_error)),
            psnr=float(np.minimum(self.psnr, other.psnr)),
        )


class Reference(StrEnum):
    """What a component is compared with: its torch module; or, where weights were changed without torch, its own ONNX.

    The latter is run as it is stored, not optimised for any machine.
    """

    TORCH = "torch"
    ONNX = "onnx"

    @property
    def label(self) -> str:
        """What sentences call it."""
        return "its torch module" if self is Reference.TORCH else "its own ONNX, not optimised"


# Identical arrays: JSON has no infinity, and fp32 figures end near 150 dB
EXACT = Parity(relative_error=0.0, psnr=999.0)

# An fp32 engine repeats torch's fp32 arithmetic in another order: 1e-7 to 1e-5 is what that leaves.
# fp16 rounds every weight and activation to 11 bits (5e-4): some 1e-3 are what a deep network makes of that. bf16 has 8
# bits (4e-3), and leaves some 1e-2.
GATES = {
    Precision.FP32: Parity(relative_error=1e-4, psnr=60.0),
    Precision.FP16: Parity(relative_error=1e-2, psnr=45.0),
    Precision.BF16: Parity(relative_error=1e-1, psnr=40.0),
    # What eight bits are good for, their pictures tell; this finds a broken engine, also on a machine that drew none
    Precision.INT8: Parity(relative_error=0.5, psnr=20.0),
    Precision.FP8: Parity(relative_error=0.5, psnr=20.0),
}


# ONNX Runtime's own group norms, which stay where the package onnx is not (see group_norm.py), take the variance of a
# whole picture's plane from two long sums: SDXL's decoder missed by 2.2e-4 at 512 pixels and by 1.4e-3 at 1024.
_SQUARE = 256 * 256
_GROWTH = 1.5


def gate_at(kind: ComponentKind, precision: Precision, pixels: int) -> Parity:
    """What a component of a kind must reach for pictures of so many pixels."""
    bound = GATES[precision]
    if kind.row.planes is Planes.LATENT:
        return bound
    if precision in EIGHT_BITS:  # of a grey picture, whose norm is small, any rounding is a large part
        return Parity(relative_error=1.0, psnr=bound.psnr)
    if precision is not Precision.FP32 or pixels <= _SQUARE:
        return bound
    return Parity(relative_error=bound.relative_error * (pixels / _SQUARE) ** _GROWTH, psnr=bound.psnr)


def psnr(result: Array, reference: Array, *, peak: float) -> float:
    """PSNR in dB of arrays of one shape, in float64: 20 · log10(peak / √(mean squared error)); infinity if equal."""
    difference = np.asarray(result, np.float64) - reference
    rms = float(np.linalg.norm(difference)) / math.sqrt(difference.size)
    if rms == 0.0:
        return math.inf
    return 20.0 * math.log10(peak / rms) if peak else -math.inf


def parity_of(result: Array, reference: Array) -> Parity:
    """Compares arrays of one shape, in float64.

    PSNR takes the reference's own range (maximum − minimum) as the peak, so that it means the same for
    pictures, latents and hidden states. Identical arrays have PSNR 999; a NaN or infinity in the result
    gives NaN figures, which no gate lets pass.
    """
    a = np.asarray(result, np.float64)
    b = np.asarray(reference, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return Parity(relative_error=math.nan, psnr=math.nan)
    error = float(np.linalg.norm(a - b))
    if error == 0.0:
        return EXACT
    norm = float(np.linalg.norm(b))
    return Parity(
        relative_error=error / norm if norm else math.inf,
        psnr=psnr(a, b, peak=float(b.max() - b.min())),
    )


def gate(
    component: str,
    kind: ComponentKind,
    parity: Parity,
    precision: Precision,
    pixels: int = _SQUARE,
    reference: Reference = Reference.TORCH,
) -> None:
    """Lets a component pass or fails the build; ``pixels`` are those of the largest picture that was compared.

    Raises:
        ParityError: naming the component and the figures.
    """
    bound = gate_at(kind, precision, pixels)
    if parity.relative_error <= bound.relative_error and parity.psnr >= bound.psnr:
        return
    remedy = "check the versions of the libraries that built and run it"
    if precision in (Precision.FP16, Precision.BF16):
        command = f"latentrt debug --component {component} --precision {precision}"
        remedy = f"find where it begins with {command} on the model's bundle in fp32"
    raise ParityError(
        f"{component} ({precision}) differs from {reference.label}: got {parity}, expected a relative error of at "
        f"most {bound.relative_error:.1g} and a PSNR of at least {bound.psnr:.0f} dB; {remedy}"
    )
