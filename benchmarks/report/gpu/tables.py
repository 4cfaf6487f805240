"""The tables and sentences of a GPU's result: for a page, for the terminal and for a README."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.benchmarks.report.gpu.schema import (
    WORTH,
    BackendRow,
    Contender,
    Drawn,
    GpuResult,
    GpuTestRow,
    LanesRow,
    LoraRow,
    MadeRow,
    PairsRow,
    ParityRow,
    PeakRow,
    SpeedRow,
    State,
)
from latentrt.benchmarks.report.table import Cells, Table
from latentrt.benchmarks.report.units import DASH, bytes_text, flops_text, psnr_text, seconds_text, share_text


def _fine_share(share: float) -> str:
    """A share in tenths of a percent: most are a few percent."""
    return f"{100 * share:.1f} %"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a GPU should reach: a figure of a model's calls of so many steps and pictures, at most or at least so much.

    ``precisions`` are those that count, ``shown`` writes a figure as text.
    """

    text: str
    model: str
    steps: int
    precisions: tuple[str, ...]
    figure: Callable[[SpeedRow], float | None]
    shown: Callable[[float], str] = seconds_text
    most: float | None = None
    least: float | None = None


_EIGHT = ("int8", "fp8")
_TARGETS: Mapping[str, tuple[Target, ...]] = {
    "H200": (
        Target(
            text="SDXL, 1024×1024, 30 steps, fp16, one picture: at most 0.95 s",
            model="sdxl",
            steps=30,
            precisions=("fp16",),
            figure=lambda row: row.call.median if row.drawn.batch == 1 else None,
            most=0.95,
        ),
        Target(
            text="SD 1.5, 512×512, 20 steps, one picture: at most 110 ms",
            model="sd15",
            steps=20,
            precisions=("fp16", "bf16", *_EIGHT),
            figure=lambda row: row.call.median if row.drawn.batch == 1 else None,
            most=0.11,
        ),
        Target(
            text="SDXL in eight bits, 20 steps: at least 2.5 pictures a second",
            model="sdxl",
            steps=20,
            precisions=_EIGHT,
            figure=lambda row: row.per_second,
            shown="{:.3g} a second".format,
            least=2.5,
        ),
        Target(
            text="SDXL, 30 steps, host overhead: at most 1 % of a step",
            model="sdxl",
            steps=30,
            precisions=("fp16", "bf16", *_EIGHT),
            figure=lambda row: row.host_share if row.drawn.batch == 1 else None,
            shown=_fine_share,
            most=0.01,
        ),
    )
}
"""By a part of the GPU's name."""


def gpu_tables(result: GpuResult) -> Iterator[Table]:
    """All that was found out, a table a kind; what was not measured has none."""
    for kind, (title, columns, cells_of) in _TABLES.items():
        rows = {place: cells_of(row) for place, row in enumerate(result.rows) if isinstance(row, kind)}
        if rows:
            yield Table(title=title, columns=columns, rows=rows)


def gpu_sentences(result: GpuResult) -> list[str]:
    """Where it ran, which targets are reached, and what is not done."""
    machine = result.machine
    if machine.gpu is None:
        lines = ["No GPU was there: this is a rehearsal, and its times say nothing."]
    else:
        lines = [f"{machine.gpu}, {bytes_text(machine.gpu_bytes)}; {machine.cores} cores; {machine.system}."]
    lines += [f"{'Reached' if reached else 'Missed'} ({shown}): {text}." for text, shown, reached in _targets(result)]
    lines += [
        f"{record.name}: {record.state.value}" + (f": {record.reason}" if record.reason else "")
        for record in result.stages
        if record.state is not State.DONE
    ]
    return lines


def _targets(result: GpuResult) -> Iterator[tuple[str, str, bool]]:
    """Text, the best figure and whether it is reached, of those that have figures."""
    gpu = result.machine.gpu or ""
    for target in (target for part, targets in _TARGETS.items() if part in gpu for target in targets):
        figures = [
            figure
            for row in result.rows
            if isinstance(row, SpeedRow)
            and (row.model, row.drawn.steps) == (target.model, target.steps)
            and row.contender.backend is not None
            and row.contender.precision in target.precisions
            and (figure := target.figure(row)) is not None
        ]
        if not figures:
            continue
        if target.most is not None:
            best = min(figures)
            yield target.text, target.shown(best), best <= target.most
        elif target.least is not None:
            best = max(figures)
            yield target.text, target.shown(best), best >= target.least


def contender_text(contender: Contender) -> str:
    """Its name, precision, backend, and where the steps' arithmetic runs."""
    words = [f"{contender.name} {contender.precision}", contender.backend or ""]
    words += ["loop on the device" if contender.loop == "device" else ""]
    return ", ".join(word for word in words if word)


def drawn_text(drawn: Drawn) -> str:
    """Size, frames, steps and pictures of a call."""
    size = f"{drawn.width}×{drawn.height}" + (f", {drawn.frames} frames" if drawn.frames > 1 else "")
    many = f", {drawn.batch} pictures" if drawn.batch > 1 else ""
    return f"{size}, {drawn.steps} step{'s' if drawn.steps > 1 else ''}{many}"


def _who(model: str, contender: Contender) -> str:
    return f"{model}: {contender_text(contender)}"


def _backend(row: BackendRow) -> Cells:
    return row.backend, row.version or DASH, "works" if row.works else row.reason or DASH


def _speed(row: SpeedRow) -> Cells:
    return (
        _who(row.model, row.contender),
        drawn_text(row.drawn),
        seconds_text(row.call.median),
        seconds_text(row.step.median if row.step else None),
        f"{row.per_second:.3g}",
        share_text(row.share_of_peak),
        DASH if row.host_share is None else _fine_share(row.host_share),
        bytes_text(row.gpu_bytes),
    )


def _lanes(row: LanesRow) -> Cells:
    return (
        _who(row.model, row.contender),
        drawn_text(row.drawn),
        str(row.clients),
        f"{row.per_second.median:.3g}",
    )


def _lora(row: LoraRow) -> Cells:
    times = (row.first, row.again, row.plain.median, row.adapted.median)
    return _who(row.model, row.contender), *map(seconds_text, times)


def _pairs(row: PairsRow) -> Cells:
    return (
        f"{row.model} {row.precision}, {row.backend}",
        row.layers,
        str(row.count),
        f"{row.ratio.median:.3f}",
        "eight bits" if row.worth else "floating point",
    )


def _peak(row: PeakRow) -> Cells:
    rate = row.per_second.median
    return row.what, f"{bytes_text(round(rate)) if row.what == 'copy' else flops_text(rate)}/s"


def _parity(row: ParityRow) -> Cells:
    return (
        f"{row.model} {row.precision}, {row.backend}",
        row.component,
        DASH if row.relative_error is None else f"{row.relative_error:.1e}",
        psnr_text(row.psnr),
    )


def _test(row: GpuTestRow) -> Cells:
    return row.name, row.outcome, row.reason or DASH


def _made(row: MadeRow) -> Cells:
    return row.model, row.what, seconds_text(row.seconds), bytes_text(row.bytes)


_TABLES: Mapping[type[Any], tuple[str, Cells, Callable[[Any], Cells]]] = {
    BackendRow: ("Backends", ("", "version", ""), _backend),
    SpeedRow: (
        "Calls, medians",
        ("", "drawn", "call", "step", "pictures/s", "of peak", "outside the U-Net", "GPU memory"),
        _speed,
    ),
    LanesRow: ("Clients of one pipeline", ("", "drawn", "clients", "pictures/s"), _lanes),
    LoraRow: ("A set of LoRAs", ("", "new", "used before", "step without", "step with"), _lora),
    PairsRow: (
        "What layers are worth in eight bits",
        ("", "layers", "how many", "time without them in eight bits", f"from {WORTH} on"),
        _pairs,
    ),
    PeakRow: ("Large matrix products, and a copy", ("", "median"), _peak),
    ParityRow: ("Parity", ("", "component", "relative error", "PSNR"), _parity),
    GpuTestRow: ("Tests that need a GPU", ("", "", "why"), _test),
    MadeRow: ("Made", ("", "what", "time", "size"), _made),
}
