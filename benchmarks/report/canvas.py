"""A plot as inline SVG whose colours are the page's own, so that it follows its light or dark scheme."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

# Drawn in these, which nothing else has, and replaced by the page's variables afterwards
TEXT, GRID = "#010203", "#010204"
SERIES = tuple(f"#0203{place:02x}" for place in range(16, 32))
STAGES = tuple(f"#0204{place:02x}" for place in range(16, 20))
FONT = 9.5
_WIDTH = 5.0  # inches: 360 units, so that on a phone the text keeps its size
_TICKS = 3  # at least, on a logarithmic axis


def axes_of(height: float) -> tuple[Any, Any]:
    """A figure of a height in inches, and its axes."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=TEXT, which="both", length=3, labelsize=FONT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return canvas, axes


def svg(canvas: Any, name: str, title: str) -> str:
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
    text = text.replace(TEXT, "currentColor").replace(GRID, "var(--line)")
    for place, color in enumerate(SERIES):
        text = text.replace(color, f"var(--series-{place})")
    for place, color in enumerate(STAGES):
        text = text.replace(color, f"var(--stage-{place})")
    return text.strip()


def axis_titles(axes: Any, x: str, y: str = "") -> None:
    """What the axes are."""
    axes.set_xlabel(x, color=TEXT, fontsize=FONT)
    axes.set_ylabel(y, color=TEXT, fontsize=FONT)


def legend(axes: Any, columns: int) -> None:
    """Above the plot."""
    spacing = {"handlelength": 1, "columnspacing": 1, "borderaxespad": 0.2}
    text = {"labelcolor": TEXT, "fontsize": FONT - 1}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, **text, **spacing)


def plain_ticks(axis: Any, span: Sequence[float]) -> None:
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
