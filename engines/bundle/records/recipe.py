"""The recipes of int8."""

from enum import StrEnum

from latentrt.engines.bundle.kinds import ComponentKind


class Recipe(StrEnum):
    """How numbers become eight bits.

    ``u8s8``: unsigned activations with a zero point, signed weights per channel: ONNX Runtime's CPU kernels.
    ``u8s8-reduced``: the same with weights of seven bits, for AVX2 and AVX-512 without VNNI, whose sums of two products
    would saturate.
    ``u8s8-inputs``: as ``u8s8``, but results stay in floating point: OpenVINO has such convolutions.
    ``s8s8``: both signed and symmetric, which TensorRT wants.
    ``w8``: weights alone, signed and per channel; what is multiplied with them stays in floating point.
    """

    U8S8 = "u8s8"
    U8S8_REDUCED = "u8s8-reduced"
    U8S8_INPUTS = "u8s8-inputs"
    S8S8 = "s8s8"
    W8 = "w8"

    @property
    def symmetric(self) -> bool:
        """Whether activations have zero in the middle of their range."""
        return self is Recipe.S8S8

    @property
    def largest_weight(self) -> int:
        """The number that a channel's largest weight becomes."""
        return 64 if self is Recipe.U8S8_REDUCED else 127

    @property
    def components(self) -> tuple[str, ...]:
        """Components to quantize, in the order of drawing."""
        return tuple(
            kind for kind in ComponentKind if (kind.row.int8_on_gpu if self is Recipe.S8S8 else kind.row.int8_on_cpu)
        )

    @property
    def quantizes_outputs(self) -> frozenset[str]:
        """Operators whose results become eight bits, too: ONNX Runtime has no other int8 convolution on the CPU."""
        return frozenset({"Conv"}) if self in (Recipe.U8S8, Recipe.U8S8_REDUCED) else frozenset()
