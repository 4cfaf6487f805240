"""The numeric precision of a bundle's ONNX and the backends that run it."""

from enum import StrEnum


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


COMPUTE_BF16 = (Backend.OPENVINO, Backend.TENSORRT, Backend.TENSORRT_RTX)
"""The backends for bf16. ONNX Runtime's CPU provider has no bf16 arithmetic, its CUDA provider no norms in it."""

COMPUTE_FP8 = (Backend.TENSORRT, Backend.TENSORRT_RTX)
"""The backends for fp8, on GPUs of the architectures sm89 (Ada) and later: no CPU has products of such numbers."""

EIGHT_BITS = (Precision.INT8, Precision.FP8)
"""The precisions that are made by calibration, of bundles in fp32."""
