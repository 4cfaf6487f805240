"""The result as one HTML page that needs nothing beside itself."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latentrt.benchmarks.markdown import best_of_ours, quality_text, warnings
from latentrt.benchmarks.peers.registry import PEERS
from latentrt.benchmarks.plots import plots, series_color
from latentrt.benchmarks.schema import BenchResult
from latentrt.benchmarks.units import DASH, bytes_text, flops_text, psnr_text, seconds_text, share_text

_TEMPLATE = Path(__file__).resolve().parent / "report.html.j2"
FORMATS: Mapping[str, Callable[[Any], str]] = {
    "seconds": seconds_text,
    "bytes": bytes_text,
    "share": share_text,
    "psnr": psnr_text,
    "ratio": lambda value: DASH if value is None else f"{value:.3f}",
    "error": lambda value: DASH if value is None else f"{value:.1e}",
    "exponent": lambda value: DASH if value is None else f"{value:.2f}",
    "rate": lambda value: DASH if value is None else f"{1 / value:.2f}",
}


def report_html(result: BenchResult) -> str:
    """The page.

    Every figure in it is in an element with ``data-path``, its place in the result's JSON, and ``data-format``.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    data = result.model_dump(mode="json")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))

    def cell(path: str, kind: str) -> Markup:
        text = FORMATS[kind](_at(data, path))
        return Markup('<span data-path="{}" data-format="{}">{}</span>').format(path, kind, text)

    page: str = template.render(
        result=result,
        plots={name: Markup(svg) for name, svg in plots(result).items()},
        cell=cell,
        rows=list(enumerate(result.contenders)),
        colors={row.name: series_color(result, row) for row in result.contenders},
        shares={row.name: result.share_of_peak(row) for row in result.contenders},
        quality_text=quality_text,
        summary=summary(result),
        bounds=bounds(result),
        warnings=warnings(result),
        requirements={peer.adapter: (*(peer.requirements or ()), *peer.alone) for peer in PEERS.values()},
        flops_text=flops_text,
        seconds_text=seconds_text,
        share_text=share_text,
        bytes_text=bytes_text,
        raw=Markup(json.dumps(_without_pictures(data)).replace("<", "\\u003c")),
    )
    return page


def _at(data: Any, path: str) -> Any:
    """What stands in the JSON at a dotted path; None behind a null."""
    for part in path.split("."):
        if data is None:
            return None
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def _without_pictures(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_pictures(value) for key, value in data.items() if not _is_picture(value)}
    return [_without_pictures(value) for value in data] if isinstance(data, list) else data


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:image/")


def summary(result: BenchResult) -> list[str]:
    """What a reader should know first: our fastest against each peer, in times."""
    ours = best_of_ours(result)
    if ours is None or ours.latency is None:
        return []
    lines = []
    for row in result.measured:
        if row.ours or row.latency is None:
            continue
        said = [_times(row.latency.picture.median / ours.latency.picture.median, "a picture")]
        if row.cold_start and ours.cold_start:
            said.append(_times(row.cold_start.median / ours.cold_start.median, "a cold start"))
        lines.append(f"Against {row.name}, {ours.name} is {' and '.join(said)}.")
    return lines


def _times(ratio: float, what: str) -> str:
    """How ours compares where the other takes ``ratio`` times as long."""
    return f"{ratio:.2f}× as fast for {what}"


def bounds(result: BenchResult) -> list[str]:
    """What keeps a step from being faster: the machine's peak, and what goes on outside the U-Net."""
    if result.peak is None or result.work is None:
        return []
    peak, work = result.peak.best, result.work.unet
    lines = [
        f"A large float32 matrix product reached {peak / 1e9:.0f} GFLOP/s in the same run. One step of the U-Net is "
        f"{flops_text(work)}, so no float32 engine can take it in less than {seconds_text(work / peak)} here."
    ]
    for row in result.measured:
        share = result.share_of_peak(row)
        if row.ours and row.latency and row.latency.step and share is not None:
            line = f"{row.name} takes {seconds_text(row.latency.step.median)}, {share_text(share)} of that peak"
            overhead = row.latency.host_overhead
            if overhead:
                line += f"; {seconds_text(overhead.median)} of a step pass outside the engine"
            lines.append(line + ".")
    return lines
