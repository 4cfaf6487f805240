"""latentrt against the diffusers pipeline on the embedded model, side by side in one run.

    python -m latentrt.benchmarks.latency [--runs 7] [--steps 20] [--json OUT.json]

In one process the two draw in turn, A B A B, and medians are compared; as a cold start, each draws one PNG in a
process of its own, from its start to its end. Host overhead is the denoising loop's time outside `Engine.run`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import latentrt
from latentrt.models import EMBEDDED, EMOJI
from latentrt.terminal import print_table, stderr, stdout

PROMPT = "cat"
GUIDANCE = 7.5
_DIFFUSERS = """
import sys, torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
folder, steps, guidance, output = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
generator = torch.Generator().manual_seed(1)
pipe("cat", num_inference_steps=int(steps), guidance_scale=float(guidance), generator=generator).images[0].save(output)
"""


def interleaved(contenders: dict[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Seconds of every contender's runs, taken in turn after one uncounted round."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for counted in (False, *([True] * runs)):
        for name, run in contenders.items():
            seconds = run()
            if counted:
                samples[name].append(seconds)
    return samples


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The work as something that returns its seconds."""

    def run() -> float:
        start = perf_counter()
        work()
        return perf_counter() - start

    return run


def diffusers_pipeline(folder: Path) -> Any:
    """The diffusers pipeline with the sampler that the comparison uses, in fp32."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    return pipe


def measure(runs: int, steps: int) -> dict[str, Any]:
    """All figures of the comparison, in seconds unless they say otherwise."""
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = folder / "emoji.bundle"
        latentrt.build(EMBEDDED, bundle)
        reference = diffusers_pipeline(EMOJI)
        overheads: list[float] = []
        shares: list[float] = []
        with latentrt.open(bundle) as pipe:

            def ours() -> None:
                result = pipe(PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, sampler="dpmpp_2m_k", seed=1)
                overheads.append((result.timings.denoise - result.timings.unet) / steps * 1e6)
                shares.append(result.timings.unet / result.timings.total)

            def theirs() -> None:
                generator = torch.Generator().manual_seed(1)
                reference(PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generator)

            warm = interleaved({"latentrt": timed(ours), "diffusers": timed(theirs)}, runs)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        settings = [str(steps), str(GUIDANCE)]
        command = [sys.executable, "-m", "latentrt", "generate", str(bundle), PROMPT, "--seed", "1"]
        command += ["--steps", settings[0], "--guidance", settings[1], "--sampler", "dpmpp_2m_k"]

        def process(arguments: list[str]) -> Callable[[], float]:
            return timed(
                lambda: subprocess.run(
                    arguments, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )

        cold = interleaved(
            {
                "latentrt": process([*command, "-o", str(folder / "ours.png")]),
                "diffusers": process(
                    [sys.executable, "-c", _DIFFUSERS, str(EMOJI), *settings, str(folder / "theirs.png")]
                ),
            },
            runs,
        )
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "steps": steps,
        "runs": runs,
        "in_process_s": warm,
        "cold_start_s": cold,
        "host_overhead_us_per_step": overheads[1:],
        "share_of_time_in_unet_engine": median(shares),
    }


def report(figures: dict[str, Any]) -> None:
    """The figures as a table of medians with their spread."""
    rows = []
    for title, key in (("one picture, in process", "in_process_s"), ("cold start to PNG", "cold_start_s")):
        ours, theirs = (figures[key][name] for name in ("latentrt", "diffusers"))
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        rows.append(
            (title, spread(ours), spread(theirs), f"{median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        )
    title = f"embedded model, {figures['steps']} steps, guidance {GUIDANCE}; {figures['machine']}; median (quartiles)"
    print_table(title, ("", "latentrt", "diffusers", "diffusers / latentrt, pair by pair"), rows)
    overhead = figures["host_overhead_us_per_step"]
    stdout.print(f"host overhead: {median(overhead):.0f} µs a step outside Engine.run")
    stdout.print(f"the U-Net engine takes {figures['share_of_time_in_unet_engine']:.0%} of a picture's time")


def spread(samples: list[float]) -> str:
    """Median and quartiles in seconds."""
    low, middle, high = quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    return f"{middle:.3f} s ({low:.3f} to {high:.3f})"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write all samples here")
    arguments = parser.parse_args()
    stderr.print("building the embedded model's bundle, then drawing in turn …")
    figures = measure(arguments.runs, arguments.steps)
    report(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
