"""What a build for speed may keep: precisions, each on a backend that computes in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.errors import EngineError
from latentrt.engines.machine import computes_fp8, gpu_of_machine
from latentrt.engines.precision import Backend, Precision

# A backend is tried in what it computes in: halved weights, which ONNX Runtime's CPU kernels widen, gain nothing there
_COMPUTES: Mapping[Backend, tuple[Precision, ...]] = {
    Backend.ORT_CPU: (Precision.FP32, Precision.INT8),
    Backend.OPENVINO: (Precision.FP32, Precision.BF16, Precision.INT8),
    Backend.ORT_CUDA: (Precision.FP32, Precision.FP16),
    Backend.TENSORRT: (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8),
    Backend.TENSORRT_RTX: (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8),
}
_ON_CPUS = (Backend.ORT_CPU, Backend.OPENVINO)
# The mean PSNR in dB from which on no bundle of a precision is known to get there. The time that a try takes counts
_OUT_OF_REACH: Mapping[Precision, float] = {
    Precision.FP16: 60.0,
    Precision.BF16: 60.0,
    Precision.INT8: 40.0,
    Precision.FP8: 40.0,
}
# Exact ones first, and what takes longest to make last
_ORDER = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.FP8, Precision.INT8)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A precision on a backend."""

    precision: Precision
    backend: Backend

    def __str__(self) -> str:
        """As in ``bf16 on openvino``."""
        return f"{self.precision} on {self.backend}"


EXACT = Candidate(precision=Precision.FP32, backend=Backend.ORT_CPU)
"""What runs everywhere, and what other precisions are made of."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is tried, the exact ones first, and what is not, with the reasons."""

    tried: tuple[Candidate, ...]
    left_out: Mapping[Candidate, str]


def candidates_here(quality: float) -> Candidates:
    """What may be tried on this machine.

    Args:
        quality: the mean PSNR in dB that pictures must have.
    """
    known = [backend for backend in COMPILERS if backend in _COMPUTES]
    absent = {backend: reason for backend in known if (reason := _why_absent(backend)) is not None}
    graphics = [backend for backend in known if backend not in absent and backend not in _ON_CPUS]
    tried, left_out = [], {}
    for candidate in _all():
        precision, backend = candidate.precision, candidate.backend
        limit = _OUT_OF_REACH.get(precision)
        if backend in absent:
            left_out[candidate] = absent[backend]
        elif graphics and backend in _ON_CPUS and candidate != EXACT:
            left_out[candidate] = f"this machine has a GPU that {graphics[0]} runs on"
        elif not _computes(candidate):
            left_out[candidate] = f"this machine has no arithmetic in {precision}"
        elif limit is not None and quality >= limit:
            left_out[candidate] = f"pictures in {precision} are not known to reach {limit:g} dB"
        else:
            tried.append(candidate)
    return Candidates(tried=tuple(tried), left_out=left_out)


def versions_of(candidates: Sequence[Candidate]) -> dict[str, str]:
    """The versions of the libraries behind candidates that may be tried, by backend."""
    return {backend.value: COMPILERS[backend].version() for backend in sorted({one.backend for one in candidates})}


def _all() -> list[Candidate]:
    return [
        Candidate(precision=precision, backend=backend)
        for precision in _ORDER
        for backend in COMPILERS
        if precision in _COMPUTES.get(backend, ())
    ]


def _computes(candidate: Candidate) -> bool:
    """Whether a backend that runs here has the arithmetic of a precision here.

    OpenVINO takes bf16 for fp32 without it, and GPUs before Ada have no fp8.
    """
    if candidate.precision is Precision.FP8:
        return computes_fp8(gpu_of_machine(COMPILERS[candidate.backend].here()))
    if candidate != Candidate(precision=Precision.BF16, backend=Backend.OPENVINO):
        return True
    from latentrt.engines.backends.openvino.library import computes_bf16

    return computes_bf16()


def _why_absent(backend: Backend) -> str | None:
    """Why a backend cannot run here; None where it can."""
    try:
        COMPILERS[backend].version()
        COMPILERS[backend].here()
    except EngineError as error:
        return str(error)
    return None
