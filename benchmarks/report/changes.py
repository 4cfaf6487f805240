"""What changed between two results beyond the noise.

The rule for times: faster or slower where the medians differ by more than 3 % and a two-sided Mann–Whitney test gives
p < 0.01. It takes one value a run, as steps of one picture are not independent of each other: their median. With fewer
than five runs on either side no such p can be had (three against three give 0.1 at best), so there the values must not
overlap at all and the medians differ by more than 10 %. Sizes changed where they differ by more than 2 %, pictures
where the worst PSNR differs by more than 1 dB, own-emoji rates by the two-proportion test with the same p.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from math import sqrt
from operator import attrgetter
from statistics import NormalDist, median

from latentrt.benchmarks.report.markdown import NOISY
from latentrt.benchmarks.report.schema import BenchResult, Contender, Figure, OwnEmoji, Strict
from latentrt.benchmarks.report.units import bytes_text, psnr_text, seconds_text, share_text
from latentrt.engines.errors import RequestError

_RATIO, _P = 0.03, 0.01
_FEW, _RATIO_OF_FEW = 5, 0.10
_SIZE_RATIO, _DECIBEL = 0.02, 1.0
_TIMES = {
    "picture": "latency.picture",
    "text encoding": "latency.encode",
    "step": "latency.step",
    "decoding": "latency.decode",
    "U-Net call": "latency.unet_call",
    "host overhead per step": "latency.host_overhead",
    "cold start": "cold_start",
    "opening": "open",
}
_OF_STEPS = ("step", "U-Net call", "host overhead per step")
_SIZES = {"peak memory": "peak_bytes", "model on disk": "model_bytes", "packages on disk": "packages_bytes"}
_SCALINGS = {"throughput": "batch of", "by_pixels": "picture of", "by_steps": "steps:"}


class Verdict(StrEnum):
    """What became of a figure."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no change beyond the noise"


class Change(Strict):
    """One figure of one contender in both; ``said`` is how readers expect old and new."""

    contender: str
    figure: str
    verdict: Verdict
    said: str


class Changes(Strict):
    """All changes, the contenders that only one has, and what makes the two hard to compare."""

    warnings: tuple[str, ...]
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: first what to beware of, then what changed, then the rest in one line."""
        changed = [
            f"{change.contender}: {change.figure} {verdict}, {change.said}"
            for verdict in (Verdict.WORSE, Verdict.BETTER)
            for change in self.changes
            if change.verdict is verdict
        ]
        same = sum(change.verdict is Verdict.SAME for change in self.changes)
        return [
            *(f"beware: {warning}" for warning in self.warnings),
            *changed,
            *(f"only in the old one: {name}" for name in self.only_old),
            *(f"only in the new one: {name}" for name in self.only_new),
            f"{same} of {len(self.changes)} figures show no change beyond the noise",
        ]


def changes_between(old: BenchResult, new: BenchResult) -> Changes:
    """What changed from one result to the other.

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
    return Changes(
        warnings=tuple(_warnings(old, new)),
        changes=tuple(
            Change(contender=name, figure=figure, verdict=verdict, said=said)
            for name in before
            if name in after
            for figure, verdict, said in _changes(before[name], after[name])
        ),
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


def _changes(old: Contender, new: Contender) -> Iterator[tuple[str, Verdict, str]]:
    """Every figure that both have, with its verdict, and old and new in words."""
    for name, place in _TIMES.items():
        before, after = (attrgetter(place)(row) for row in (old, new))
        if before is not None and after is not None:
            one_each = [before, after]
            if name in _OF_STEPS:
                runs = [len(row.latency.picture.samples) if row.latency else 1 for row in (old, new)]
                one_each = [per_run(figure, count) for figure, count in zip(one_each, runs, strict=True)]
            yield name, time_verdict(*one_each), _times(before, after)
    for field, title in _SCALINGS.items():
        before, after = getattr(old, field), getattr(new, field)
        later = {point.label: point.seconds for point in after.points} if after else {}
        for point in before.points if before else ():
            if point.label in later:
                times = point.seconds, later[point.label]
                yield f"{title} {point.label}", time_verdict(*times), _times(*times)
    for name, field in _SIZES.items():
        one, other = getattr(old, field), getattr(new, field)
        if one and other:
            yield name, _threshold(other / one - 1, _SIZE_RATIO), _said(bytes_text, one, other)
    worst, worst_now = (row.quality.worst.psnr if row.quality else None for row in (old, new))
    if worst is not None and worst_now is not None:
        yield "worst PSNR", _threshold(worst - worst_now, _DECIBEL), _said(psnr_text, worst, worst_now)
    rate, rate_now = old.own_emoji, new.own_emoji
    alike = attrgetter("references", "guidance_scale")
    if rate and rate_now and alike(rate) == alike(rate_now):
        yield "own-emoji rate", _rate_verdict(rate, rate_now), _said(share_text, rate.rate, rate_now.rate)


def _rate_verdict(old: OwnEmoji, new: OwnEmoji) -> Verdict:
    """By the two-sided z test of two proportions with a pooled variance."""
    together = (old.rate * old.pictures + new.rate * new.pictures) / (old.pictures + new.pictures)
    deviation = sqrt(together * (1 - together) * (1 / old.pictures + 1 / new.pictures))
    return _threshold(old.rate - new.rate, NormalDist().inv_cdf(1 - _P / 2) * deviation)


def _threshold(growth: float, tolerated: float) -> Verdict:
    if abs(growth) <= tolerated:
        return Verdict.SAME
    return Verdict.WORSE if growth > 0 else Verdict.BETTER


def _said(text: Callable[..., str], old: float, new: float) -> str:
    return f"{text(old)} → {text(new)}"


def _times(old: Figure, new: Figure) -> str:
    ratio = f" ({new.median / old.median:.2f}×)" if old.median else ""
    return _said(seconds_text, old.median, new.median) + ratio


def _warnings(old: BenchResult, new: BenchResult) -> Iterator[str]:
    for name in ("processor", "cores", "system"):
        one, other = getattr(old.machine, name), getattr(new.machine, name)
        if one != other:
            yield f"another machine: {name} was {one}, is {other}"
    if old.peak and new.peak and abs(new.peak.best / old.peak.best - 1) > _RATIO_OF_FEW:
        peaks = [result.peak.best / 1e9 for result in (old, new) if result.peak]
        yield "the machine's own peak was {:.0f} GFLOP/s, is {:.0f}: times follow it".format(*peaks)
    for name in ("prompts", "seed", "sampler", "threads"):
        one, other = getattr(old.settings, name), getattr(new.settings, name)
        if one != other:
            yield f"{name} differ: {_shown(one)} and {_shown(other)}"
    computed = {row.name: row.computes for row in old.measured}
    for row in new.measured:
        was = computed.get(row.name)
        if None not in (was, row.computes) and was != row.computes:
            yield f"{row.name} computed in {was}, does in {row.computes}"
    before = {row.name: row.versions for row in old.measured}
    for row in new.measured:
        for name, version in row.versions.items():
            known = before.get(row.name, {}).get(name, version)
            if known != version:
                yield f"{row.name}: {name} was {known}, is {version}"
    if old.settings.resident != new.settings.resident:
        yield "in one of them contenders were opened anew for every round"
    for title, result in (("old", old), ("new", new)):
        background = result.machine.background
        if background is not None and background.median > NOISY:
            yield f"other programs took {background.median:.0%} of the processors during the {title} one"


def _shown(setting: object) -> str:
    text = ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
