"""The numeric precision of a bundle's ONNX and the backends that run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from latentrt.engines.errors import RequestError


class Precision(StrEnum):
    """Element type of a component's weights and arithmetic, as written in its ONNX.

    Inputs and outputs are float32 whatever the precision. bf16 has fp32's range and eight bits of mantissa. In int8 and
    in fp8 (E4M3: four bits of exponent, three of mantissa) are the U-Net's convolutions and matrix products, but for
    those that cost too much; the rest is fp32 on the CPU and fp16 on GPUs.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"


class Backend(StrEnum):
    """What runs the components: ONNX Runtime and OpenVINO on the CPU, OpenVINO on Intel's GPU or NPU, the others
    on an NVIDIA GPU.
    """

    ORT_CPU = "ort-cpu"
    ORT_CUDA = "ort-cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    OPENVINO = "openvino"
    OPENVINO_GPU = "openvino-gpu"
    OPENVINO_NPU = "openvino-npu"


NEVER_RUN = frozenset(
    {Backend.ORT_CUDA, Backend.TENSORRT, Backend.TENSORRT_RTX, Backend.OPENVINO_GPU, Backend.OPENVINO_NPU}
)
"""The backends that latentrt has been tested with on stand-ins for their device alone, never on the device."""

SKIPS_ZEROS = (Backend.TENSORRT, Backend.TENSORRT_RTX)
"""The backends whose kernels may leave out zeros of the pattern 2:4; all others multiply by them, too."""

EIGHT_BITS = (Precision.INT8, Precision.FP8)
"""The precisions that are made by calibration, of bundles in fp32."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Which backends compute in a precision, where not all do; the first is what nobody has to name."""

    backends: tuple[Backend, ...]
    remedy: str


COMPUTING: Mapping[Precision, Computing] = {
    # ONNX Runtime's CPU provider has no bf16 arithmetic, its CUDA provider no norms in it
    Precision.BF16: Computing(
        backends=(Backend.OPENVINO, Backend.TENSORRT, Backend.TENSORRT_RTX),
        remedy="build with --backend openvino for CPUs",
    ),
    # On GPUs from sm89 (Ada) on; no CPU has products of such numbers
    Precision.FP8: Computing(
        backends=(Backend.TENSORRT_RTX, Backend.TENSORRT),
        remedy="build with --backend tensorrt-rtx --gpu sm89, or in int8 for CPUs",
    ),
}


def computes(backend: Backend, precision: Precision) -> bool:
    """Whether a backend computes in a precision; int8 has more to it (``check_recipe``)."""
    return precision not in COMPUTING or backend in COMPUTING[precision].backends


def check_computes(backend: Backend, precision: Precision) -> None:
    """Refuses a precision where it is not computed.

    Raises:
        RequestError: naming the backends that do.
    """
    if not computes(backend, precision):
        *others, last = COMPUTING[precision].backends
        raise RequestError(
            f"got precision {precision} for backend {backend}, which does not compute it, expected "
            f"{', '.join(others)} or {last}; {COMPUTING[precision].remedy}"
        )


def usual_backend(precision: Precision) -> Backend:
    """The one for a precision where nobody names one: on the CPU, and exact, wherever there is such a one."""
    return COMPUTING[precision].backends[0] if precision in COMPUTING else Backend.ORT_CPU
