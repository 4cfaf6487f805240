"""The machine's peak: how many FLOP a second a large float32 matrix product reaches, in a process of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.benchmarks.bench.workers.process import OWN_PYTHON, Worker
from latentrt.benchmarks.report.schema import Figure, Peak

SIZE = 2048  # rows of the matrices


class PeakMeter:
    """Measures it between the contenders' draws."""

    def __init__(self, *, timeout: float, threads: int | None) -> None:
        """Starts its process, which has as many threads as the contenders; None leaves it to the libraries.

        Raises:
            WorkerError: it does not start, or takes longer than ``timeout`` seconds.
        """
        self._worker = Worker(OWN_PYTHON, "matrix_product", timeout=timeout, threads=threads)
        self._worker.ask({"do": "open", "model": "", "options": {"size": SIZE}})
        self.seconds()
        self.close = self._worker.close

    def seconds(self) -> dict[str, Any]:
        """Of one product, by library."""
        return dict(self._worker.ask({"do": "draw"})["seconds"])


def peak_from_seconds(samples: Sequence[Mapping[str, float]]) -> Peak | None:
    """FLOP per second from the products' times; a product of square matrices takes 2 · SIZE³."""
    if not samples:
        return None
    libraries = sorted(set.intersection(*(set(sample) for sample in samples)))
    return Peak(
        size=SIZE,
        by_library={name: Figure.of([2 * SIZE**3 / sample[name] for sample in samples]) for name in libraries},
    )
