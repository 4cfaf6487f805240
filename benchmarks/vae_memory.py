"""Peak memory of decoding a picture whole and in tiles: SD 1.5's decoder with random weights, on the CPU.

    python -m latentrt.benchmarks.vae_memory [--work DIR] [--size PIXELS]…

The decoder (200 MB) is exported once into DIR. Every figure comes from a process of its own; decoding whole wants
4 · (pixels / 8)⁴ bytes for the attention in the middle alone, 17 GB at 2048.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from latentrt.benchmarks.architectures import VAE
from latentrt.cli.terminal import print_table
from latentrt.engines.backends.ort_cpu.compile import compile_onnx
from latentrt.engines.backends.ort_cpu.model import OrtCpuEngine, OrtCpuModel
from latentrt.engines.bundle.latent_space import LatentSpace
from latentrt.engines.spec import BATCH, EngineSpec, TensorSpec
from latentrt.runtime.pictures.autoencoder import pixels_from_latents
from latentrt.runtime.pictures.tiling import TiledEngine, VaeMode

RECORD = LatentSpace(
    channels=4, scaling_factor=0.18215, shift_factor=0.0, height_factor=8, width_factor=8, tile_pixels=512
)


def export_decoder(folder: Path) -> None:
    """Writes the decoder's ONNX and its compiled form below ``folder``."""
    import torch
    from diffusers import AutoencoderKL

    from latentrt.export.modules.vae import VaeDecoderModule
    from latentrt.export.tracing.onnx_export import Graph, batch_record, export_onnx

    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE)
    graph = Graph(
        inputs={"latent_sample": batch_record("float32", 4, "latent_height", "latent_width")},
        outputs={"sample": batch_record("float32", 3, "height", "width")},
        multiples={},
    )
    module = VaeDecoderModule(vae.eval())
    export_onnx(module, {"latent_sample": torch.zeros(2, 4, 16, 24)}, graph, folder / "onnx")
    (folder / "engine").mkdir()
    compile_onnx(folder / "onnx" / "model.onnx", folder / "engine")


def measure(folder: Path, size: int, mode: VaeMode) -> dict[str, float]:
    """Decodes one picture in this process: seconds, and megabytes of peak memory before and after."""
    model = OrtCpuModel.of_compiled(folder / "engine", threads=None)

    def spec_at(width: int, height: int) -> EngineSpec:
        float32 = np.dtype(np.float32)
        latents = TensorSpec(shape=(BATCH, 4, height // 8, width // 8), dtype=float32)
        pixels = TensorSpec(shape=(BATCH, 3, height, width), dtype=float32)
        return EngineSpec(inputs={"latent_sample": latents}, outputs={"sample": pixels}, batches=(1,))

    def at_size(width: int, height: int) -> OrtCpuEngine:
        return OrtCpuEngine(model, spec_at(width, height))

    engine = TiledEngine(spec_at(size, size), at_size, RECORD) if mode is VaeMode.TILED else at_size(size, size)
    latents = np.random.default_rng(0).normal(size=(1, 4, size // 8, size // 8)).astype(np.float32)
    opened, begin = _peak(), perf_counter()
    pixels_from_latents(engine, RECORD, latents)
    return {"seconds": perf_counter() - begin, "opened": opened, "peak": _peak()}


def _peak() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measures every size and mode asked for and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/vae-memory"))
    parser.add_argument("--size", type=int, action="append", help="side in pixels, a multiple of 8; repeatable")
    parser.add_argument("--mode", type=VaeMode, action="append", help="whole or tiled; repeatable; both by default")
    parser.add_argument("--json", action="store_true", help="measure in this process and print one JSON object")
    parser.add_argument("--export", action="store_true", help="only write the decoder, in this process")
    arguments = parser.parse_args()
    modes = arguments.mode or [VaeMode.WHOLE, VaeMode.TILED]
    if arguments.json:
        print(json.dumps(measure(arguments.work, arguments.size[0], modes[0])))
        return
    if arguments.export:
        export_decoder(arguments.work)
        return
    program = [sys.executable, "-m", "latentrt.benchmarks.vae_memory", "--work", str(arguments.work)]
    if not (arguments.work / "engine" / "model.onnx").is_file():
        # not here: the peak of a child process counts from its parent's size
        subprocess.run([*program, "--export"], check=True)
    rows = []
    for size in arguments.size or [1024, 2048]:
        for mode in modes:
            command = [*program, "--json", "--size", str(size), "--mode", mode]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                rows.append((f"{size}x{size}", mode.value, f"failed ({done.returncode})", "", ""))
                continue
            figures = json.loads(done.stdout)
            rows.append(
                (f"{size}x{size}", mode.value, *(f"{figures[key]:.0f}" for key in ("seconds", "opened", "peak")))
            )
    print_table("decoding one picture", ("size", "way", "seconds", "MB opened", "MB at the peak"), rows)


if __name__ == "__main__":
    main()
