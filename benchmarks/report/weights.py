"""What became of our bundles' weights, beside what it gains and costs: zeros, eight bits, averages."""

from latentrt.benchmarks.report.schema import BenchResult, Contender, Layers
from latentrt.benchmarks.report.table import Cells, Table
from latentrt.benchmarks.report.units import DASH, bytes_text, psnr_text, seconds_text, share_text

_COLUMNS = (
    "",
    "layers 2:4",
    "layers in eight bits",
    "averaged",
    "U-Net",
    "zipped",
    "step",
    "mean PSNR",
    "worst PSNR",
    "own emoji",
)


def weights_table(result: BenchResult) -> Table | None:
    """A row for each of our bundles, whether it drew here or not; None where all have all of their weights.

    What no row has is no column.
    """
    of_ours = {place: row for place, row in enumerate(result.contenders) if row.weights is not None}
    if not any(row.weights and row.weights.changed for row in of_ours.values()):
        return None
    cells = {place: _cells(row) for place, row in of_ours.items()}
    shown = [column for column in range(len(_COLUMNS)) if any(row[column] != DASH for row in cells.values())]
    return Table(
        title="Weights",
        columns=tuple(_COLUMNS[column] for column in shown),
        rows={place: tuple(row[column] for column in shown) for place, row in cells.items()},
    )


def weights_sentences(result: BenchResult) -> list[str]:
    """What the table's sizes and distances are, and what distances say nothing of."""
    of_ours = [row.weights for row in result.contenders if row.weights is not None]
    drawn = dict.fromkeys(f"{w.judged.pictures} pictures of {w.judged.steps} steps" for w in of_ours if w.judged)
    lines = ["U-Net: graph and weights in the bundle; engines are apart."]
    if drawn:
        lines.append(
            f"PSNR: of {' or '.join(drawn)} that a build judged the bundle by, against those of the bundle that it was "
            "made of, with all weights."
        )
    if any(weights.averaged is False for weights in of_ours):
        lines.append("Weights that are not averaged draw other pictures: their distance to the reference is no error.")
    return lines


def _cells(row: Contender) -> Cells:
    weights = row.weights
    assert weights is not None
    averaged = {None: DASH, True: "yes", False: "no"}[weights.averaged]
    return (
        row.name,
        _layers(weights.pruned),
        _layers(weights.rounded),
        averaged,
        bytes_text(weights.bytes),
        bytes_text(weights.zipped_bytes),
        seconds_text(row.latency.step.median if row.latency and row.latency.step else None),
        DASH if weights.judged is None else psnr_text(weights.judged.psnr_mean),
        DASH if weights.judged is None else psnr_text(weights.judged.psnr_worst),
        share_text(row.own_emoji.rate if row.own_emoji else None),
    )


def _layers(layers: Layers | None) -> str:
    return DASH if layers is None else f"{layers.done} of {layers.of}"
