"""The result as a table: for a README, and for the terminal."""

from latentrt.benchmarks.report.gpu.schema import GpuResult
from latentrt.benchmarks.report.gpu.tables import gpu_sentences, gpu_tables
from latentrt.benchmarks.report.schema import BenchResult, Contender
from latentrt.benchmarks.report.table import escaped, markdown_lines
from latentrt.benchmarks.report.units import DASH, bytes_text, flip_text, psnr_text, seconds_text, share_text
from latentrt.benchmarks.report.weights import weights_sentences, weights_table

COLUMNS = ("", "computes in", "picture", "step", "of peak", "cold start", "open", "memory", "worst PSNR", "worst FLIP")
_LATER = {"computes in", "worst FLIP"}  # columns that older results do not have

NOISY = 0.05  # of the processors, taken by other programs
_FEW = 5


def summary_rows(result: BenchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and one row per contender that drew: medians. What older results lack has no column."""
    rows = [_row(result, row) for row in result.measured]
    shown = [
        place for place, name in enumerate(COLUMNS) if name not in _LATER or any(row[place] != DASH for row in rows)
    ]
    return tuple(COLUMNS[place] for place in shown), [tuple(row[place] for place in shown) for row in rows]


def warnings(result: BenchResult) -> list[str]:
    """What makes the figures doubtful, a sentence each."""
    found = []
    background = result.machine.background
    if background is not None and background.median > NOISY:
        found.append(
            f"Other programs took {share_text(background.median)} of the processors in the median run: the times are "
            "longer and spread wider than on an idle machine."
        )
    if not result.settings.resident:
        found.append("Memory held one contender at a time: each was opened and warmed up anew in every round.")
    if result.settings.runs < _FEW:
        runs = result.settings.runs
        found.append(f"{runs} run{'s are' if runs > 1 else ' is'} few: medians may be off by their spread.")
    return found


def title(row: Contender) -> str:
    """Its name, with the sampler of one that drew by another than everyone."""
    return row.name if row.sampler is None else f"{row.name}, {row.sampler}"


def quality_text(result: BenchResult, row: Contender) -> str:
    """The worst PSNR against the reference."""
    if row.name == result.reference:
        return "reference"
    return DASH if row.quality is None else psnr_text(row.quality.worst.psnr)


def _row(result: BenchResult, row: Contender) -> tuple[str, ...]:
    latency = row.latency
    assert latency is not None
    return (
        title(row),
        row.computes or DASH,
        seconds_text(latency.picture.median),
        seconds_text(latency.step.median if latency.step else None),
        share_text(result.share_of_peak(row)),
        seconds_text(row.cold_start.median if row.cold_start else None),
        seconds_text(row.open.median if row.open else None),
        bytes_text(row.peak_bytes),
        quality_text(result, row),
        DASH if row.name == result.reference or row.quality is None else flip_text(row.quality.worst_flip),
    )


def markdown_table(result: BenchResult) -> str:
    """The table with a line that says what was measured, and one for each contender that was not."""
    settings, machine = result.settings, result.machine
    columns, rows = summary_rows(result)
    heading = (
        f"{result.model}, {settings.width}×{settings.height}, {settings.steps} steps, guidance "
        f"{settings.guidance_scale:g}, {settings.sampler}; {machine.cores} cores of {machine.processor}; "
        f"medians of interleaved runs: {settings.runs}"
    )
    reasons = [
        *warnings(result),
        *(escaped(f"{row.name} was not measured: {row.absent}.") for row in result.contenders if row.absent),
    ]
    lines = [*markdown_lines(heading, columns, rows), *(["", *reasons] if reasons else [])]
    weights = weights_table(result)
    if weights is not None:
        lines += ["", *markdown_lines(weights.title, weights.columns, list(weights.rows.values()))]
        lines += ["", " ".join(weights_sentences(result))]
    if result.gpu is not None:
        lines += gpu_lines(result.gpu)
    return "\n".join(lines) + "\n"


def gpu_lines(result: GpuResult) -> list[str]:
    """What a GPU's result says, as Markdown: a table of each kind, and sentences."""
    lines = []
    for table in gpu_tables(result):
        lines += ["", *markdown_lines(table.title, table.columns, list(table.rows.values()))]
    return [*lines, *(line for sentence in gpu_sentences(result) for line in ("", escaped(sentence)))]
