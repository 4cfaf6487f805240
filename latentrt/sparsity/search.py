"""Finds how many layers can be pruned before pictures are not good enough."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from latentrt.engines.bundle.records.sparsity import SparsityPointRecord
from latentrt.engines.pruning.layers import PrunableLayer
from latentrt.quantization.judge import PictureQuality

# Which part of the multiplications pruned layers may have: all at first, then ever less
SHARES = (1.0, 0.75, 0.5, 0.25, 0.125, 0.0625)
# How often what lies between the last that was too much and the first that was not is halved
_REFINED = 2


@dataclass(frozen=True, kw_only=True)
class SparsityPoint:
    """Some pruned layers, how much of all multiplications are theirs, and what pictures are with them."""

    layers: tuple[PrunableLayer, ...]
    share: float
    quality: PictureQuality

    def record(self) -> SparsityPointRecord:
        """As the bundle keeps it."""
        return SparsityPointRecord(
            layers=len(self.layers),
            share=self.share,
            psnr_mean=self.quality.mean,
            psnr_worst=self.quality.worst,
        )


@dataclass(frozen=True, kw_only=True)
class SparsitySearch:
    """One U-Net's search.

    ``scores`` and ``shares`` are by path: what pruning a layer costs the latents, and how much of all multiplications
    are its own. ``judge`` tells how good pictures are with some layers pruned, and ``required`` is the mean PSNR in dB.
    """

    layers: Sequence[PrunableLayer]
    scores: Mapping[str, float]
    shares: Mapping[str, float]
    judge: Callable[[Sequence[PrunableLayer]], PictureQuality]
    required: float

    def run(self) -> tuple[SparsityPoint | None, list[SparsityPoint]]:
        """Prunes ever less until pictures are good enough, and then a little more again.

        Returns:
            The largest share that is good enough, None if none is; and all that was tried, the largest first.
        """
        points: list[SparsityPoint] = []
        good, bad = 0.0, 1.0
        for share in SHARES:
            if self._try(share, points):
                good = share
                break
            bad = share
        for _ in range(_REFINED if 0.0 < good < 1.0 else 0):
            middle = (good + bad) / 2
            if self._try(middle, points):
                good = middle
            else:
                bad = middle
        points.sort(key=lambda point: -point.share)
        return next((point for point in points if point.quality.reaches(self.required)), None), points

    def _try(self, share: float, points: list[SparsityPoint]) -> bool:
        """Whether the layers that fill a share are good enough; a point is added unless they were judged before."""
        layers = self.within(share)
        if not layers:
            return False
        point = next((one for one in points if one.layers == layers), None)
        if point is None:
            own = sum(self.shares[layer.path] for layer in layers)
            point = SparsityPoint(layers=layers, share=own, quality=self.judge(layers))
            points.append(point)
        return point.quality.reaches(self.required)

    def within(self, share: float) -> tuple[PrunableLayer, ...]:
        """The layers to prune first that have no more of the multiplications: those that cost least for each of them.

        Errors of layers are taken to be independent, so what they cost together is the sum of their squares.
        """
        chosen, room = [], share + 1e-9  # all of them sum up to one but for rounding
        for layer in sorted(self.layers, key=lambda one: self.scores[one.path] ** 2 / self.shares[one.path]):
            room -= self.shares[layer.path]
            if room < 0.0:
                break
            chosen.append(layer)
        return tuple(chosen)
