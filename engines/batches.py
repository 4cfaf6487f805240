"""Any number of samples through engines that run only certain batch sizes."""

from collections.abc import Iterator, Mapping

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array


def in_batches(engine: Engine, source: str, array: Array, result: str) -> Array:
    """Runs an engine of one input over any number of samples, in pieces that its batch sizes allow.

    Args:
        engine: the engine.
        source: name of its input.
        array: (N, …).
        result: name of the wanted output.

    Returns:
        (N, …), the output for each sample.
    """
    return np.concatenate([results[result] for results in batch_results(engine, {source: array})])


def batch_results(engine: Engine, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Runs an engine over any number of samples; yields the outputs (n, …) of each piece in turn.

    Args:
        engine: the engine.
        inputs: (N, …) each.
    """
    count = len(next(iter(inputs.values())))
    for start, stop, batch in pieces_of(count, engine.spec.batches):
        filled = [(0, batch - (stop - start))]
        piece = {
            name: np.pad(array[start:stop], filled + [(0, 0)] * (array.ndim - 1)) for name, array in inputs.items()
        }
        yield {name: output[: stop - start] for name, output in engine.run(piece).items()}


def pieces_of(count: int, batches: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cuts ``count`` samples into (start, stop, engine batch), batches ascending in ``batches``."""
    cuts, start = [], 0
    while start < count:
        stop = min(start + batches[-1], count)
        batch = next(b for b in batches if b >= stop - start)
        cuts.append((start, stop, batch))
        start = stop
    return cuts
