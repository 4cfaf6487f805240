"""A GPU's result: strict, as tables, and taken into a benchmark's report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_sample import result as benchmark

from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import (
    SCHEMA,
    BackendRow,
    Contender,
    Drawn,
    GpuMachine,
    GpuResult,
    GpuTestRow,
    LanesRow,
    LoraRow,
    MadeRow,
    PairsRow,
    ParityRow,
    PeakRow,
    SpeedRow,
    StageRecord,
    State,
    read_gpu_result,
)
from latentrt.benchmarks.report.gpu.tables import gpu_sentences, gpu_tables
from latentrt.benchmarks.report.markdown import markdown_table
from latentrt.benchmarks.report.page import report_html
from latentrt.benchmarks.report.schema import read_result
from latentrt.engines.documents import write_document
from latentrt.engines.errors import RequestError

OURS = Contender(name="latentrt", precision="fp16", backend="tensorrt")
EIGHT = Contender(name="latentrt", precision="fp8", backend="tensorrt")
ONE = Drawn(width=1024, height=1024, steps=30, batch=1, guidance=7.5)
FOUR = Drawn(width=1024, height=1024, steps=20, batch=4, guidance=7.5)


def speed(contender: Contender = OURS, seconds: float = 0.9, step: float = 0.03, **fields: Any) -> SpeedRow:
    """A row whose U-Net takes all of a step but a thousandth of a second."""
    values = {
        "stage": "speed",
        "model": "sdxl",
        "contender": contender,
        "drawn": ONE,
        "call": Figure.of([seconds]),
        "step": Figure.of([step]),
        "unet_call": Figure.of([step - 0.001]),
        "unet_flop": 12e12,
        "peak": 800e12,
        "gpu_bytes": 9_000_000_000,
    }
    return SpeedRow(**{**values, **fields})


def gpu_result(*rows: Any, gpu: str | None = "NVIDIA H200") -> GpuResult:
    """A result with those rows."""
    return GpuResult(
        schema_version=SCHEMA,
        latentrt="0.1.0",
        created="2026-12-01T00:00:00+00:00",
        scale="full",
        made_of="abc",
        machine=GpuMachine(
            gpu=gpu, gpu_bytes=150_000_000_000, driver=None, cores=16, system="Linux x86_64", packages={"torch": "2.11"}
        ),
        stages=(
            StageRecord(name="speed", state=State.DONE, seconds=60.0),
            StageRecord(name="engines.svd-xt", state=State.CUT_OFF, seconds=470.0, reason="it took longer than 470 s"),
        ),
        rows=rows,
    )


ALL = gpu_result(
    BackendRow(stage="backends", backend="tensorrt-rtx", version="1.7", works=False, reason="no <sm90>"),
    PeakRow(stage="peak", what="float16", per_second=Figure.of([800e12])),
    PeakRow(stage="peak", what="copy", per_second=Figure.of([4e12])),
    GpuTestRow(stage="tests.tensorrt", name="test_that", outcome="failed", reason="assert 1 == 2"),
    ParityRow(
        stage="p", model="emoji", precision="fp32", backend="tensorrt", component="unet", relative_error=1e-6, psnr=None
    ),
    MadeRow(stage="m", model="sdxl", what="checkpoint", seconds=4.0, bytes=7_000_000_000),
    speed(),
    LanesRow(stage="l", model="sdxl", contender=OURS, drawn=ONE, clients=8, per_second=Figure.of([2.5])),
    PairsRow(
        stage="w",
        model="sdxl",
        precision="fp8",
        backend="tensorrt",
        layers="convolutions",
        count=52,
        ratio=Figure.of([1.03, 1.01, 1.019]),
    ),
    LoraRow(
        stage="a",
        model="sdxl",
        contender=OURS,
        first=0.5,
        again=0.001,
        plain=Figure.of([0.03]),
        adapted=Figure.of([0.031]),
    ),
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every kind of row comes back as what it was; keys that nobody knows are refused, and so is a cut-off file."""
    path = tmp_path / "gpu.json"
    write_document(path, ALL)
    assert read_gpu_result(path) == ALL
    data = json.loads(path.read_text())
    data["rows"][0]["unheard"] = 1
    path.write_text(json.dumps(data))
    with pytest.raises(RequestError, match="make gpu"):
        read_gpu_result(path)
    path.write_text(ALL.model_dump_json()[:-100])
    with pytest.raises(RequestError):
        read_gpu_result(path)


def test_tables_show_every_row_by_its_place() -> None:
    """In the units of the report."""
    tables = {table.title: table for table in gpu_tables(ALL)}
    assert {place for table in tables.values() for place in table.rows} == set(range(len(ALL.rows)))
    assert all(len(cells) == len(table.columns) for table in tables.values() for cells in table.rows.values())
    assert tables["Calls, medians"].rows[6] == (
        "sdxl: latentrt fp16, tensorrt",
        "1024×1024, 30 steps",
        "900 ms",
        "30.0 ms",
        "1.11",
        "50 %",
        "3.3 %",
        "9.00 GB",
    )
    assert tables["What layers are worth in eight bits"].rows == {
        8: ("sdxl fp8, tensorrt", "convolutions", "52", "1.019", "floating point")
    }
    assert tables["What layers are worth in eight bits"].words == {0, 1, 4}
    assert tables["Parity"].words == {0, 1}
    assert tables["Large matrix products, and a copy"].rows == {
        1: ("float16", "800 TFLOP/s"),
        2: ("copy", "4000 GB/s"),
    }


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (speed(), ["Reached (900 ms): SDXL", "Missed (3.3 %): SDXL, 30 steps, host overhead"]),
        (speed(seconds=1.0, step=0.2), ["Missed (1.00 s): SDXL", "Reached (0.5 %): SDXL, 30 steps, host"]),
        (
            speed(EIGHT, 1.5, drawn=FOUR),
            ["Reached (2.67 a second): SDXL in eight bits"],
        ),
        (speed(Contender(name="diffusers", precision="fp16"), 0.1), []),
    ],
)
def test_targets_of_a_gpu_are_those_of_its_name(row: SpeedRow, said: list[str]) -> None:
    """Ours alone count; where nothing was measured, nothing is said; another GPU has none."""
    lines = [line for line in gpu_sentences(gpu_result(row)) if line.startswith(("Reached", "Missed"))]
    assert [line.startswith(start) for line, start in zip(lines, said, strict=True)] == [True] * len(said)
    assert not any(line.startswith(("Reached", "Missed")) for line in gpu_sentences(gpu_result(row, gpu="NVIDIA L40S")))


def test_a_rehearsal_says_that_it_is_one() -> None:
    """And what is not done is said with its reason."""
    assert gpu_sentences(gpu_result(gpu=None))[0].startswith("No GPU was there: this is a rehearsal")
    assert "engines.svd-xt: cut off: it took longer than 470 s" in gpu_sentences(ALL)


def test_the_report_shows_it() -> None:
    """Every row has its place on the page; text is text; the table is that of the benchmark with more behind it."""
    page = report_html(benchmark().model_copy(update={"gpu": ALL}))
    for place in range(len(ALL.rows)):
        assert f'data-row="gpu.rows.{place}"' in page
    assert "no &lt;sm90&gt;" in page
    table = markdown_table(benchmark().model_copy(update={"gpu": ALL}))
    assert "| sdxl: latentrt fp16, tensorrt | 1024×1024, 30 steps | 900 ms |" in table
    assert table.startswith(markdown_table(benchmark()))


def test_merge_takes_it_into_a_result(command: Callable[..., Any], tmp_path: Path) -> None:
    """With --render: the table and the JSON, which renders the same again."""
    write_document(tmp_path / "r.json", benchmark())
    write_document(tmp_path / "gpu.json", ALL)
    merged = ("--render", tmp_path / "r.json", "--merge", tmp_path / "gpu.json")
    assert command("bench", *merged, "--json", tmp_path / "m.json", "--markdown", tmp_path / "m.md").status == 0
    assert read_result(tmp_path / "m.json").gpu == ALL
    assert "Clients of one pipeline" in (tmp_path / "m.md").read_text("utf-8")
    assert command("bench", "--render", tmp_path / "m.json", "--markdown", tmp_path / "n.md").status == 0
    assert (tmp_path / "n.md").read_bytes() == (tmp_path / "m.md").read_bytes()
    (tmp_path / "gpu.json").write_text("{")
    refused = command("bench", *merged, "--markdown", tmp_path / "m.md")
    assert refused.status != 0
    assert "make gpu" in refused.stderr
    compared = command("bench", "--compare", tmp_path / "r.json", tmp_path / "r.json", "--merge", tmp_path / "gpu.json")
    assert "got an output or --merge with --compare" in compared.stderr
