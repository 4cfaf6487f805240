"""Any number of samples through engines that run only certain batch sizes."""

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
    pieces = []
    for start, stop, batch in pieces_of(len(array), engine.spec.batches):
        piece = array[start:stop]
        padding = [(0, batch - len(piece))] + [(0, 0)] * (array.ndim - 1)
        pieces.append(engine.run({source: np.pad(piece, padding)})[result][: len(piece)])
    return np.concatenate(pieces)


def pieces_of(count: int, batches: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Cuts ``count`` samples into (start, stop, engine batch), batches ascending in ``batches``."""
    cuts, start = [], 0
    while start < count:
        stop = min(start + batches[-1], count)
        batch = next(b for b in batches if b >= stop - start)
        cuts.append((start, stop, batch))
        start = stop
    return cuts
