"""How good bf16 pictures are: their PSNR against what the fp32 engines draw."""

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from latentrt.bf16.rounded_components import RoundedComponents
from latentrt.bf16.settings import PictureSettings
from latentrt.engines.backends.ort_cpu.model import version as onnxruntime_version
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.pictures import PicturesRecord
from latentrt.engines.errors import ParityError
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.spec import Array
from latentrt.engines.store.components import Engines, OpenComponents
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.judge import TOLERANCE, PictureQuality, quality_from_psnrs, reference_pictures
from latentrt.quantization.psnr import picture_psnr
from latentrt.runtime.pipeline import Pipeline

_JUDGED = "judged"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A bundle in fp32 with engines for the CPU, which pictures are drawn with it, and what was drawn before."""

    base: Bundle
    settings: PictureSettings
    checkpoints: Checkpoints
    progress: Progress


def judging_of(base: Bundle, settings: PictureSettings, work: Path, progress: Progress) -> Judging:
    """What is judged by a bundle's pictures; results outlive the process in the folder ``work``."""
    fingerprint = {
        "base": base.manifest.model_dump(mode="json", include={"files", "schedule", "defaults", "conditioning"}),
        "profile": str(base.manifest.profiles[0]),
        "calibration": settings.calibration.sha256,
        "made by": [np.__version__, onnxruntime_version()],
    }
    return Judging(
        base=base, settings=settings, checkpoints=Checkpoints(work / "pictures", fingerprint), progress=progress
    )


def judged(judging: Judging, made: Bundle, backend: Backend | None) -> PicturesRecord:
    """Draws the pictures of a bundle in bf16, and compares.

    Args:
        judging: what they are compared with.
        made: the bundle.
        backend: whose engines of it compute bf16 on this machine; None if none does, and results are rounded instead.

    Raises:
        ParityError: the quality asked for is not reached.
    """
    settings, base = judging.settings, judging.base
    with closing(OpenComponents(base, Backend.ORT_CPU, threads=None)) as engines:
        references = reference_pictures(judging, engines).pictures
    with TemporaryDirectory(dir=made.root, prefix=".rounded-") as folder:
        drawing: Engines = RoundedComponents(made, Path(folder))
        if backend is not None:
            drawing = OpenComponents(made, backend, threads=None)
        with closing(drawing):
            psnrs = _psnrs(judging, made, drawing, references)
    quality = quality_from_psnrs(judging, psnrs)
    if not quality.reaches(settings.quality):
        raise ParityError(_refusal(quality, settings.quality))
    return PicturesRecord(
        quality=settings.quality,
        source_sha256=source_digest(base),
        drawn_by=_drawn_by(backend),
        prompts_sha256=settings.calibration.sha256,
        prompts=len(settings.calibration.prompts),
        steps=settings.calibration.steps,
        pictures=len(psnrs),
        psnr_mean=quality.mean,
        psnr_worst=quality.worst,
        worst_prompt=quality.worst_prompt,
    )


def source_digest(bundle: Bundle) -> str:
    """SHA-256 over the graphs of a bundle with their weights."""
    parts = (Component(root=bundle.root, manifest=bundle.manifest, name=name) for name in bundle.manifest.components)
    return hashlib.sha256(" ".join(part.onnx_sha256 for part in parts).encode()).hexdigest()


def _psnrs(judging: Judging, made: Bundle, engines: Engines, references: Array) -> Array:
    """The PSNR in dB of every picture."""
    psnrs: list[float] = []
    with judging.progress.stage("bf16: pictures"):
        pipe = Pipeline(made, engines)
        for result in judging.settings.calibration.judging(pipe, 0, len(references)):
            for picture in result.images:
                psnrs.append(picture_psnr(np.asarray(picture), references[len(psnrs)]))
            judging.progress.phase(f"picture {len(psnrs)} of {len(references)}", len(psnrs), len(references))
    return np.array(psnrs)


def _drawn_by(backend: Backend | None) -> str:
    if backend is None:
        return f"onnxruntime {onnxruntime_version()}, every result rounded"
    return f"{backend} {COMPILERS[backend].version()}"


def _refusal(quality: PictureQuality, required: float) -> str:
    return (
        f"bf16 pictures reached a mean of {quality.mean:.1f} dB (worst {quality.worst:.1f} dB, for "
        f"{quality.worst_prompt!r}) against the fp32 engine, expected {required:g} dB and no picture {TOLERANCE:g} dB "
        "below; ask for less with --quality, keep a component in fp32 with --fp32, or build in fp32"
    )
