"""The pictures of a server beside those drawn alone: none lost, none mixed up, none further off than rounding."""

import io
from collections.abc import Iterable
from math import log10
from pathlib import Path

import numpy as np
from PIL import Image

from latentrt.benchmarks.serving.clients import Delivered
from latentrt.benchmarks.serving.schema import Pictures

CLOSE = 60.0  # dB; a batch's rounding may move single values by one


class Compared:
    """Counts; ``folder`` has the pictures drawn alone."""

    def __init__(self, folder: Path) -> None:
        """Nothing is compared yet."""
        self._folder = folder
        self._asked = self._equal = self._close = 0
        self._worst: float | None = None
        self._wrong: list[str] = []

    def take(self, delivered: Iterable[Delivered]) -> None:
        """Compares each."""
        for one in delivered:
            self._asked += 1
            if one.png is None:
                self._wrong.append(f"{one.asked.digest} ({one.asked.way}) did not come: {one.reason}")
                continue
            psnr = distance(one.png, self._folder / f"{one.asked.digest}.png")
            if psnr is None:
                self._equal += 1
                continue
            self._worst = psnr if self._worst is None else min(self._worst, psnr)
            if psnr >= CLOSE:
                self._close += 1
            else:
                self._wrong.append(f"{one.asked.digest} ({one.asked.way}) is {self._whose(one, psnr)}")

    def _whose(self, one: Delivered, psnr: float) -> str:
        """Whose picture it is, where it is another's."""
        assert one.png is not None
        for path in self._folder.glob("*.png"):
            if path.stem != one.asked.digest and distance(one.png, path) is None:
                return f"the picture of {path.stem}"
        return f"{psnr:.1f} dB from the one drawn alone"

    def result(self) -> Pictures:
        """All that was counted."""
        return Pictures(
            asked=self._asked,
            equal=self._equal,
            close=self._close,
            worst_psnr=self._worst,
            wrong=tuple(self._wrong),
        )


def distance(png: bytes, expected: Path) -> float | None:
    """PSNR in dB of a picture against a file's; None: they are equal. Of another size it is 0."""
    got, wanted = (np.asarray(Image.open(source).convert("RGB"), np.float64) for source in (io.BytesIO(png), expected))
    if got.shape != wanted.shape:
        return 0.0
    error = float(np.mean((got - wanted) ** 2))
    return None if error == 0 else 10 * log10(255**2 / error)
