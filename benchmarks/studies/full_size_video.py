"""One step of a video at a model's true size: with latentrt, with diffusers, and how far they are apart.

    python -m latentrt.benchmarks.studies.full_size_video ours|theirs MODEL PROFILE OUTPUT

draws it with one of them and prints its seconds; each has a process of its own, whose peak memory is a figure.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from latentrt.cli.terminal import megabytes, print_table
from latentrt.engines.bundle.checks.parity import parity_of, psnr
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.shapes import Profile, profile_from_text

STEPS, SEED, CHUNK = 1, 7, 2


def draw_ours(model: Path, profile: Profile, output: Path) -> dict[str, float]:
    """Seconds to open the bundle, and those of a call's stages."""
    import latentrt

    begin = perf_counter()
    pipe = latentrt.open(model)
    opened = perf_counter() - begin
    result = pipe.img2vid(
        photograph(profile),
        width=profile.width,
        height=profile.height,
        num_frames=profile.frames,
        num_inference_steps=STEPS,
        decode_chunk_size=CHUNK,
        seed=SEED,
        output_type="np",
    )
    np.savez(output, latents=result.latents, frames=np.asarray(result.frames))
    timings = result.timings
    return {"open": opened, "step": timings.denoise / STEPS, "decode": timings.decode, "total": timings.total}


def draw_theirs(model: Path, profile: Profile, output: Path) -> dict[str, float]:
    """The same of the checkpoint in fp32; the decoder is called once more, apart."""
    import torch
    from diffusers import StableVideoDiffusionPipeline

    begin = perf_counter()
    pipe = StableVideoDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    opened = perf_counter() - begin
    unet, spent = pipe.unet.forward, list[float]()

    def watched(*arguments: object, **keywords: object) -> object:
        start = perf_counter()
        result = unet(*arguments, **keywords)
        spent.append(perf_counter() - start)
        return result

    pipe.unet.forward = watched
    begin = perf_counter()
    latents = pipe(
        photograph(profile),
        width=profile.width,
        height=profile.height,
        num_frames=profile.frames,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).frames
    drawn = perf_counter()
    with torch.inference_mode():
        decoded = pipe.decode_latents(latents, profile.frames, CHUNK)
    frames = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
    end = perf_counter()
    np.savez(output, latents=latents.numpy(), frames=frames.numpy())
    return {"open": opened, "step": sum(spent) / STEPS, "decode": end - drawn, "total": end - begin}


def compare_videos(work: Path, family: str, profile: Profile) -> None:
    """Draws with both, and prints how far they are apart, how long they took and how much memory."""
    rows, drawn = [], []
    for name, model in (("ours", work / f"{family}.bundle"), ("theirs", work / family)):
        output = work / f"{name}.npz"
        command = [sys.executable, "-m", __spec__.name, name, str(model), str(profile), str(output)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        printed = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name} failed; see above")
        seconds = json.loads(printed)
        rows.append((name, *(round(one, 1) for one in seconds.values()), megabytes(usage.ru_maxrss * 1024)))
        drawn.append(np.load(output))
    ours, theirs = drawn
    apart = psnr(ours["frames"], theirs["frames"], peak=1.0)
    latents = parity_of(ours["latents"], theirs["latents"])
    print_table(
        f"{STEPS} step of {profile} against diffusers in fp32",
        ("figure", "value"),
        [("latents", str(latents)), ("frames", f"{apart:.1f} dB")],
    )
    print_table("one behind the other", ("", "open s", "step s", "decode s", "total s", "peak memory"), rows)


def main() -> None:
    """The command."""
    name, model, profile, output = sys.argv[1:]
    draw = {"ours": draw_ours, "theirs": draw_theirs}[name]
    sys.stdout.write(json.dumps(draw(Path(model), profile_from_text(profile), Path(output))))


if __name__ == "__main__":
    main()
