"""What the loop on the device costs beside the loop on the host, and how far their latents are apart.

``python -m latentrt.benchmarks.studies.device_loop emoji.bundle`` prints, for each sampler, the medians of rounds that
take turns: seconds between the first model call and the last latents, the device's as a share of the host's in the same
round, and the largest difference of the latents relative to the largest number.
"""

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from latentrt.cli.terminal import print_table
from latentrt.engines.errors import LatentrtError
from latentrt.engines.shapes import Loop
from latentrt.engines.spec import Array
from latentrt.engines.store.choose import AUTO
from latentrt.opening import open_pipeline

_SAMPLERS = ("euler", "euler_a", "ddim", "heun", "dpmpp_2m", "dpmpp_sde", "unipc", "lms", "pndm", "lcm")


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default=AUTO)
    parser.add_argument("--samplers", nargs="+", default=_SAMPLERS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1)
    arguments = parser.parse_args()
    draw = {
        "prompt": ["a red apple"] * arguments.pictures,
        "num_inference_steps": arguments.steps,
        "output_type": "latent",
        "seed": 3,
    }
    try:
        with ExitStack() as opened:
            pipes = {
                loop.value: opened.enter_context(open_pipeline(arguments.bundle, backend=arguments.backend, loop=loop))
                for loop in Loop
            }
            rows = [_row(pipes, {**draw, "sampler": name}, arguments.rounds) for name in arguments.samplers]
    except LatentrtError as error:  # such as a bundle that was built before there were whole steps
        raise SystemExit(f"device_loop: {error}") from None
    columns = ("", "host s", "device s", "of the host's", "apart")
    print_table(f"{arguments.steps} steps, medians of {arguments.rounds} rounds", columns, rows)


def _row(pipes: Mapping[str, Any], draw: Mapping[str, Any], rounds: int) -> tuple[str, ...]:
    latents = {name: pipe(**draw).latents for name, pipe in pipes.items()}  # warms up, too
    seconds: dict[str, list[float]] = {loop.value: [] for loop in Loop}
    for _ in range(rounds):
        for name, own in seconds.items():
            own.append(pipes[name](**draw).timings.denoise)
    host, device = seconds[Loop.HOST.value], seconds[Loop.DEVICE.value]
    share = median(one / other for one, other in zip(device, host, strict=True))
    expected = latents[Loop.HOST.value]
    apart = _apart(latents[Loop.DEVICE.value], expected)
    return draw["sampler"], f"{median(host):.3f}", f"{median(device):.3f}", f"{share:.2f}", apart


def _apart(latents: Array, expected: Array) -> str:
    return f"{np.abs(latents - expected).max() / np.abs(expected).max():.1e}"


if __name__ == "__main__":
    main()
