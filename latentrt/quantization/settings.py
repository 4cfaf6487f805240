"""What is asked of a build in eight bits, and how much work it may take."""

from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.engines.backends.ort_cpu.model import version as onnxruntime_version
from latentrt.engines.bundle.records.component import QuantizationRecord
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.quantization.recipe import recipe_for
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision
from latentrt.prompt_files import prompts_from_file
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.psnr import EXACT
from latentrt.quantization.subjects import DrawnModel

QUALITY = 30.0  # dB


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is drawn.

    ``steps`` is the most per picture: a longer schedule visits the same noise levels, only closer together.
    ``pictures`` is the least number of pictures to judge by. ``calls`` counts the U-Net and decoder calls that
    sensitivity is measured at; with 0 every node scores 0. ``pairs`` of calls tell how fast a graph is; with 0 nothing
    is timed, and the first graph that is good enough is taken.
    """

    steps: int = 20
    pictures: int = 32
    calls: int = 4
    pairs: int = 0


EFFORT = Effort(pairs=7)


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """What a quantization must reach, and what it draws.

    ``quality`` is the mean PSNR in dB that its pictures must have against the fp32 engine's; the worst picture may be
    8 dB below. Every frame of a video is a picture. ``judged_on`` is what draws them: the backend that is built for, or
    where that needs a GPU ONNX Runtime. What is observed and measured lies in the folder ``shared``, where other builds
    of the same source find it; with None it lies beside the bundle until that is there.
    """

    recipe: Recipe
    judged_on: Backend = Backend.ORT_CPU
    calibration: CalibrationSet
    effort: Effort
    quality: float = QUALITY
    shared: Path | None = None

    @property
    def precision(self) -> Precision:
        """What the bundle is in."""
        return self.recipe.numbers.precision

    def made(self, record: QuantizationRecord | None) -> bool:
        """Whether a component got eight bits by these settings and this version of the tools."""
        return record is not None and (
            record.recipe,
            record.backend,
            record.prompts_sha256,
            record.quality,
            record.tool,
        ) == (self.recipe, self.judged_on, self.calibration.sha256, self.quality, quantization_tool())

    @property
    def pictures(self) -> int:
        """How many pictures are judged."""
        return self.calibration.pictures(self.effort.pictures)


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """What a caller asked of int8 or fp8; None stands for the defaults. ``shared`` is that of the settings."""

    recipe: Recipe
    judged_on: Backend = Backend.ORT_CPU
    prompts: tuple[str, ...] | None
    quality: float | None
    effort: Effort
    shared: Path | None = None

    def settings(self, model: DrawnModel) -> QuantizationSettings:
        """The settings for a model.

        Raises:
            RequestError: prompts for a model that reads none.
        """
        calibration = CalibrationSet(
            prompts=model.subjects(self.prompts), steps=min(model.steps, self.effort.steps), frames=model.frames
        )
        quality = QUALITY if self.quality is None else self.quality
        return QuantizationSettings(
            recipe=self.recipe,
            judged_on=self.judged_on,
            calibration=calibration,
            effort=self.effort,
            quality=quality,
            shared=self.shared,
        )


def quantization_request_from_arguments(
    precision: Precision | None, backend: Backend, prompts: str | Path | None, quality: float | None
) -> QuantizationRequest | None:
    """What is asked of int8 or fp8, checked; None for other precisions.

    Raises:
        RequestError: prompts or a quality for another precision, a quality out of range, prompts that cannot be read,
            or a backend without such kernels.
    """
    if precision not in EIGHT_BITS:
        given = "prompts" if prompts is not None else "quality" if quality is not None else None
        if given is not None:
            raise RequestError(
                f"got {given} for a build that is none of int8, fp8 and bf16; leave it out, or ask for one of these"
            )
        return None
    if quality is not None and not 0.0 < quality < EXACT:
        raise RequestError(
            f"got quality {quality:g} dB, expected above 0 and below {EXACT:g}; ask for {QUALITY:g} or a value near it"
        )
    here = backend in (Backend.ORT_CPU, Backend.OPENVINO)
    return QuantizationRequest(
        recipe=recipe_for(backend, precision),
        judged_on=backend if here else Backend.ORT_CPU,
        prompts=None if prompts is None else prompts_from_file(Path(prompts)),
        quality=quality,
        effort=EFFORT if here else replace(EFFORT, pairs=0),  # the CPU's times tell nothing of a GPU's
    )


def quantization_tool() -> str:
    """The tool that places Q/DQ nodes, and its version."""
    return f"onnxruntime {onnxruntime_version()}"
