"""The report's plots as inline SVG whose colours are the page's own, so that they follow its light or dark scheme."""

import re
import textwrap
from collections.abc import Sequence
from io import StringIO
from typing import Any

from latentrt.benchmarks.report.schema import BenchResult, Contender, Figure
from latentrt.benchmarks.report.units import seconds_text

# Drawn in these, which nothing else has, and replaced by the page's variables afterwards
_TEXT, _GRID = "#010203", "#010204"
_SERIES = tuple(f"#0203{place:02x}" for place in range(16, 28))
_STAGES = tuple(f"#0204{place:02x}" for place in range(16, 20))
_WIDTH = 5.0  # inches: 360 units, so that on a phone the text keeps its size
_FONT = 9.5
_TICKS = 3  # at least, on a logarithmic axis


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
    return f"var(--series-{_SERIES.index(_color(result, row))})"


def _color(result: BenchResult, row: Contender) -> str:
    return _SERIES[result.contenders.index(row) % len(_SERIES)]


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    axes.tick_params(colors=_TEXT, which="both", length=3, labelsize=_FONT)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return canvas, axes


def _svg(canvas: Any, name: str, title: str) -> str:
    """The figure as one element: colours by variable, text as text, and ids that no other figure has."""
    import matplotlib

    memory = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        canvas.savefig(memory, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = memory.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    opening = rf'<svg viewBox="\1" role="img" aria-label="{title}">'
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', opening, text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    text = text.replace(_TEXT, "currentColor").replace(_GRID, "var(--line)")
    for place, color in enumerate(_SERIES):
        text = text.replace(color, f"var(--series-{place})")
    for place, color in enumerate(_STAGES):
        text = text.replace(color, f"var(--stage-{place})")
    return text.strip()


def _names(axes: Any, rows: Sequence[Contender]) -> None:
    """A horizontal bar for each, from above."""
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.name, 16) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _label(axes: Any, x: str, y: str = "") -> None:
    axes.set_xlabel(x, color=_TEXT, fontsize=_FONT)
    axes.set_ylabel(y, color=_TEXT, fontsize=_FONT)


def _bars(result: BenchResult, rows: Sequence[tuple[Contender, Figure]], title: str) -> str:
    """Medians as bars, every sample as a dot, the median written at the end."""
    if not rows:
        return ""
    canvas, axes = _axes(0.55 + 0.46 * len(rows))
    limit = max(max(figure.samples) for _, figure in rows)
    for y, (row, figure) in enumerate(rows):
        color = _color(result, row)
        axes.barh(y, figure.median, height=0.62, color=color, alpha=0.75)
        axes.plot(figure.samples, [y] * len(figure.samples), "o", color=_TEXT, markersize=2.4, alpha=0.55)
        style = {"textcoords": "offset points", "va": "center", "color": _TEXT, "fontsize": _FONT}
        axes.annotate(seconds_text(figure.median), (max(figure.samples), y), (4, 0), **style)
    _names(axes, [row for row, _ in rows])
    axes.set_xlim(0, 1.14 * limit)
    _label(axes, f"{title}, s")
    return _svg(canvas, title.replace(" ", "-"), f"{title}, s")


def _stages(result: BenchResult) -> str:
    """Where a picture's time goes: text encoding, denoising, decoding, the rest."""
    rows = [row for row in result.measured if row.latency and row.latency.rest]
    if not rows:
        return ""
    names = ("text encoding", "denoising", "decoding", "rest")
    canvas, axes = _axes(0.95 + 0.46 * len(rows))
    for y, row in enumerate(rows):
        latency = row.latency
        assert latency is not None
        left = 0.0
        for place, figure in enumerate((latency.encode, latency.denoise, latency.decode, latency.rest)):
            width = max(figure.median, 0.0) if figure else 0.0
            axes.barh(y, width, left=left, height=0.62, color=_STAGES[place], label=names[place] if y == 0 else None)
            left += width
    _names(axes, rows)
    _legend(axes, columns=4)
    _label(axes, "one picture by stage, s")
    return _svg(canvas, "stages", "one picture by stage")


def _legend(axes: Any, columns: int) -> None:
    """Above the plot."""
    spacing = {"handlelength": 1, "columnspacing": 1, "borderaxespad": 0.2}
    text = {"labelcolor": _TEXT, "fontsize": _FONT - 1}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, **text, **spacing)


def _quality(result: BenchResult) -> str:
    """The worst PSNR against the time of a picture; up and left is better."""
    shown = [
        (row, row.latency.picture.median, row.quality.worst.psnr)
        for row in result.measured
        if row.quality and row.latency and row.name != result.reference and row.quality.worst.psnr is not None
    ]
    if not shown:
        return ""
    canvas, axes = _axes(2.4 + 0.1 * len(shown))
    for row, seconds, psnr in shown:
        axes.plot(seconds, psnr, "o", color=_color(result, row), markersize=8, label=row.name)
    _legend(axes, columns=2)  # names at the dots would lie over each other
    axes.set_xscale("log")
    axes.margins(y=0.25)
    times = [seconds for _, seconds, _ in shown]
    span = min(times) / 1.3, max(times) * 1.3
    axes.set_xlim(*span)
    _plain_ticks(axes.xaxis, span)
    _label(axes, "one picture, s (log)", "worst PSNR, dB")
    return _svg(canvas, "quality", "worst PSNR against the time of a picture")


def _plain_ticks(axis: Any, span: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, and between these where the span is short, written as plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(span), max(span)
    for bases in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(tenth / 10 for tenth in range(10, 100))):
        ticks = [base * 10**power for power in range(-6, 10) for base in bases if low <= base * 10**power <= high]
        if len(ticks) >= _TICKS:
            break
    axis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 7]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _lines(result: BenchResult, field: str, title: str) -> str:
    """Times along one axis, both logarithmic, with the fitted exponent of each contender."""
    rows = [(row, scaling) for row in result.measured if (scaling := getattr(row, field)) is not None]
    if not rows:
        return ""
    canvas, axes = _axes(2.5 + 0.17 * len(rows))
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
    _plain_ticks(axes.yaxis, times)
    _legend(axes, columns=1)
    _label(axes, title, "s (log)")
    return _svg(canvas, field.replace("_", "-"), f"time against {title}")
