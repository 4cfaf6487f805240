"""A checkpoint of a family's true size: built, timed, weighed, and compared with diffusers.

    python -m latentrt.benchmarks.studies.full_size [--family NAME] [--precision P] [--backend B [--gpu SM]…]

The weights are random and seeded: speed, memory and parity do not depend on what they know. The checkpoint is made once
in DIR; the build runs in a process of its own, whose peak memory is the figure. For sd1, sd2 and sdxl on ort-cpu a
picture of two steps is drawn with latentrt and with diffusers; for svd, which is built in fp16 unless told otherwise, a
video of one step.

    python -m latentrt.benchmarks.studies.full_size checkpoint FAMILY DIR
    python -m latentrt.benchmarks.studies.full_size int8 FP32.bundle INT8.bundle [BACKEND]
    python -m latentrt.benchmarks.studies.full_size bf16 FP32.bundle BF16.bundle [BACKEND]

make one checkpoint, and bundles in int8 and bf16 for speed alone: random weights have no pictures to be kept, so one of
two steps is judged.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from latentrt.benchmarks.bench.workers.process import OWN_PYTHON, Worker
from latentrt.benchmarks.peers.registry import OURS, PEERS, REFERENCE
from latentrt.benchmarks.studies.architectures import ARCHITECTURES, save_checkpoint
from latentrt.benchmarks.studies.full_size_video import compare_videos
from latentrt.bf16.settings import Bf16Request
from latentrt.building.compiling import EnginesToMake, engines_to_make
from latentrt.building.conversions.bf16 import bf16_bundle_of
from latentrt.building.conversions.quantization import quantize_bundle
from latentrt.cli.terminal import BuildProgress, megabytes, print_table, stderr
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.parity import parity_of, psnr
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.graphs.quantization.recipe import recipe_for
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Profile
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.settings import Effort, QuantizationRequest, QuantizationSettings
from latentrt.quantization.subjects import DrawnModel
from latentrt.runtime.pipeline import Pipeline

PROMPT = "a photograph of an astronaut riding a horse"
STEPS, SEED, GUIDANCE = 2, 7, 7.5
_DRAWN_FROM_TEXT = ("sd1", "sd2", "sdxl")
_TIMEOUT = 3600.0  # seconds of a picture
_ANY = 0.1  # dB
_ONE_PICTURE = Effort(steps=STEPS, pictures=1, calls=0)


@dataclass(frozen=True, kw_only=True)
class _Noised(CalibrationSet):
    """Calibrates on a noised photograph, one call per level: what random weights draw has no picture's range."""

    def calibrating(self, pipe: Pipeline, start: int, *, decoded: bool) -> Iterator[int]:
        """Runs one step from ever less noise; yields once."""
        image, output = photograph(pipe.manifest.profiles[0]), "np" if decoded else "latent"
        for steps in (1, 2, 4, 10, 25):
            pipe.img2img(PROMPT, image=image, strength=1 / steps, num_inference_steps=steps, output_type=output)
        yield len(self.prompts)


class _ForSpeed(QuantizationRequest):
    """One picture judges, and no node is scored."""

    def settings(self, model: DrawnModel) -> QuantizationSettings:
        calibration = _Noised(prompts=(PROMPT,), steps=STEPS)
        return QuantizationSettings(
            recipe=self.recipe, calibration=calibration, effort=self.effort, quality=self.quality or _ANY
        )


def quantize(
    source: Path,
    output: Path,
    engines: EnginesToMake,
    precision: Precision = Precision.INT8,
    kept_fp32: Sequence[str] = (),
) -> None:
    """Makes a bundle in eight bits of one with random weights, for speed and size."""
    recipe = recipe_for(engines.compiler.backend, precision)
    request = _ForSpeed(recipe=recipe, prompts=None, quality=_ANY, effort=_ONE_PICTURE)
    timer = StageTimer(BuildProgress())
    quantize_bundle(open_bundle(source.resolve()), output.resolve(), engines, request, timer, kept_fp32=kept_fp32)
    print_table(f"{precision}, by stage", ("stage", "s"), [(name, round(s, 1)) for name, s in timer.seconds.items()])


def convert(source: Path, output: Path, engines: EnginesToMake) -> None:
    """Makes a bf16 bundle of one with random weights, for speed and size."""
    request = Bf16Request(prompts=(PROMPT,), quality=_ANY, effort=_ONE_PICTURE)
    timer = StageTimer(BuildProgress())
    made, _ = bf16_bundle_of(open_bundle(source.resolve()), output.resolve(), engines, request, timer)
    print_table("bf16, by stage", ("stage", "s"), [(name, round(s, 1)) for name, s in timer.seconds.items()])
    stderr.print(str(made.manifest.pictures))


def build(work: Path, family: str, options: Sequence[str]) -> dict[str, Any]:
    """The figures of a build with options of ``latentrt build``; a missing checkpoint is made in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = work / family, work / f"{family}.bundle"
    if not checkpoint.exists():
        stderr.print(f"saving a random checkpoint of {family}'s architecture …")
        subprocess.run([sys.executable, "-m", __spec__.name, "checkpoint", family, str(checkpoint)], check=True)
    shutil.rmtree(bundle, ignore_errors=True)
    begin = perf_counter()
    command = [sys.executable, "-m", "latentrt", "build", str(checkpoint), "-o", str(bundle), "--json", *options]
    # The wait4 of this very child gives its own peak, not the largest of all children so far
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    printed = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the build failed; see above")
    return {
        "build": json.loads(printed),
        "build_s": perf_counter() - begin,
        "build_peak_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": _bytes(bundle),
        "onnx_bytes": {path.name: _bytes(path) for path in sorted((bundle / "onnx").glob("*/*"))},
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def draw(adapter: str, model: Path, size: int, output: Path) -> tuple[float, float, float, int | None]:
    """A picture in a process of its own: seconds to open, of the last step and to decode, and its peak in bytes."""
    with Worker(OWN_PYTHON, adapter, timeout=_TIMEOUT) as worker:
        opened = worker.ask({"do": "open", "model": str(model)})["seconds"]
        request = {"prompts": [PROMPT], "seeds": [SEED], "steps": STEPS, "guidance": GUIDANCE}
        drawn = worker.ask({"do": "draw", **request, "width": size, "height": size, "output": str(output)})["seconds"]
        return sum(opened.values()), drawn["steps"][-1], drawn["decode"], worker.peak_bytes


def report(title: str, figures: dict[str, Any]) -> None:
    """The figures of a build as tables."""
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
    print_table(title, ("figure", "value"), rows)


def compare(work: Path, family: str, size: int) -> None:
    """Draws a picture with latentrt and with diffusers, and prints how far they are apart and how long they took."""
    rows, pictures = [], []
    for name, adapter, model in (
        ("latentrt", OURS, work / f"{family}.bundle"),
        ("diffusers", PEERS[REFERENCE].adapter, work / family),
    ):
        output = work / f"{name}.npz"
        *seconds, peak = draw(adapter, model, size, output)
        rows.append((name, *(round(one, 2) for one in seconds), "–" if peak is None else megabytes(peak)))
        pictures.append(np.load(output))
    ours, theirs = pictures
    apart = psnr(ours["pixels"], theirs["pixels"], peak=1.0)
    print_table(
        f"{STEPS} steps against diffusers",
        ("figure", "value"),
        [("latents", str(parity_of(ours["latents"], theirs["latents"]))), ("picture", f"{apart:.1f} dB")],
    )
    columns = ("", "open s", "step s", "decode s", "peak memory")
    print_table("not interleaved: see latentrt bench for comparisons", columns, rows)


def main() -> None:
    """The command; with a stage's name as the first argument, that stage alone."""
    if sys.argv[1:2] == ["checkpoint"]:
        return save_checkpoint(sys.argv[2], Path(sys.argv[3]))
    if sys.argv[1:2] in (["int8"], ["bf16"]):
        made, usual = (quantize, "ort-cpu") if sys.argv[1] == "int8" else (convert, "openvino")
        engines = engines_to_make(Backend(sys.argv[4] if sys.argv[4:] else usual), (), None)
        return made(Path(sys.argv[2]), Path(sys.argv[3]), engines)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=sorted(ARCHITECTURES), default="sd1")
    parser.add_argument("--precision", help="fp32 if left out; of svd fp16")
    parser.add_argument("--backend", default="ort-cpu")
    parser.add_argument("--gpu", action="append", default=[], metavar="SM", help="repeatable")
    parser.add_argument("--size", type=int, help="pixels; the family's own if left out")
    parser.add_argument("--work", type=Path, default=Path("out/full-size"))
    chosen = parser.parse_args()
    row = ARCHITECTURES[chosen.family]
    size, video = chosen.size or row.size, row.frames > 1
    profile = Profile(width=size, height=size, frames=row.frames)
    precision = chosen.precision or (Precision.FP16 if video else Precision.FP32).value
    options = ["--profile", str(profile), "--precision", precision, "--backend", chosen.backend]
    options += [word for gpu in chosen.gpu for word in ("--gpu", gpu)]
    report(f"full-size {chosen.family}: {' '.join(options)}", build(chosen.work, chosen.family, options))
    if chosen.backend == "ort-cpu" and chosen.family in _DRAWN_FROM_TEXT:
        compare(chosen.work, chosen.family, size)
    if chosen.backend == "ort-cpu" and video:
        compare_videos(chosen.work, chosen.family, profile)
    return None


if __name__ == "__main__":
    main()
