"""The result as one HTML page that needs nothing beside itself."""

import json
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

from latentrt.benchmarks.peers.arithmetic.onnx_trace import PRODUCTS
from latentrt.benchmarks.report.gpu.tables import gpu_sentences, gpu_tables
from latentrt.benchmarks.report.markdown import quality_text, title, warnings
from latentrt.benchmarks.report.plots import plots, series_color
from latentrt.benchmarks.report.schema import BenchResult, Contender, Quality
from latentrt.benchmarks.report.units import (
    DASH,
    bytes_text,
    flip_text,
    flops_text,
    psnr_text,
    seconds_text,
    share_text,
)
from latentrt.benchmarks.report.weights import weights_sentences, weights_table

_SHOWN = 0.02  # of a call
_TEMPLATE = Path(__file__).resolve().parent / "page.html.j2"
STYLE = Path(__file__).resolve().parent / "style.css"
FORMATS: Mapping[str, Callable[[Any], str]] = {
    "seconds": seconds_text,
    "bytes": bytes_text,
    "share": share_text,
    "psnr": psnr_text,
    "ratio": lambda value: DASH if value is None else f"{value:.3f}",
    "error": lambda value: DASH if value is None else f"{value:.1e}",
    "exponent": lambda value: DASH if value is None else f"{value:.2f}",
}


def report_html(result: BenchResult) -> str:
    """The page.

    Every figure in it is in an element with ``data-path``, its place in the result's JSON, and ``data-format``; of the
    table of weights and a GPU's tables each row has the place of its own as ``data-row``.
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
        style=Markup(STYLE.read_text("utf-8")),
        plots={name: Markup(svg) for name, svg in plots(result).items()},
        cell=cell,
        rows=list(enumerate(result.contenders)),
        colors={row.name: series_color(result, row) for row in result.contenders},
        shares={row.name: result.share_of_peak(row) for row in result.contenders},
        quality_text=quality_text,
        arithmetic_text=arithmetic_text,
        title=title,
        summary=summary(result),
        bounds=bounds(result),
        operators=operators(result),
        warnings=warnings(result),
        flops_text=flops_text,
        flip_text=flip_text,
        seconds_text=seconds_text,
        share_text=share_text,
        bytes_text=bytes_text,
        worst_at=worst_at,
        throughput_labels=throughput_labels(result),
        weights=weights_table(result),
        weights_sentences=weights_sentences(result),
        gpu_tables=[] if result.gpu is None else list(gpu_tables(result.gpu)),
        gpu_sentences=[] if result.gpu is None else gpu_sentences(result.gpu),
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


def arithmetic_text(row: Contender) -> str:
    """Its products by type, and what told them."""
    if row.arithmetic is None:
        return "not told"
    counts = ", ".join(f"{count} in {kind}" for kind, count in row.arithmetic.products.items())
    return f"the U-Net's products: {counts} ({row.arithmetic.source})"


def worst_at(quality: Quality, figure: str) -> int:
    """The place of the prompt whose figure is worst: the largest error or FLIP, the smallest of the others."""
    values = [getattr(picture, figure) for picture in quality.pictures]
    if figure in ("latent_relative_error", "flip"):
        return max(range(len(values)), key=lambda place: values[place] if values[place] is not None else -1.0)
    return min(range(len(values)), key=lambda place: (values[place] is None, values[place] or 0.0))


def throughput_labels(result: BenchResult) -> list[str]:
    """Every number of pictures at once that any contender drew, in order."""
    drew = [row.throughput for row in result.contenders if row.throughput]
    points = {point.label: point.value for scaling in drew for point in scaling.points}
    return sorted(points, key=lambda label: points[label])


def _without_pictures(data: Any) -> Any:
    if isinstance(data, dict):
        pictures = {key for key, value in data.items() if isinstance(value, str) and value.startswith("data:image/")}
        return {key: _without_pictures(value) for key, value in data.items() if key not in pictures}
    return [_without_pictures(value) for value in data] if isinstance(data, list) else data


def summary(result: BenchResult) -> list[str]:
    """What a reader should know first: against each peer our fastest of its arithmetic, in times.

    Where we have none of that arithmetic, it is our fastest of all, and both are named.
    """
    lines = []
    ours = [row for row in result.measured if row.ours]
    for peer in result.measured:
        alike = [row for row in ours if _kind(row) == _kind(peer)]
        fastest = min(alike or ours, key=_picture_seconds, default=None)
        if peer.ours or fastest is None:
            continue
        said = [f"{_picture_seconds(peer) / _picture_seconds(fastest):.2f}× as fast for a picture"]
        if peer.cold_start and fastest.cold_start:
            said.append(f"{peer.cold_start.median / fastest.cold_start.median:.2f}× as fast for a cold start")
        precisions = "" if alike else f" ({_kind(fastest)} against {_kind(peer)})"
        lines.append(f"Against {title(peer)}, {fastest.name} is {' and '.join(said)}{precisions}.")
    return lines


def _kind(row: Contender) -> str:
    """What it computes in; its precision where that was not told."""
    return row.computes or row.precision


def _picture_seconds(row: Contender) -> float:
    return row.latency.picture.median if row.latency else inf


def bounds(result: BenchResult) -> list[str]:
    """What a step could take at the machine's peak, and what ours and the fastest peer's take.

    The peak is no limit: a convolution by Winograd's algorithm takes fewer FLOP than are counted, int8 and bf16 are
    faster.
    """
    if result.peak is None or result.work is None:
        return []
    peak, work = result.peak.best, result.work.unet
    lines = [
        f"A large float32 matrix product reached {peak / 1e9:.0f} GFLOP/s in the same run. One step of the U-Net is "
        f"{flops_text(work)}: at that rate it takes {seconds_text(work / peak)}."
    ]
    fastest = min((row for row in result.measured if not row.ours), key=_picture_seconds, default=None)
    for row in result.measured:
        share = result.share_of_peak(row)
        if (row.ours or row is fastest) and row.latency and row.latency.step and share is not None:
            line = f"{row.name} takes {seconds_text(row.latency.step.median)}, {share_text(share)} of that peak"
            overhead = row.latency.host_overhead
            if overhead:
                line += f"; {seconds_text(overhead.median)} of a step pass outside the U-Net"
            lines.append(line + ".")
    for row in result.measured:
        times = row.operators or {}
        products = sum(seconds for name, seconds in times.items() if name in PRODUCTS)
        if products:
            lines.append(
                f"Under the profiler a call of {row.name}'s U-Net takes {seconds_text(sum(times.values()))}: "
                f"{seconds_text(products)} for its products, {share_text(work / products / peak)} of that peak, "
                "and the rest for norms, activations and what moves or converts tensors."
            )
    return lines


def operators(result: BenchResult) -> list[str]:
    """The operators that take a fiftieth or more of anyone's U-Net call, the longest first."""
    longest: dict[str, float] = {}
    for row in result.measured:
        times = row.operators or {}
        for name, seconds in times.items():
            if seconds >= _SHOWN * sum(times.values()):
                longest[name] = max(seconds, longest.get(name, 0.0))
    return sorted(longest, key=lambda name: -longest[name])
