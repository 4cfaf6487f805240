"""The report's plots."""

import textwrap
from collections.abc import Sequence
from typing import Any

from latentrt.benchmarks.report.canvas import FONT, SERIES, STAGES, TEXT, axes_of, axis_titles, legend, plain_ticks, svg
from latentrt.benchmarks.report.schema import BenchResult, Contender, Figure
from latentrt.benchmarks.report.units import seconds_text


def plots(result: BenchResult) -> dict[str, str]:
    """All plots for which there are figures, by name, as SVG elements."""
    pictures = [(row, row.latency.picture) for row in result.measured if row.latency]
    starts = [(row, row.cold_start) for row in result.measured if row.cold_start]
    drawn = {
        "latency": _bars(result, pictures, "one picture"),
        "cold": _bars(result, starts, "cold start"),
        "stages": _stages(result),
        "quality": _quality(result),
        "throughput": _lines(result, "throughput", "pictures at once"),
        "by_pixels": _lines(result, "by_pixels", "pixels"),
        "by_steps": _lines(result, "by_steps", "steps"),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def series_color(result: BenchResult, row: Contender) -> str:
    """The page's variable for a contender's colour."""
    return f"var(--series-{SERIES.index(_color(result, row))})"


def _color(result: BenchResult, row: Contender) -> str:
    return SERIES[result.contenders.index(row) % len(SERIES)]


def _names(axes: Any, rows: Sequence[Contender]) -> None:
    """A horizontal bar for each, from above."""
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.name, 16) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _bars(result: BenchResult, rows: Sequence[tuple[Contender, Figure]], title: str) -> str:
    """Medians as bars, every sample as a dot, the median written at the end."""
    if not rows:
        return ""
    canvas, axes = axes_of(0.55 + 0.46 * len(rows))
    limit = max(max(figure.samples) for _, figure in rows)
    for y, (row, figure) in enumerate(rows):
        color = _color(result, row)
        axes.barh(y, figure.median, height=0.62, color=color, alpha=0.75)
        axes.plot(figure.samples, [y] * len(figure.samples), "o", color=TEXT, markersize=2.4, alpha=0.55)
        style = {"textcoords": "offset points", "va": "center", "color": TEXT, "fontsize": FONT}
        axes.annotate(seconds_text(figure.median), (max(figure.samples), y), (4, 0), **style)
    _names(axes, [row for row, _ in rows])
    axes.set_xlim(0, 1.14 * limit)
    axis_titles(axes, f"{title}, s")
    return svg(canvas, title.replace(" ", "-"), f"{title}, s")


def _stages(result: BenchResult) -> str:
    """Where a picture's time goes: text encoding, denoising, decoding, the rest."""
    rows = [row for row in result.measured if row.latency and row.latency.rest]
    if not rows:
        return ""
    names = ("text encoding", "denoising", "decoding", "rest")
    canvas, axes = axes_of(0.95 + 0.46 * len(rows))
    for y, row in enumerate(rows):
        latency = row.latency
        assert latency is not None
        left = 0.0
        for place, figure in enumerate((latency.encode, latency.denoise, latency.decode, latency.rest)):
            width = max(figure.median, 0.0) if figure else 0.0
            axes.barh(y, width, left=left, height=0.62, color=STAGES[place], label=names[place] if y == 0 else None)
            left += width
    _names(axes, rows)
    legend(axes, columns=4)
    axis_titles(axes, "one picture by stage, s")
    return svg(canvas, "stages", "one picture by stage")


def _quality(result: BenchResult) -> str:
    """The worst PSNR against the time of a picture; up and left is better."""
    shown = [
        (row, row.latency.picture.median, row.quality.worst.psnr)
        for row in result.measured
        if row.quality and row.latency and row.name != result.reference and row.quality.worst.psnr is not None
    ]
    if not shown:
        return ""
    canvas, axes = axes_of(2.4 + 0.1 * len(shown))
    for row, seconds, psnr in shown:
        axes.plot(seconds, psnr, "o", color=_color(result, row), markersize=8, label=row.name)
    legend(axes, columns=2)  # names at the dots would lie over each other
    axes.set_xscale("log")
    axes.margins(y=0.25)
    times = [seconds for _, seconds, _ in shown]
    span = min(times) / 1.3, max(times) * 1.3
    axes.set_xlim(*span)
    plain_ticks(axes.xaxis, span)
    axis_titles(axes, "one picture, s (log)", "worst PSNR, dB")
    return svg(canvas, "quality", "worst PSNR against the time of a picture")


def _lines(result: BenchResult, field: str, title: str) -> str:
    """Times along one axis, both logarithmic, with the fitted exponent of each contender."""
    rows = [(row, scaling) for row in result.measured if (scaling := getattr(row, field)) is not None]
    if not rows:
        return ""
    canvas, axes = axes_of(2.5 + 0.17 * len(rows))
    for row, scaling in rows:
        color, values = _color(result, row), [point.value for point in scaling.points]
        label = row.name if scaling.exponent is None else f"{row.name}: exponent {scaling.exponent:.2f}"
        medians = [point.seconds.median for point in scaling.points]
        axes.plot(values, medians, "o-", color=color, markersize=4, label=label)
        for point in scaling.points:
            axes.vlines(point.value, min(point.seconds.samples), max(point.seconds.samples), color=color, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = [point for _, scaling in rows for point in scaling.points]
    labels = {point.value: point.label for point in points}
    axes.set_xticks(list(labels), list(labels.values()))
    axes.minorticks_off()
    times = [sample for point in points for sample in point.seconds.samples]
    plain_ticks(axes.yaxis, times)
    legend(axes, columns=1)
    axis_titles(axes, title, "s (log)")
    return svg(canvas, field.replace("_", "-"), f"time against {title}")
