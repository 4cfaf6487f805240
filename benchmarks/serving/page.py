"""The result as one HTML page that needs nothing beside itself."""

import json
from pathlib import Path

from latentrt.benchmarks.report.canvas import GRID, SERIES, TEXT, axes_of, axis_titles, legend, svg
from latentrt.benchmarks.report.page import STYLE
from latentrt.benchmarks.serving.markdown import COLUMNS, rate, rows, sentences
from latentrt.benchmarks.serving.schema import Comparison, Memory, ServingResult

_TEMPLATE = Path(__file__).resolve().parent / "page.html.j2"


def serving_html(result: ServingResult) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    page: str = template.render(
        result=result,
        style=Markup(STYLE.read_text("utf-8")),
        columns=COLUMNS,
        rows=rows,
        sentences=list(sentences(result)),
        plots=[(Markup(drawing), caption) for drawing, caption in _plots(result)],
        raw=Markup(json.dumps(result.model_dump(mode="json")).replace("<", "\\u003c")),
    )
    return page


def _plots(result: ServingResult) -> list[tuple[str, str]]:
    found = [
        (_rates(part), f"{part.title}: pictures a second by the number of clients. Dots are rounds.")
        for part in result.comparisons
        if len(part.clients) > 1
    ]
    return [*found, (_memory(result.memory), "The resident size of the server over all rounds.")]


def _rates(comparison: Comparison) -> str:
    """Pictures a second by the number of clients."""
    canvas, axes = axes_of(3.0)
    for server, color in zip(comparison.measured, SERIES, strict=False):
        rates = [rate(server.at(clients)) for clients in comparison.clients]
        axes.plot(comparison.clients, rates, "o-", color=color, markersize=5, label=server.name)
        rounds = [(one.clients, one.rate) for one in server.rounds]
        axes.plot(*zip(*rounds, strict=True), "o", color=color, markersize=2.4, alpha=0.55)
    axes.set_xscale("log", base=2)
    axes.set_xticks(comparison.clients, [str(clients) for clients in comparison.clients])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    legend(axes, columns=1)
    axis_titles(axes, "clients", "pictures a second")
    return svg(canvas, "rates", "pictures a second by the number of clients")


def _memory(memory: Memory) -> str:
    """Megabytes over time."""
    canvas, axes = axes_of(2.4)
    axes.plot(memory.seconds, [size / 1e6 for size in memory.bytes], color=SERIES[0], linewidth=1)
    axes.axhline(memory.halves[0] / 1e6, color=TEXT, linewidth=0.6, alpha=0.55)
    axes.axhline(0, color=GRID, linewidth=0.6)
    axes.set_ylim(bottom=0)
    axis_titles(axes, "s", "MB")
    return svg(canvas, "memory", "resident size over time")
