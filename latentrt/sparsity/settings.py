"""What is asked of a build with zeros among its weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from latentrt.engines.bundle.records.sparsity import Sparsity, SparsityRecord
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Precision
from latentrt.prompt_files import prompts_from_file
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.psnr import EXACT
from latentrt.quantization.settings import EFFORT, QUALITY, Effort
from latentrt.quantization.subjects import DrawnModel

# dB above the quality that pruned and rounded pictures must have: pruning may make half of their error
_MARGIN = 3.0


@dataclass(frozen=True, kw_only=True)
class SparsitySettings:
    """What pruning must reach, and what it draws.

    ``quality`` is the mean PSNR in dB that pictures must have against those with all weights; the worst picture may be
    8 dB below.
    """

    pattern: Sparsity
    calibration: CalibrationSet
    effort: Effort
    quality: float

    @property
    def pictures(self) -> int:
        """How many pictures are judged."""
        return self.calibration.pictures(self.effort.pictures)

    def made(self, record: SparsityRecord | None) -> bool:
        """Whether a component was pruned by these."""
        return record is not None and (
            record.pattern,
            record.prompts_sha256,
            record.pictures,
            record.quality,
        ) == (self.pattern, self.calibration.sha256, self.pictures, self.quality)

    def leaving_room(self) -> Self:
        """The settings where rounding follows, and both together must reach the quality."""
        return replace(self, quality=min(self.quality + _MARGIN, EXACT))


@dataclass(frozen=True, kw_only=True)
class SparsityRequest:
    """What a caller asked of pruning; None stands for the defaults."""

    pattern: Sparsity
    prompts: tuple[str, ...] | None
    quality: float | None
    effort: Effort

    def settings(self, model: DrawnModel) -> SparsitySettings:
        """The settings for a model.

        Raises:
            RequestError: prompts for a model that reads none.
        """
        calibration = CalibrationSet(
            prompts=model.subjects(self.prompts), steps=min(model.steps, self.effort.steps), frames=model.frames
        )
        quality = QUALITY if self.quality is None else self.quality
        return SparsitySettings(pattern=self.pattern, calibration=calibration, effort=self.effort, quality=quality)


def sparsity_request_from_arguments(
    sparsity: Sparsity | None, precision: Precision | None, prompts: str | Path | None, quality: float | None
) -> SparsityRequest | None:
    """What is asked of pruning, checked; None where nothing is.

    Raises:
        RequestError: a precision whose pictures cannot be judged, a quality out of range, prompts that cannot be read.
    """
    if sparsity is None:
        return None
    if precision is Precision.BF16:
        raise RequestError(
            f"got sparsity {sparsity} for precision bf16, expected fp32, fp16 or one of eight bits; choose among these"
        )
    if quality is not None and not 0.0 < quality < EXACT:
        raise RequestError(
            f"got quality {quality:g} dB, expected above 0 and below {EXACT:g}; ask for {QUALITY:g} or a value near it"
        )
    return SparsityRequest(
        pattern=sparsity,
        prompts=None if prompts is None else prompts_from_file(Path(prompts)),
        quality=quality,
        effort=EFFORT,
    )
