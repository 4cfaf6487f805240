"""What threads gain that share a pipeline: pictures a second of several against one thread.

``python -m latentrt.benchmarks.studies.threads BUNDLE`` prints the table of ``docs/lanes.md``.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from PIL import Image

from latentrt.cli.terminal import print_table
from latentrt.opening import open_pipeline
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.lanes.batching import Batching

_SAMPLERS = ("euler", "ddim", "dpmpp_2m_k", "euler_a")
Draw = Callable[[int], bytes]


def main() -> None:
    """Reads the arguments, measures in rounds that take turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a model's; its first profile is drawn")
    parser.add_argument("--threads", type=int, nargs="+", default=(2, 4, 8, 16))
    parser.add_argument("--pictures", type=int, default=32, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with ExitStack() as opened:
        pipes = {
            batching: opened.enter_context(open_pipeline(arguments.bundle, batching=batching)) for batching in Batching
        }
        shared, alone = (partial(_drawn, pipes[batching]) for batching in (Batching.SHARED, Batching.ALONE))
        ways: dict[str, tuple[int, Draw]] = {"one thread": (1, alone)}
        for count in arguments.threads:
            ways |= {f"{count} threads": (count, shared), f"{count} threads, alone": (count, alone)}
        rows = _rows(ways, range(arguments.pictures), arguments.rounds)
    print_table(
        f"{arguments.bundle.name}, {arguments.pictures} pictures a round, medians of {arguments.rounds} rounds",
        ("", "pictures/s", "of one thread", "processor ms a picture"),
        rows,
    )


def _rows(ways: Mapping[str, tuple[int, Draw]], seeds: Sequence[int], rounds: int) -> list[tuple[str, ...]]:
    """Pictures a second of each way, what that is of the first one's in the same round, and the processors' time.

    Raises:
        SystemExit: a picture that is not the one that a single thread drew.
    """
    expected: list[bytes] = []
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (count, draw) in ways.items():
            with ThreadPoolExecutor(count) as threads:
                begin, computed = perf_counter(), process_time()
                drawn = list(threads.map(draw, seeds))
                speeds[name].append(len(seeds) / (perf_counter() - begin))
                processor[name].append((process_time() - computed) / len(seeds) * 1000)
            expected = expected or drawn
            if drawn != expected:
                raise SystemExit(f"{name} drew other pictures than one thread")
    first = next(iter(speeds.values()))
    rows: list[tuple[str, ...]] = []
    for name, own in speeds.items():
        ratios = [speed / one for speed, one in zip(own, first, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((name, f"{median(own):.2f}", ratio, f"{median(processor[name]):.0f}"))
    return rows


def _drawn(pipe: Pipeline, seed: int) -> bytes:
    """A picture as a PNG, by a sampler and in a number of steps that go with the seed."""
    sampler, steps = _SAMPLERS[seed % len(_SAMPLERS)], 8 + seed % 5
    result = pipe("cat face", num_inference_steps=steps, guidance_scale=3, sampler=sampler, seed=seed)
    (picture,) = result.images
    assert isinstance(picture, Image.Image)  # as nothing else was asked for; for the type checker
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
