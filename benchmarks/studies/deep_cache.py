"""What DeepCache costs and gains: how far its pictures are from those of full runs, and how long they take.

``python -m latentrt.benchmarks.studies.deep_cache BUNDLE`` prints the tables of ``docs/deep_cache.md``.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from latentrt.cli.terminal import print_table
from latentrt.engines.store.choose import AUTO
from latentrt.opening import open_pipeline
from latentrt.prompt_files import prompts_from_file
from latentrt.quantization.psnr import picture_psnr
from latentrt.quantization.subjects import default_prompts
from latentrt.runtime.call.deep_cache import DeepCache
from latentrt.runtime.pipeline import Pipeline

_SEED = 1000
_DRAWN = ("red apple", "frog", "sunflower", "cat face", "tiger face", "pizza")


def main() -> None:
    """Reads the arguments, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a model's; its first profile is drawn")
    parser.add_argument("--backend", default=AUTO)
    parser.add_argument("--samplers", nargs="+", default=("dpmpp_2m",))
    parser.add_argument("--steps", type=int, nargs="+", default=(20, 50))
    parser.add_argument("--intervals", type=int, nargs="+", default=(2, 3, 5))
    parser.add_argument("--branches", type=int, nargs="+", default=(0,))
    parser.add_argument("--prompts", type=Path, help="a file with one a line; default: the calibration's")
    parser.add_argument("--guidance", type=float, help="scale; default: the bundle's")
    parser.add_argument("--rounds", type=int, default=0, help="time instead, a picture of each way in turn")
    parser.add_argument("--picture", type=Path, help="where to put full runs, cached ones and what differs, six each")
    arguments = parser.parse_args()
    caches = [DeepCache(interval=n, branch=b) for n, b in product(arguments.intervals, arguments.branches)]
    with open_pipeline(arguments.bundle, backend=arguments.backend) as pipe:
        given, model = arguments.prompts, pipe.manifest.source.name
        prompts = default_prompts(model) if given is None else prompts_from_file(given)
        if arguments.picture is not None:
            common = {"sampler": arguments.samplers[0], "num_inference_steps": arguments.steps[0]}
            _sheet(pipe, {**common, "guidance_scale": arguments.guidance}, caches[0]).save(arguments.picture)
            return
        for sampler, steps in product(arguments.samplers, arguments.steps):
            common = {"sampler": sampler, "num_inference_steps": steps, "guidance_scale": arguments.guidance}
            if arguments.rounds:
                rows = _times(pipe, prompts, caches, common, arguments.rounds)
                _print(f"{sampler}, {steps} steps: time, medians of {arguments.rounds} rounds", rows)
            else:
                rows = _distances(pipe, prompts, caches, common)
                _print(f"{sampler}, {steps} steps: PSNR to the full run in dB, {len(prompts)} prompts", rows)


def _sheet(pipe: Pipeline, common: Mapping[str, Any], cache: DeepCache) -> Image.Image:
    """Pictures of full runs, those of cached ones below, and four times what differs, on white."""
    options = {**common, "seed": [5] * len(_DRAWN), "output_type": "np"}
    drawn = (pipe(list(_DRAWN), **options, deep_cache=one).images for one in (None, cache))
    full, cached = (np.stack([np.asarray(picture) for picture in pictures]) for pictures in drawn)
    rows = [full, cached, 1.0 - np.clip(4.0 * np.abs(full - cached), 0.0, 1.0)]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    return Image.fromarray((sheet * 255).round().astype(np.uint8))


def _print(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    print_table(title, tuple(rows[0]), [tuple(row.values()) for row in rows])


def _distances(
    pipe: Pipeline, prompts: Sequence[str], caches: Sequence[DeepCache], common: Mapping[str, Any]
) -> list[dict[str, str]]:
    """PSNR of each way's pictures to those of the full run: mean, worst, and whose it is."""
    full = list(_pictures(pipe, prompts, common))
    rows = []
    for cache in caches:
        drawn = _pictures(pipe, prompts, {**common, "deep_cache": cache})
        decibels = [picture_psnr(one, other) for one, other in zip(drawn, full, strict=True)]
        worst = int(np.argmin(decibels))
        rows.append(
            {
                "interval": str(cache.interval),
                "branch": str(cache.branch),
                "mean": f"{np.mean(decibels):.1f}",
                "worst": f"{decibels[worst]:.1f}",
                "of": prompts[worst],
            }
        )
    return rows


def _pictures(pipe: Pipeline, prompts: Sequence[str], options: Mapping[str, Any]) -> Iterator[Any]:
    """A picture of every prompt, each with a seed of its own, in batches of the profile's."""
    size = pipe.manifest.profiles[0].batch
    for begin in range(0, len(prompts), size):
        some = list(prompts[begin : begin + size])
        seeds = [_SEED + begin + index for index in range(len(some))]
        yield from pipe(some, seed=seeds, output_type="np", **options).images


def _times(
    pipe: Pipeline, prompts: Sequence[str], caches: Sequence[DeepCache], common: Mapping[str, Any], rounds: int
) -> list[dict[str, str]]:
    """Of one picture by each way in turn: seconds, model calls among them, and both as shares of the full run's."""
    ways: dict[str, Mapping[str, Any]] = {"full": common}
    ways |= {f"{cache.interval}, branch {cache.branch}": {**common, "deep_cache": cache} for cache in caches}
    pictures: dict[str, list[float]] = {name: [] for name in ways}
    calls: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds + 1):  # the first one opens and warms up
        for name, options in ways.items():
            begin = perf_counter()
            result = pipe(prompts[index % len(prompts)], seed=index, **options)
            if index:
                pictures[name].append(perf_counter() - begin)
                calls[name].append(sum(result.timings.calls))

    def share(times: Mapping[str, Sequence[float]], name: str) -> str:
        ratios = [own / one for own, one in zip(times[name], times["full"], strict=True)]
        return f"{median(ratios):.2f}"

    return [
        {
            "interval": name,
            "picture": f"{median(pictures[name]):.3f} s",
            "of full": share(pictures, name),
            "model calls": f"{median(calls[name]):.3f} s",
            "of full's": share(calls, name),
        }
        for name in ways
    ]


if __name__ == "__main__":
    main()
