"""A checkpoint of the full SD 1.5 architecture: built, timed, weighed, and compared with diffusers.

    python -m latentrt.benchmarks.full_size [--work DIR]

The weights are random and seeded: speed, memory and parity do not depend on what they know. The checkpoint
(4.2 GB) is made once in DIR; the build runs in a process of its own, whose peak memory is the figure.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from latentrt.engines.parity import parity_of
from latentrt.models import EMOJI
from latentrt.terminal import megabytes, print_table, stderr

PROMPT = "a photograph of an astronaut riding a horse"
STEPS, SEED, GUIDANCE, SIZE = 2, 7, 7.5, 512
# The autoencoder of SD 1.x, 2.x and XL, as AutoencoderKL's keywords
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}


def save_checkpoint(folder: Path) -> None:
    """Saves the SD 1.5 architecture with random weights: 859.5 M U-Net, 123 M text encoder, 84 M autoencoder."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    specials = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    pipe = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                **specials,
            )
        ),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        vae=AutoencoderKL(**VAE),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial)
    os.rename(partial, folder)


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

    from latentrt.benchmarks.latency import diffusers_pipeline

    start = perf_counter()
    pipe = diffusers_pipeline(checkpoint)
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


def _write_figures(output: Path, figures: dict[str, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    output.with_suffix(".json").write_text(json.dumps({**figures, "peak_bytes": peak}), "utf-8")


def run(work: Path) -> dict[str, Any]:
    """Makes, builds, draws and compares; returns the figures."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = work / "sd15", work / "sd15.bundle"
    if not checkpoint.exists():
        stderr.print("saving a random checkpoint of the SD 1.5 architecture …")
        _child("checkpoint", checkpoint)
    shutil.rmtree(bundle, ignore_errors=True)
    start = perf_counter()
    command = [sys.executable, "-m", "latentrt", "build", str(checkpoint), "-o", str(bundle), "--json"]
    command += ["--profile", f"{SIZE}x{SIZE}"]
    # The wait4 of this very child gives its own peak, not the largest of all children so far
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    printed = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the build failed; see above")
    build_s = perf_counter() - start
    ours, theirs = work / "ours.npz", work / "theirs.npz"
    _child("ours", bundle, ours)
    _child("theirs", checkpoint, theirs)
    mine, other = np.load(ours), np.load(theirs)
    mse = float(np.mean((mine["pixels"].astype(np.float64) - other["pixels"]) ** 2))
    return {
        "build": json.loads(printed),
        "build_s": build_s,
        "build_peak_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
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
        *((f"{name} against torch", f"{p['relative_error']:.1e}, {p['psnr']:.0f} dB")
          for name, p in figures["build"]["parity"].items()),
        (f"{STEPS}-step latents against diffusers", str(figures["latents"])),
        (f"{STEPS}-step picture against diffusers", f"{figures['picture_psnr']:.1f} dB"),
    ]  # fmt: skip
    print_table("full-size SD 1.5, one 512×512 profile", ("figure", "value"), rows)
    both = [("latentrt", figures["ours"]), ("diffusers", figures["theirs"])]
    print_table(
        "not interleaved: see the latency benchmark for comparisons",
        ("", "open s", "step s", "decode s", "peak memory"),
        [(name, *(round(f[key], 2) for key in ("open_s", "step_s", "decode_s")), megabytes(f["peak_bytes"]))
         for name, f in both],
    )  # fmt: skip


def main() -> None:
    """The command; with a stage's name as the first argument, that stage alone."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        stages: dict[str, Callable[..., None]] = {
            "checkpoint": save_checkpoint,
            "ours": draw_ours,
            "theirs": draw_theirs,
        }
        stages[sys.argv[1]](*map(Path, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/full-size"))
    report(run(parser.parse_args().work))


if __name__ == "__main__":
    main()
