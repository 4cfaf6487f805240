"""A checkpoint of a family's true size: built, timed, weighed, and compared with diffusers.

    python -m latentrt.benchmarks.full_size [--family NAME] [--precision fp16] [--backend B [--gpu SM]…] [--work DIR]

The weights are random and seeded: speed, memory and parity do not depend on what they know. The checkpoint is made once
in DIR; the build runs in a process of its own, whose peak memory is the figure. For sd1, sd2 and sdxl on ort-cpu a
picture of two steps is drawn with latentrt and with diffusers.

    python -m latentrt.benchmarks.full_size int8 FP32.bundle INT8.bundle

makes an int8 bundle for speed alone: random weights have no pictures that int8 could keep.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from latentrt.benchmarks.architectures import ARCHITECTURES, save_checkpoint
from latentrt.building.compiling import engines_to_make
from latentrt.building.int8 import quantize_bundle
from latentrt.cli.terminal import BuildProgress, megabytes, print_table, stderr
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.parity import parity_of
from latentrt.engines.bundle.photograph import photograph
from latentrt.engines.files import locked
from latentrt.engines.graphs.quantization.recipe import recipe_for
from latentrt.engines.precision import Backend
from latentrt.engines.progress import StageTimer
from latentrt.int8.calibration import CalibrationSet
from latentrt.int8.settings import Effort, Int8Request, QuantizationSettings
from latentrt.runtime.pipeline import Pipeline

PROMPT = "a photograph of an astronaut riding a horse"
STEPS, SEED, GUIDANCE = 2, 7, 7.5
_DRAWN_FROM_TEXT = ("sd1", "sd2", "sdxl")


def draw_ours(bundle: Path, output: Path) -> None:
    """Opens the bundle, draws, and writes latents, pixels and figures."""
    import latentrt

    start = perf_counter()
    with latentrt.open(bundle) as pipe:
        opened = perf_counter() - start
        marks = [perf_counter()]
        result = pipe(
            PROMPT,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            sampler="dpmpp_2m_k",
            seed=SEED,
            output_type="np",
            callback_on_step_end=lambda *_: marks.append(perf_counter()),
        )
    np.savez(output, latents=result.latents, pixels=np.stack([np.asarray(image) for image in result.images]))
    figures = {"open_s": opened, "step_s": marks[-1] - marks[-2], "decode_s": result.timings.decode}
    _write_figures(output, figures)


def draw_theirs(checkpoint: Path, output: Path) -> None:
    """The same picture from diffusers."""
    import torch
    from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

    start = perf_counter()
    pipe: Any = DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.set_progress_bar_config(disable=True)
    opened = perf_counter() - start
    marks = [perf_counter()]

    def mark(*_: object) -> dict[str, object]:
        marks.append(perf_counter())
        return {}

    latents = pipe(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        callback_on_step_end=mark,
    ).images
    decoding = perf_counter()
    with torch.inference_mode():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    pixels = pipe.image_processor.postprocess(decoded, output_type="np")
    figures = {"open_s": opened, "step_s": marks[-1] - marks[-2], "decode_s": perf_counter() - decoding}
    np.savez(output, latents=latents.numpy(), pixels=pixels)
    _write_figures(output, figures)


@dataclass(frozen=True, kw_only=True)
class _Noised(CalibrationSet):
    """Calibrates on a noised photograph, one call per level: what random weights draw has no picture's range."""

    def calibrating(self, pipe: Pipeline, start: int, *, decoded: bool) -> Iterator[int]:
        """Runs one step from ever less noise; yields once."""
        image, output = photograph(pipe.manifest.profiles[0]), "np" if decoded else "latent"
        for steps in (1, 2, 4, 10, 25):
            pipe.img2img(PROMPT, image=image, strength=1 / steps, num_inference_steps=steps, output_type=output)
        yield len(self.prompts)


class _ForSpeed(Int8Request):
    """One picture judges, and no node is scored."""

    def settings(self, model: str, steps: int) -> QuantizationSettings:
        calibration = _Noised(prompts=(PROMPT,), steps=STEPS)
        return QuantizationSettings(
            recipe=self.recipe, calibration=calibration, effort=self.effort, quality=self.quality or 0.1
        )


def quantize(source: Path, output: Path) -> None:
    """Makes an int8 bundle of one with random weights, for speed and size."""
    request = _ForSpeed(
        recipe=recipe_for(Backend.ORT_CPU), prompts=None, quality=0.1, effort=Effort(steps=STEPS, pictures=1, calls=0)
    )
    timer = StageTimer(BuildProgress())
    with locked(source.resolve()):
        bundle = open_bundle(source.resolve())
        quantize_bundle(bundle, output.resolve(), engines_to_make(Backend.ORT_CPU, (), None), request, timer)
    print_table("int8, by stage", ("stage", "s"), [(name, round(s, 1)) for name, s in timer.seconds.items()])


def _write_figures(output: Path, figures: dict[str, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    output.with_suffix(".json").write_text(json.dumps({**figures, "peak_bytes": peak}), "utf-8")


def run(work: Path, family: str, options: Sequence[str], *, draws: bool) -> dict[str, Any]:
    """Makes, builds, draws and compares.

    Args:
        work: where the checkpoint and the bundle go.
        family: a name in ``ARCHITECTURES``.
        options: of ``latentrt build``.
        draws: whether to draw a picture with latentrt and with diffusers.

    Returns:
        The figures.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = work / family, work / f"{family}.bundle"
    if not checkpoint.exists():
        stderr.print(f"saving a random checkpoint of {family}'s architecture …")
        _child("checkpoint", family, checkpoint)
    shutil.rmtree(bundle, ignore_errors=True)
    start = perf_counter()
    command = [sys.executable, "-m", "latentrt", "build", str(checkpoint), "-o", str(bundle), "--json", *options]
    # The wait4 of this very child gives its own peak, not the largest of all children so far
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    printed = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the build failed; see above")
    figures = {
        "family": family,
        "options": list(options),
        "build": json.loads(printed),
        "build_s": perf_counter() - start,
        "build_peak_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": _bytes(bundle),
        "onnx_bytes": {path.name: _bytes(path) for path in sorted((bundle / "onnx").glob("*/*"))},
    }
    return {**figures, **(_drawn(work, checkpoint, bundle) if draws else {})}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _drawn(work: Path, checkpoint: Path, bundle: Path) -> dict[str, Any]:
    """A picture from both, compared."""
    ours, theirs = work / "ours.npz", work / "theirs.npz"
    _child("ours", bundle, ours)
    _child("theirs", checkpoint, theirs)
    mine, other = np.load(ours), np.load(theirs)
    mse = float(np.mean((mine["pixels"].astype(np.float64) - other["pixels"]) ** 2))
    return {
        "latents": parity_of(mine["latents"], other["latents"]),
        "picture_psnr": -10 * float(np.log10(max(mse, 1e-30))),
        "ours": json.loads(ours.with_suffix(".json").read_text("utf-8")),
        "theirs": json.loads(theirs.with_suffix(".json").read_text("utf-8")),
    }


def _child(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", __spec__.name, *map(str, arguments)], check=True)


def report(figures: dict[str, Any]) -> None:
    """The figures as tables."""
    stages = figures["build"]["seconds"]
    print_table("build, by stage", ("stage", "s"), [(name, round(seconds, 1)) for name, seconds in stages.items()])
    rows = [
        ("build, wall time", f"{figures['build_s']:.0f} s"),
        ("build, peak memory", megabytes(figures["build_peak_bytes"])),
        ("bundle on disk", megabytes(figures["bundle_bytes"])),
        *((f"{name}, ONNX", megabytes(size)) for name, size in figures["onnx_bytes"].items()),
        *((f"{name} against torch", f"{p['relative_error']:.1e}, {p['psnr']:.0f} dB")
          for name, p in figures["build"]["parity"].items()),
    ]  # fmt: skip
    if "latents" in figures:
        rows += [
            (f"{STEPS}-step latents against diffusers", str(figures["latents"])),
            (f"{STEPS}-step picture against diffusers", f"{figures['picture_psnr']:.1f} dB"),
        ]
    print_table(f"full-size {figures['family']}: {' '.join(figures['options'])}", ("figure", "value"), rows)
    if "ours" in figures:
        both = [("latentrt", figures["ours"]), ("diffusers", figures["theirs"])]
        print_table(
            "not interleaved: see latentrt bench for comparisons",
            ("", "open s", "step s", "decode s", "peak memory"),
            [(name, *(round(f[key], 2) for key in ("open_s", "step_s", "decode_s")), megabytes(f["peak_bytes"]))
             for name, f in both],
        )  # fmt: skip


def main() -> None:
    """The command; with a stage's name as the first argument, that stage alone."""
    stages: dict[str, Callable[[list[str]], None]] = {
        "checkpoint": lambda rest: save_checkpoint(rest[0], Path(rest[1])),
        "ours": lambda rest: draw_ours(Path(rest[0]), Path(rest[1])),
        "theirs": lambda rest: draw_theirs(Path(rest[0]), Path(rest[1])),
        "int8": lambda rest: quantize(Path(rest[0]), Path(rest[1])),
    }
    if sys.argv[1:] and sys.argv[1] in stages:
        stages[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=sorted(ARCHITECTURES), default="sd1")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--backend", default="ort-cpu")
    parser.add_argument("--gpu", action="append", default=[], metavar="SM", help="repeatable")
    parser.add_argument("--size", type=int, help="pixels; the family's own if left out")
    parser.add_argument("--work", type=Path, default=Path("out/full-size"))
    chosen = parser.parse_args()
    size = chosen.size or ARCHITECTURES[chosen.family].size
    options = ["--profile", f"{size}x{size}", "--precision", chosen.precision, "--backend", chosen.backend]
    options += [word for gpu in chosen.gpu for word in ("--gpu", gpu)]
    draws = chosen.backend == "ort-cpu" and chosen.family in _DRAWN_FROM_TEXT
    report(run(chosen.work, chosen.family, options, draws=draws))


if __name__ == "__main__":
    main()
