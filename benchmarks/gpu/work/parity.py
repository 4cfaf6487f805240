"""Parity on this machine: components against their recorded runs, and pictures beside those of a CPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import latentrt
from latentrt.benchmarks.gpu.models import families
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.gpu.schema import ParityRow, Row, decibels
from latentrt.benchmarks.studies.architectures import save_architecture
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile
from latentrt.models import EMBEDDED
from latentrt.verifying import verify

_PROMPTS = ("cat", "dog face", "red apple")
_STEPS, _GUIDANCE = 8, 3.0


def embedded_parity(settings: Settings, stage: str, backend: str, precision: str) -> Iterator[Row]:
    """The embedded model: every component, and pictures beside those of ``ort-cpu`` in fp32."""
    bundle = _built(settings, EMBEDDED, EMBEDDED, backend, precision)
    yield from _components(stage, EMBEDDED, backend, precision, bundle)
    reference = _built(settings, EMBEDDED, EMBEDDED, Backend.ORT_CPU.value, "fp32")
    apart = []
    with latentrt.open(bundle, backend=backend) as ours, latentrt.open(reference, backend="ort-cpu") as theirs:
        for seed, prompt in enumerate(_PROMPTS):
            one, other = (
                np.asarray(
                    pipe(
                        prompt, seed=seed, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE, output_type="np"
                    ).images[0]
                )
                for pipe in (ours, theirs)
            )
            apart.append(psnr(one, other, peak=1.0))
    worst = min(apart)
    yield ParityRow(
        stage=stage,
        model=EMBEDDED,
        precision=precision,
        backend=backend,
        component="picture",
        relative_error=None,
        psnr=decibels(worst),
    )


def family_parity(settings: Settings, stage: str, family: str, backend: str) -> Iterator[Row]:
    """A family in small, with random weights: every component."""
    row = families()[family]
    checkpoint = settings.work / "families" / family
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        save_architecture(row, checkpoint)
    profile = Profile(width=row.size, height=row.size, batch=1 if row.frames > 1 else 2, frames=row.frames)
    bundle = _built(settings, family, str(checkpoint), backend, "fp32", (profile,))
    yield from _components(stage, family, backend, "fp32", bundle)


def _built(
    settings: Settings, name: str, model: str, backend: str, precision: str, profiles: tuple[Profile, ...] = ()
) -> Path:
    """The model's bundle with engines of the backend; each is made if it is not there."""
    bundle = settings.work / "families" / f"{name}-{precision}.bundle"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    if bundle.exists():
        latentrt.build(bundle, backend=backend)
    else:
        latentrt.build(model, bundle, precision=precision, profiles=profiles, backend=backend)
    return bundle


def _components(stage: str, model: str, backend: str, precision: str, bundle: Path) -> Iterator[Row]:
    for component, parity in verify(bundle, backend=backend).items():
        yield ParityRow(
            stage=stage,
            model=model,
            precision=precision,
            backend=backend,
            component=component,
            relative_error=parity.relative_error,
            psnr=decibels(parity.psnr),
        )
