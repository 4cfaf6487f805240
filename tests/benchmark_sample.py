"""A benchmark's result made up of round figures, for tests that measure nothing."""

from typing import Any

from latentrt.benchmarks.bench.quality import picture_data
from latentrt.benchmarks.report.schema import (
    SCHEMA,
    BenchResult,
    Contender,
    Figure,
    Latency,
    Machine,
    OwnEmoji,
    Peak,
    PictureQuality,
    Point,
    Quality,
    Scaling,
    Settings,
    Work,
)


def spread(seconds: float, count: int = 7) -> Figure:
    """Samples around a time, a few percent apart."""
    return Figure.of([seconds * (1 + 0.004 * place) for place in range(-(count // 2), count - count // 2)])


def contender(name: str, adapter: str, seconds: float, psnr: float | None = 90.0, **fields: Any) -> Contender:
    """A contender whose picture takes so long; everything else follows from that."""
    import numpy as np

    shown = picture_data(np.full((16, 16, 3), 0.4))
    quality = Quality(
        pictures=tuple(
            PictureQuality(
                prompt=prompt,
                seed=seed,
                latent_relative_error=1e-5,
                psnr=psnr if psnr is None else psnr + seed,
                ssim=0.999,
                flip=0.012,
                reference=shown,
                picture=shown,
                difference=shown,
            )
            for seed, prompt in enumerate(("cat", "frog & <toad>"))
        )
    )
    values = {
        "name": name,
        "adapter": adapter,
        "model": "emoji.bundle",
        "precision": "fp32",
        "versions": {"library": "1.2.3"},
        "command": f"python -P benchmarks/bench/workers/worker.py {adapter} --once '{{}}'",
        "latency": Latency(
            picture=spread(seconds),
            encode=spread(0.05 * seconds),
            denoise=spread(0.8 * seconds),
            step=spread(0.04 * seconds),
            unet_call=spread(0.039 * seconds),
            decode=spread(0.1 * seconds),
            rest=spread(0.05 * seconds),
            host_overhead=spread(0.001 * seconds),
        ),
        "cold_start": spread(5 * seconds),
        "open": spread(3 * seconds),
        "peak_bytes": int(3e8 * seconds),
        "model_bytes": 40_000_000,
        "packages_bytes": 190_000_000,
        "throughput": scaling((1, 2, 4), seconds, 0.9),
        "by_pixels": scaling((1024, 4096, 16384), seconds, 1.1),
        "quality": quality,
        "own_emoji": OwnEmoji(rate=0.75, pictures=8, references=100, guidance_scale=3.0),
    }
    return Contender(**{**values, **fields})


def scaling(values: tuple[int, ...], seconds: float, exponent: float) -> Scaling:
    """Times that follow a power of what is varied."""
    points = [
        Point(value=value, label=str(value), seconds=spread(seconds * (value / values[0]) ** exponent, 3))
        for value in values
    ]
    return Scaling(points=tuple(points), exponent=exponent)


def result(*contenders: Contender, **fields: Any) -> BenchResult:
    """A result of these; without any, ours, the reference, and a peer that was absent."""
    rows = contenders or (
        contender("latentrt fp32", "latentrt_bundle", 0.25, psnr=95.0),
        contender("diffusers", "diffusers_eager", 0.5, psnr=None),
        Contender(name="OpenVINO", adapter="openvino_fp32", model="emoji", precision="fp32", absent="no <wheel> here"),
    )
    values = {
        "schema_version": SCHEMA,
        "latentrt": "0.1.0",
        "created": "2026-11-21T12:00:00+00:00",
        "command": "latentrt bench emoji.bundle",
        "model": "emoji",
        "family": "sd1",
        "parameters": 10_600_000,
        "note": "",
        "settings": Settings(
            prompts=("cat", "frog & <toad>"),
            seed=1,
            steps=20,
            guidance_scale=7.5,
            sampler="DPM++ 2M, Karras",
            width=64,
            height=64,
            runs=7,
            cold_runs=7,
            resident=True,
        ),
        "machine": Machine(
            processor="a processor",
            cores=2,
            memory_bytes=24_000_000_000,
            system="Linux x86_64",
            python="3.11.7",
            features="AVX2",
            background=Figure.of([0.01]),
            idle_workers=Figure.of([0.0]),
        ),
        "peak": Peak(size=2048, by_library={"NumPy": Figure.of([9.0e10, 1.0e11])}),
        "work": Work(text_encoder=1.3e8, unet=1.2e9, vae_decoder=2.1e9),
        "reference": "diffusers",
        "contenders": rows,
        "seconds": 600.0,
    }
    return BenchResult(**{**values, **fields})
