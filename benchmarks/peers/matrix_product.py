"""The machine's own peak: a large float32 matrix product, by every library that is at hand."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

_REPEATS = 3


class Adapter:
    """Draws nothing: its times are those of the product of two square matrices."""

    def open(self, model: str, options: Mapping[str, Any]) -> None:
        """Makes matrices of ``options['size']`` rows."""
        size = options["size"]
        a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        out = np.empty_like(a)
        self._products: dict[str, Callable[[], object]] = {"NumPy": lambda: np.matmul(a, b, out=out)}
        try:
            import torch
        except ImportError:
            return
        first, second, result = (torch.from_numpy(array) for array in (a, b, out))
        self._products["PyTorch"] = lambda: torch.matmul(first, second, out=result)

    def arithmetic(self, request: Mapping[str, Any]) -> None:
        """It has no U-Net."""

    def versions(self) -> Mapping[str, str]:
        """NumPy's."""
        return {"numpy": np.__version__}

    def draw(self, request: Mapping[str, Any], output: Path | None) -> Mapping[str, Any]:
        """The best of a few products' seconds, by library."""
        return {name: min(_seconds(product) for _ in range(_REPEATS)) for name, product in self._products.items()}


def _seconds(work: Callable[[], object]) -> float:
    begin = perf_counter()
    work()
    return perf_counter() - begin
