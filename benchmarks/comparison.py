"""What changed between two results beyond the noise.

The rule for times: faster or slower where the medians differ by more than 3 % and a two-sided Mann–Whitney test gives
p < 0.01. It takes one value a run, as steps of one picture are not independent of each other: their median. With fewer
than five runs on either side no such p can be had (three against three give 0.1 at best), so there the values must not
overlap at all and the medians differ by more than 10 %. Sizes changed where they differ by more than 2 %, pictures
where the worst PSNR differs by more than 1 dB, own-emoji rates by the two-proportion test with the same p.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from math import sqrt
from statistics import NormalDist, median

from latentrt.benchmarks.schema import BenchResult, Contender, Figure, OwnEmoji, Record
from latentrt.benchmarks.units import bytes_text, psnr_text, seconds_text, share_text
from latentrt.engines.errors import RequestError

_RATIO, _P = 0.03, 0.01
_FEW, _RATIO_OF_FEW = 5, 0.10
_SIZE_RATIO, _DECIBEL = 0.02, 1.0


class Verdict(StrEnum):
    """What became of a figure."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no change beyond the noise"


class Change(Record):
    """One figure of one contender in both."""

    contender: str
    figure: str
    old: float
    new: float
    verdict: Verdict


class Comparison(Record):
    """All changes, the contenders that only one has, and what makes the two hard to compare."""

    warnings: tuple[str, ...]
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: first what to beware of, then what changed, then the rest in one line."""
        lines = [f"beware: {warning}" for warning in self.warnings]
        for verdict in (Verdict.WORSE, Verdict.BETTER):
            for change in self.changes:
                if change.verdict is verdict:
                    lines.append(_line(change))
        same = sum(change.verdict is Verdict.SAME for change in self.changes)
        lines += [f"only in the old one: {name}" for name in self.only_old]
        lines += [f"only in the new one: {name}" for name in self.only_new]
        return [*lines, f"{same} of {len(self.changes)} figures show no change beyond the noise"]


TIMES: Mapping[str, Callable[[Contender], Figure | None]] = {
    "picture": lambda row: row.latency.picture if row.latency else None,
    "text encoding": lambda row: row.latency.encode if row.latency else None,
    "step": lambda row: row.latency.step if row.latency else None,
    "decoding": lambda row: row.latency.decode if row.latency else None,
    "U-Net call": lambda row: row.latency.unet_call if row.latency else None,
    "host overhead per step": lambda row: row.latency.host_overhead if row.latency else None,
    "cold start": lambda row: row.cold_start,
    "opening": lambda row: row.open,
}
_OF_STEPS = ("step", "U-Net call", "host overhead per step")
_SIZES: Mapping[str, Callable[[Contender], int | None]] = {
    "peak memory": lambda row: row.peak_bytes,
    "model on disk": lambda row: row.model_bytes,
    "packages on disk": lambda row: row.packages_bytes,
}
_SCALINGS = {"throughput": "batch of", "by_pixels": "picture of", "by_steps": "steps:"}
_PSNR, _EMOJI = "worst PSNR", "own-emoji rate"


def compared(old: BenchResult, new: BenchResult) -> Comparison:
    """The comparison of two results.

    Raises:
        RequestError: they are of different models, sizes, steps or guidance, so that nothing can be compared.
    """
    for name, one, other in (
        ("model", old.model, new.model),
        ("picture size", f"{old.settings.width}x{old.settings.height}", f"{new.settings.width}x{new.settings.height}"),
        ("steps", old.settings.steps, new.settings.steps),
        ("guidance", old.settings.guidance_scale, new.settings.guidance_scale),
    ):
        if one != other:
            raise RequestError(
                f"got results of {name} {one} and {other}, expected one and the same; measure again alike"
            )
    before, after = ({row.name: row for row in result.measured} for result in (old, new))
    changes = [change for name in before if name in after for change in _changes(before[name], after[name])]
    return Comparison(
        warnings=tuple(_warnings(old, new)),
        changes=tuple(changes),
        only_old=tuple(name for name in before if name not in after),
        only_new=tuple(name for name in after if name not in before),
    )


def per_run(figure: Figure, runs: int) -> Figure:
    """One value a run: the median of its samples, which lie beside each other."""
    size, rest = divmod(len(figure.samples), runs)
    if rest or not size:  # some runs told fewer: which is which is not known
        return Figure.of([figure.median])
    return Figure.of([median(figure.samples[start : start + size]) for start in range(0, len(figure.samples), size)])


def time_verdict(old: Figure, new: Figure) -> Verdict:
    """Whether a time changed, by the rule of this module; both have one value a run."""
    from scipy.stats import mannwhitneyu

    ratio = new.median / old.median if old.median > 0 else 1.0
    change = max(ratio, 1 / ratio) - 1 if ratio > 0 else 0.0
    one, other = old.samples, new.samples
    if min(len(one), len(other)) < _FEW:
        apart = max(one) < min(other) or max(other) < min(one)
        counts = apart and change > _RATIO_OF_FEW
    else:
        counts = change > _RATIO and float(mannwhitneyu(one, other).pvalue) < _P
    if not counts:
        return Verdict.SAME
    return Verdict.BETTER if ratio < 1 else Verdict.WORSE


def _changes(old: Contender, new: Contender) -> list[Change]:
    found = []

    def note(figure: str, one: float, other: float, verdict: Verdict) -> None:
        found.append(Change(contender=old.name, figure=figure, old=one, new=other, verdict=verdict))

    for name, time in TIMES.items():
        before, after = time(old), time(new)
        if before is not None and after is not None:
            runs = [len(row.latency.picture.samples) if row.latency and name in _OF_STEPS else 0 for row in (old, new)]
            one_each = [per_run(figure, n) if n else figure for figure, n in zip((before, after), runs, strict=True)]
            note(name, before.median, after.median, time_verdict(*one_each))
    for name, before, after in _points(old, new):
        note(name, before.median, after.median, time_verdict(before, after))
    for name, size in _SIZES.items():
        one, other = size(old), size(new)
        if one and other:
            note(name, one, other, _threshold(other / one - 1, _SIZE_RATIO))
    if old.quality and new.quality:
        worst = [row.quality.worst.psnr for row in (old, new) if row.quality]
        if worst[0] is not None and worst[1] is not None:
            note(_PSNR, worst[0], worst[1], _threshold(worst[0] - worst[1], _DECIBEL))
    if old.own_emoji and new.own_emoji and _same_emoji(old.own_emoji, new.own_emoji):
        note(_EMOJI, old.own_emoji.rate, new.own_emoji.rate, _rate_verdict(old.own_emoji, new.own_emoji))
    return found


def _points(old: Contender, new: Contender) -> Iterator[tuple[str, Figure, Figure]]:
    """Throughput and scaling, at every value that both have."""
    for field, title in _SCALINGS.items():
        before, after = getattr(old, field), getattr(new, field)
        if before is not None and after is not None:
            later = {point.label: point.seconds for point in after.points}
            for point in before.points:
                if point.label in later:
                    yield f"{title} {point.label}", point.seconds, later[point.label]


def _same_emoji(old: OwnEmoji, new: OwnEmoji) -> bool:
    return (old.references, old.guidance_scale) == (new.references, new.guidance_scale)


def _rate_verdict(old: OwnEmoji, new: OwnEmoji) -> Verdict:
    """By the two-sided z test of two proportions with a pooled variance."""
    together = (old.rate * old.pictures + new.rate * new.pictures) / (old.pictures + new.pictures)
    deviation = sqrt(together * (1 - together) * (1 / old.pictures + 1 / new.pictures))
    if abs(new.rate - old.rate) <= NormalDist().inv_cdf(1 - _P / 2) * deviation:
        return Verdict.SAME
    return Verdict.BETTER if new.rate > old.rate else Verdict.WORSE


def _threshold(growth: float, tolerated: float) -> Verdict:
    if abs(growth) <= tolerated:
        return Verdict.SAME
    return Verdict.WORSE if growth > 0 else Verdict.BETTER


def _warnings(old: BenchResult, new: BenchResult) -> list[str]:
    found = []
    for name in ("processor", "cores", "system"):
        one, other = getattr(old.machine, name), getattr(new.machine, name)
        if one != other:
            found.append(f"another machine: {name} was {one}, is {other}")
    if old.peak and new.peak and abs(new.peak.best / old.peak.best - 1) > _RATIO_OF_FEW:
        found.append(
            f"the machine's own peak was {old.peak.best / 1e9:.0f} GFLOP/s, is {new.peak.best / 1e9:.0f}: "
            "times follow it"
        )
    for name in ("prompts", "seed", "sampler", "threads"):
        one, other = getattr(old.settings, name), getattr(new.settings, name)
        if one != other:
            found.append(f"{name} differ: {_shown(one)} and {_shown(other)}")
    before = {row.name: row.versions for row in old.measured}
    for row in new.measured:
        for name, version in row.versions.items():
            known = before.get(row.name, {}).get(name, version)
            if known != version:
                found.append(f"{row.name}: {name} was {known}, is {version}")
    if old.settings.resident != new.settings.resident:
        found.append("in one of them contenders were opened anew for every round")
    for title, result in (("old", old), ("new", new)):
        background = result.machine.background
        if background is not None and background.median > 0.05:
            found.append(f"other programs took {background.median:.0%} of the processors during the {title} one")
    return found


def _shown(setting: object) -> str:
    text = ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _line(change: Change) -> str:
    if change.figure == _EMOJI:
        old, new = share_text(change.old), share_text(change.new)
        return f"{change.contender}: {change.figure} {change.verdict}, {old} → {new}"
    if change.figure == _PSNR:
        return (
            f"{change.contender}: {change.figure} {change.verdict}, {psnr_text(change.old)} → {psnr_text(change.new)}"
        )
    if change.figure in _SIZES:
        old, new = bytes_text(int(change.old)), bytes_text(int(change.new))
        return f"{change.contender}: {change.figure} {change.verdict}, {old} → {new}"
    return (
        f"{change.contender}: {change.figure} {change.verdict}, {seconds_text(change.old)} → "
        f"{seconds_text(change.new)} ({change.new / change.old:.2f}×)"
    )
