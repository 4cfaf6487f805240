"""What is asked of a bf16 build, and how much it draws."""

from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.bundle.records.pictures import PicturesRecord
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Precision
from latentrt.prompt_files import prompts_from_file
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.psnr import EXACT
from latentrt.quantization.settings import EFFORT, Effort
from latentrt.quantization.subjects import DrawnModel

QUALITY = 40.0  # dB


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What bf16 pictures must reach, and which are drawn.

    ``quality`` is the mean PSNR in dB that they must have against the fp32 engine's; the worst may be 8 dB below.
    """

    calibration: CalibrationSet
    pictures: int
    quality: float

    def made(self, record: PicturesRecord | None) -> bool:
        """Whether a bundle was judged by these."""
        return record is not None and (record.prompts_sha256, record.pictures, record.quality) == (
            self.calibration.sha256,
            self.pictures,
            self.quality,
        )


@dataclass(frozen=True, kw_only=True)
class Bf16Request:
    """What a caller asked of bf16; None stands for the defaults."""

    prompts: tuple[str, ...] | None
    quality: float | None
    effort: Effort

    def settings(self, model: DrawnModel) -> PictureSettings:
        """The settings for a model.

        Raises:
            RequestError: prompts for a model that reads none.
        """
        calibration = CalibrationSet(
            prompts=model.subjects(self.prompts), steps=min(model.steps, self.effort.steps), frames=model.frames
        )
        return PictureSettings(
            calibration=calibration,
            pictures=calibration.pictures(self.effort.pictures),
            quality=QUALITY if self.quality is None else self.quality,
        )


def bf16_request_from_arguments(
    precision: Precision | None, prompts: str | Path | None, quality: float | None
) -> Bf16Request | None:
    """What is asked of bf16, checked; None for other precisions.

    Raises:
        RequestError: a quality out of range, or prompts that cannot be read.
    """
    if precision is not Precision.BF16:
        return None
    if quality is not None and not 0.0 < quality < EXACT:
        raise RequestError(
            f"got quality {quality:g} dB, expected above 0 and below {EXACT:g}; ask for {QUALITY:g} or a value near it"
        )
    return Bf16Request(
        prompts=None if prompts is None else prompts_from_file(Path(prompts)), quality=quality, effort=EFFORT
    )
