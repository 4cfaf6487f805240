"""What a component may be: some of its nodes in floating point, at a price in time, and what pictures gain."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.engines.bundle.records.component import FrontierPointRecord
from latentrt.quantization.judge import PictureQuality
from latentrt.quantization.timing import StepTime


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """One choice.

    ``floating`` counts the nodes in floating point. ``time`` is None where nothing was timed, ``quality`` where it was
    not drawn with, because it is slower than one that is good enough.
    """

    floating: int
    time: StepTime | None
    quality: PictureQuality | None

    def reaches(self, required: float) -> bool:
        """Whether its pictures are known to be good enough."""
        return self.quality is not None and self.quality.reaches(required)

    def slower(self, other: "FrontierPoint") -> bool:
        """Whether it is known to take longer than another."""
        return self.time is not None and other.time is not None and self.time.slower(other.time)

    def record(self) -> FrontierPointRecord:
        """As the bundle keeps it."""
        return FrontierPointRecord(
            floating=self.floating,
            step=self.time.median if self.time else None,
            spread=self.time.spread if self.time else None,
            psnr_mean=self.quality.mean if self.quality else None,
            psnr_worst=self.quality.worst if self.quality else None,
        )


def best_point(points: Sequence[FrontierPoint], required: float) -> FrontierPoint | None:
    """Of those that are good enough, and as fast as the fastest of them as far as timing can tell, the nearest to fp32.

    Args:
        points: in the order in which they were tried; without times the first that is good enough is taken.
        required: the mean PSNR in dB.

    Returns:
        None if no point is good enough.
    """
    good = [point for point in points if point.reaches(required)]
    timed = [point for point in good if point.time is not None]
    if not timed:
        return good[0] if good else None
    fastest = min(timed, key=lambda point: point.time.median if point.time else 0.0)
    as_fast = [point for point in timed if not point.slower(fastest)]
    return max(as_fast, key=lambda point: point.quality.mean if point.quality else 0.0)
