"""diffusers on the device, eager and compiled: the same calls of the same random weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from latentrt.benchmarks.gpu.environment import free_memory, peak_of, synchronize
from latentrt.benchmarks.gpu.models import Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.gpu.work.speed import DECODED, PROMPT, drawn
from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import Contender, Drawn, Row, SpeedRow
from latentrt.benchmarks.report.gpu.schema import figure as figure_if_any
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

EAGER, COMPILED = "diffusers", "compiled"
PEERS = {EAGER: "diffusers", COMPILED: "diffusers, torch.compile"}
"""Their names, by those of their stages."""
_SAMPLERS = {"euler": "EulerDiscreteScheduler"}


def peer_speed(
    settings: Settings, stage: str, model: Model, peer: str, batch: int, checkpoint: Path, drawn_by_it: Path
) -> Iterator[Row]:
    """Every case of a model with so many pictures by diffusers; ``peer`` says whether U-Net and decoder are compiled.

    What it draws first is kept, for others to be compared with.
    """
    before = free_memory()
    pipe, precision = _opened(settings, model, peer, checkpoint)
    for case in (case for case in model.cases if case.batch == batch):
        asked = drawn(model, case)
        first = _draw(settings, pipe, asked, 0)
        if case is model.cases[0]:
            np.save(drawn_by_it, first.pixels)
        calls, steps = [], list[float]()
        for seed in range(settings.runs):
            one = _draw(settings, pipe, asked, seed)
            calls.append(one.seconds)
            steps += one.steps
        after = free_memory()
        yield SpeedRow(
            stage=stage,
            model=model.name,
            contender=Contender(name=PEERS[peer], precision=precision),
            drawn=asked,
            call=Figure.of(calls),
            step=figure_if_any(steps),
            peak=peak_of(settings, precision),
            gpu_bytes=None if before is None or after is None else max(before - after, 0),
        )


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A call: its seconds, those of its steps but the first, and what it drew (N, H, W, 3)."""

    seconds: float
    steps: list[float]
    pixels: Array


def _opened(settings: Settings, model: Model, peer: str, checkpoint: Path) -> tuple[Any, str]:
    """The pipeline on the device and its precision: a CPU's products in fp16 are nothing to compare with."""
    import diffusers
    import torch

    dtype, precision = (torch.float16, "fp16") if settings.device != "cpu" else (torch.float32, "fp32")
    pipe = diffusers.DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=dtype).to(settings.device)
    pipe.set_progress_bar_config(disable=True)
    if model.sampler is not None:
        pipe.scheduler = getattr(diffusers, _SAMPLERS[model.sampler]).from_config(pipe.scheduler.config)
    if peer == COMPILED:
        pipe.unet.compile()
        pipe.vae.decoder.compile()
    return pipe, precision


def _draw(settings: Settings, pipe: Any, asked: Drawn, seed: int) -> _Drawn:
    """Draws, with diffusers."""
    import torch

    marks: list[float] = []

    def mark(*arguments: Any) -> dict[str, Any]:
        synchronize(settings.device)
        marks.append(perf_counter())
        return {}

    options: dict[str, Any] = {
        "width": asked.width,
        "height": asked.height,
        "num_inference_steps": asked.steps,
        "output_type": "np",
        "callback_on_step_end": mark,
    }
    generators = [torch.Generator("cpu").manual_seed(seed + place) for place in range(asked.batch)]
    if asked.frames > 1:
        picture = photograph(Profile(width=asked.width, height=asked.height))
        options |= {
            "image": picture,
            "num_frames": asked.frames,
            "decode_chunk_size": min(DECODED, asked.frames),
            "generator": generators[0],
        }
    else:
        options |= {"prompt": [PROMPT] * asked.batch, "generator": generators}
        options |= {} if asked.guidance is None else {"guidance_scale": asked.guidance}
    begin = perf_counter()
    output = pipe(**options)
    synchronize(settings.device)
    seconds = perf_counter() - begin
    pixels = np.asarray(output.frames[0] if asked.frames > 1 else output.images)
    return _Drawn(seconds=seconds, steps=[after - before for before, after in pairwise(marks)], pixels=pixels)
