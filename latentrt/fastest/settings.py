"""What is asked of a build for speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.bf16.settings import Bf16Request
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend, Precision
from latentrt.fastest.candidates import EXACT
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.settings import QUALITY, QuantizationRequest, quantization_request_from_arguments
from latentrt.quantization.subjects import drawn_model_of


@dataclass(frozen=True, kw_only=True)
class SpeedRequest:
    """What a caller asked of a build for speed; None stands for the defaults.

    ``quality`` is the mean PSNR in dB that pictures must have against the exact engine's.
    """

    prompts: str | Path | None
    quality: float | None
    int8: QuantizationRequest

    @property
    def bf16(self) -> Bf16Request:
        """What is asked of bf16: the same as of all."""
        return Bf16Request(prompts=self.int8.prompts, quality=self.required, effort=self.int8.effort)

    @property
    def required(self) -> float:
        """The mean PSNR in dB that is required: by default int8's, so that int8 may win."""
        return QUALITY if self.quality is None else self.quality

    def calibration(self, bundle: Bundle) -> CalibrationSet:
        """The pictures to time and to judge by, of a bundle's model."""
        return self.int8.settings(drawn_model_of(bundle.manifest)).calibration

    def rounded_for(self, precision: Precision, backend: Backend) -> QuantizationRequest:
        """What is asked of int8 or fp8 for a backend.

        Raises:
            RequestError: a backend without it.
        """
        request = quantization_request_from_arguments(precision, backend, self.prompts, self.quality)
        assert request is not None
        return request


def speed_request_from_arguments(
    prompts: str | Path | None, quality: float | None, *, besides: Sequence[str]
) -> SpeedRequest:
    """What is asked of a build for speed, checked.

    Args:
        prompts: a file of calibration prompts.
        quality: the mean PSNR in dB that is required.
        besides: options that were given and that a build for speed answers itself.

    Raises:
        RequestError: such options, a quality out of range, or prompts that cannot be read.
    """
    if besides:
        raise RequestError(
            f"got {', '.join(besides)} beside fastest, which tries every precision and backend of this machine; leave "
            "either out"
        )
    # Prompts and quality mean for all that is tried what they mean for int8
    int8 = quantization_request_from_arguments(Precision.INT8, EXACT.backend, prompts, quality)
    assert int8 is not None
    return SpeedRequest(prompts=prompts, quality=quality, int8=int8)
