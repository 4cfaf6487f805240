"""The recipes of eight bits."""

from enum import StrEnum

from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.number_format import E4M3, INT8, NumberFormat


class Recipe(StrEnum):
    """How numbers become eight bits.

    ``u8s8``: unsigned activations with a zero point, signed weights per channel: ONNX Runtime's CPU kernels.
    ``u8s8-reduced``: the same with weights of seven bits, for AVX2 and AVX-512 without VNNI, whose sums of two products
    would saturate.
    ``u8s8-inputs``: as ``u8s8``, but results stay in floating point: OpenVINO has such convolutions.
    ``s8s8``: both signed and symmetric, which TensorRT wants.
    ``e4m3``: both in floating point of four bits of exponent and three of mantissa, for TensorRT.
    ``w8``: weights alone, signed and per channel; what is multiplied with them stays in floating point.
    """

    U8S8 = "u8s8"
    U8S8_REDUCED = "u8s8-reduced"
    U8S8_INPUTS = "u8s8-inputs"
    S8S8 = "s8s8"
    E4M3 = "e4m3"
    W8 = "w8"

    @property
    def symmetric(self) -> bool:
        """Whether activations have zero in the middle of their range, as it is on GPUs."""
        return self in (Recipe.S8S8, Recipe.E4M3)

    @property
    def numbers(self) -> NumberFormat:
        """What weights are rounded to; activations, too, where they are symmetric."""
        return E4M3 if self is Recipe.E4M3 else INT8

    @property
    def rounds_attention(self) -> bool:
        """Whether attention may be rounded, too."""
        return self is Recipe.E4M3

    @property
    def largest_weight(self) -> int:
        """The number that a channel's largest weight becomes."""
        return 64 if self is Recipe.U8S8_REDUCED else self.numbers.largest

    @property
    def components(self) -> tuple[str, ...]:
        """Components to quantize, in the order of drawing."""
        return tuple(
            kind
            for kind in ComponentKind
            if (kind.row.quantized_on_gpu if self.symmetric else kind.row.quantized_on_cpu)
        )

    @property
    def quantizes_outputs(self) -> frozenset[str]:
        """Operators whose results become eight bits, too: ONNX Runtime has no other int8 convolution on the CPU."""
        return frozenset({"Conv"}) if self in (Recipe.U8S8, Recipe.U8S8_REDUCED) else frozenset()
