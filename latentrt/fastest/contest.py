"""The contest: candidates are made, timed and judged, and the fastest that is good enough is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from latentrt.engines.errors import CheckpointError, EngineError, ParityError, RequestError
from latentrt.engines.store.speed import SpeedRow
from latentrt.fastest.candidates import EXACT, Candidate, Candidates
from latentrt.fastest.timing import Pace, Turn, pace
from latentrt.quantization.judge import TOLERANCE, PictureQuality

_Made = TypeVar("_Made")
# Shares of the exact engine's time above which it is kept: so small a gain is noise, and not worth its digits
WORTH_IT = 0.97
_REFUSALS = (RequestError, CheckpointError, EngineError, ParityError)


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[_Made]):
    """What is kept, what was made for it, what it was compared with, the rows of all, and how many rounds there were.

    ``rows`` are in the order in which they were tried, those left out at the end.
    """

    kept: Candidate
    made: _Made
    reference: Candidate
    rows: tuple[SpeedRow, ...]
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Contest(Generic[_Made]):
    """How candidates are made, timed and judged.

    ``make`` makes one; that it cannot be made is told by an error. ``time`` gives everyone's turns, as many for each.
    ``judge`` compares the pictures of the first with those of the second. ``quality`` is the mean PSNR in dB that is
    required.
    """

    make: Callable[[Candidate], _Made]
    time: Callable[[Mapping[Candidate, _Made]], Mapping[Candidate, Sequence[Turn]]]
    judge: Callable[[Candidate, Candidate, Mapping[Candidate, _Made]], PictureQuality]
    quality: float

    def run(self, candidates: Candidates) -> Outcome[_Made]:
        """Holds it.

        The first that can be made is the reference: an exact engine, as these are tried first. What is slower than one
        that is good enough is not judged.

        Raises:
            LatentrtError: of the kind that names the reason: ``EXACT`` cannot be made, or the disk is full.
        """
        made, reasons = self._make_all(candidates.tried)
        reference = next(iter(made))
        turns = self.time(made)
        paces = {candidate: pace(turns[candidate], turns[reference]) for candidate in made}
        qualities: dict[Candidate, PictureQuality] = {}
        kept = reference
        for candidate in sorted(made, key=lambda one: paces[one].share):
            if candidate == reference:
                break
            if paces[candidate].share > WORTH_IT:
                reasons[candidate] = f"hardly faster than {reference}, which is exact"
                continue
            try:
                quality = qualities[candidate] = self.judge(candidate, reference, made)
            except EngineError as error:
                reasons[candidate] = str(error)
                continue
            if quality.reaches(self.quality):
                kept = candidate
                break
            reasons[candidate] = self._shortfall(quality)
        for candidate in made:
            if candidate != kept:
                reasons.setdefault(candidate, f"slower than {kept}")
        told = {**reasons, **candidates.left_out}
        return Outcome(
            kept=kept,
            made=made[kept],
            reference=reference,
            rows=tuple(
                _row(one, paces.get(one), qualities.get(one), told.get(one))
                for one in (*candidates.tried, *candidates.left_out)
            ),
            rounds=len(turns[reference]),
        )

    def _make_all(self, tried: Sequence[Candidate]) -> tuple[dict[Candidate, _Made], dict[Candidate, str]]:
        made: dict[Candidate, _Made] = {}
        reasons: dict[Candidate, str] = {}
        for candidate in tried:
            try:
                made[candidate] = self.make(candidate)
            except _REFUSALS as error:
                if candidate == EXACT:  # there may be nothing else to compare with
                    raise
                reasons[candidate] = str(error)
        return made, reasons

    def _shortfall(self, quality: PictureQuality) -> str:
        return (
            f"its pictures reach a mean of {quality.mean:.1f} dB (worst {quality.worst:.1f} dB), expected "
            f"{self.quality:g} dB and no picture {TOLERANCE:g} dB below"
        )


def _row(candidate: Candidate, pace: Pace | None, quality: PictureQuality | None, reason: str | None) -> SpeedRow:
    return SpeedRow(
        precision=candidate.precision,
        backend=candidate.backend,
        step=None if pace is None else pace.step,
        picture=None if pace is None else pace.picture,
        share=None if pace is None else pace.share,
        psnr_mean=None if quality is None else quality.mean,
        psnr_worst=None if quality is None else quality.worst,
        reason=reason,
    )
