"""Warm calls of a bundle on a backend: seconds, the device's memory, and the share of its peak."""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

import latentrt
from latentrt.benchmarks.bench.machine.flops import flops_of_component
from latentrt.benchmarks.gpu.environment import free_memory, peak_of
from latentrt.benchmarks.gpu.models import Case, Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import Contender, Drawn, Loop, ParityRow, Row, SpeedRow, decibels
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.result import Result
from latentrt.runtime.call.tasks.video.result import VideoResult
from latentrt.runtime.pipeline import Pipeline

PROMPT = "a photograph of an astronaut riding a horse"
DECODED = 5
"""Frames of a video that are decoded at once, by everyone."""


def drawn(model: Model, case: Case) -> Drawn:
    """What a case draws."""
    row = model.architecture
    return Drawn(
        width=model.width,
        height=row.size,
        frames=row.frames,
        steps=case.steps,
        batch=case.batch,
        guidance=model.guidance,
        sampler=model.sampler,
    )


def draw(pipe: Pipeline, asked: Drawn, seed: int, **options: object) -> Result | VideoResult:
    """Draws, with latentrt."""
    steps = {"num_inference_steps": asked.steps, "width": asked.width, "height": asked.height, "output_type": "np"}
    if asked.frames > 1:
        picture = photograph(Profile(width=asked.width, height=asked.height))
        video = {**steps, "num_frames": asked.frames, "decode_chunk_size": min(DECODED, asked.frames)}
        return pipe.img2vid(picture, seed=seed, **video)  # type: ignore[arg-type]
    named = {"guidance_scale": asked.guidance, "sampler": asked.sampler}
    named = {name: value for name, value in named.items() if value is not None}
    seeds = list(range(seed, seed + asked.batch))
    return pipe([PROMPT] * asked.batch, seed=seeds, **steps, **named, **options)  # type: ignore[arg-type]


def own_speed(
    settings: Settings,
    stage: str,
    model: Model,
    precision: str,
    backend: str,
    bundle: Path,
    beside: Path,
    batch: int = 1,
    loop: Loop = "host",
) -> Iterator[Row]:
    """Every case of a model with so many pictures, each warmed up first.

    The first case's picture is held against the one that diffusers drew, where that lies at ``beside``.
    """
    contender = Contender(name="latentrt", precision=precision, backend=backend, loop=loop)
    before = free_memory()
    with latentrt.open(bundle, backend=backend, loop=loop) as pipe:
        for case in (case for case in model.cases if case.batch == batch):
            asked = drawn(model, case)
            first = draw(pipe, asked, 0)
            timings = [draw(pipe, asked, seed).timings for seed in range(settings.runs)]
            after = free_memory()
            if case is model.cases[0] and beside.is_file():
                pictures = first.frames[0] if isinstance(first, VideoResult) else first.images
                apart = psnr(np.asarray(pictures, np.float32), np.load(beside), peak=1.0)
                yield ParityRow(
                    stage=stage,
                    model=model.name,
                    precision=precision,
                    backend=backend,
                    component="picture beside diffusers" + (", loop on the device" if loop == "device" else ""),
                    relative_error=None,
                    psnr=decibels(apart),
                )
            yield SpeedRow(
                stage=stage,
                model=model.name,
                contender=contender,
                drawn=asked,
                call=Figure.of([one.total for one in timings]),
                step=Figure.of([one.denoise / len(one.calls) for one in timings]),
                unet_call=Figure.of([one.unet / len(one.calls) for one in timings]),
                decode=Figure.of([one.decode for one in timings]),
                unet_flop=unet_flop(bundle, asked),
                peak=peak_of(settings, precision),
                gpu_bytes=None if before is None or after is None else max(before - after, 0),
            )


def unet_flop(bundle: Path, asked: Drawn) -> float | None:
    """FLOP of a step's U-Net; None where they cannot be counted."""
    unet = _unet(bundle)
    guided = asked.guidance is None or asked.guidance > 1
    rows = asked.batch * (unet.record.batch_per_picture if guided else 1)
    profile = Profile(width=asked.width, height=asked.height, batch=asked.batch, frames=asked.frames)
    return _flop_of_call(bundle, profile, rows)


@cache
def _flop_of_call(bundle: Path, profile: Profile, rows: int) -> float | None:
    try:
        return float(flops_of_component(_unet(bundle), profile, rows))
    except Exception as error:  # onnx raises what it likes; a share of the peak is not worth a run
        print(f"FLOP are not counted: {error}", file=sys.stderr)
        return None


def _unet(bundle: Path) -> Component:
    return Component(root=bundle, manifest=open_bundle(bundle).manifest, name=UNET)
