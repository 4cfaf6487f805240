"""What is computed from a load's samples, and the pages and tables that say it."""

import json
import re
from pathlib import Path

import pytest

from latentrt.benchmarks.report.schema import Machine
from latentrt.benchmarks.serving.markdown import COLUMNS, rows, sentences, serving_markdown, with_figures
from latentrt.benchmarks.serving.page import serving_html
from latentrt.benchmarks.serving.schema import (
    SCHEMA,
    Comparison,
    Memory,
    Overhead,
    Pictures,
    Round,
    Server,
    ServingResult,
    percentile,
    read_serving_result,
)
from latentrt.engines.documents import write_document
from latentrt.engines.errors import RequestError

HOUSE = Path(__file__).resolve().parents[3]
MACHINE = Machine(processor="a <processor>", cores=2, memory_bytes=8, system="s", python="3", features="AVX2")


def rounds(*seconds: float, clients: int = 8) -> tuple[Round, ...]:
    """Of ten pictures each."""
    return tuple(
        Round(clients=clients, seconds=one, latencies=tuple(one * n / 10 for n in range(1, 11)), processor_seconds=one)
        for one in seconds
    )


@pytest.fixture
def result() -> ServingResult:
    """A load that was measured in round figures."""
    servers = (
        Server(name="shared", rounds=rounds(1.0, 2.0)),
        Server(name="alone", rounds=rounds(2.0, 3.0)),
        Server(name="peer", absent="it <cannot>"),
    )
    return ServingResult(
        schema_version=SCHEMA,
        latentrt="0.1",
        created="2026-11-30",
        command="python -m latentrt.benchmarks.serving load",
        model="emoji",
        seconds=60.0,
        machine=MACHINE,
        comparisons=(Comparison(title="Everything", mix="all <sorts>", servers=servers),),
        pictures=Pictures(asked=40, equal=38, close=1, worst_psnr=80.0, wrong=("abc is the picture of def",)),
        memory=Memory(seconds=(1, 2, 3, 4), bytes=(100, 200, 300_000_000, 400_000_000)),
        overhead=Overhead(steps=8, seconds={"pipe": (0.1, 0.2, 0.9), "/v1/jobs": (0.105, 0.204, 0.2)}),
    )


def test_ratios_are_of_rounds_that_were_asked_for_the_same(result: ServingResult) -> None:
    """2 s against 1 s, and 3 s against 2 s; pictures a second are those of all rounds together."""
    (part,) = result.comparisons
    assert part.ratios(part.servers[1], 8) == (2.0, 1.5)
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows(part)]
    assert [row["server"] for row in found] == ["shared", "alone"]
    assert [row["pictures/s"] for row in found] == ["6.67", "4.00"]
    assert found[1]["the first is"] == "1.75× (1.50 to 2.00)"
    assert found[0]["processor"] == "150 ms"


def test_what_http_adds_is_the_median_of_the_differences(result: ServingResult) -> None:
    """A call that was slow once does not count for it."""
    assert result.overhead is not None
    assert result.overhead.over_the_call == {"/v1/jobs": pytest.approx(0.004)}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5.0), (0.95, 9.5), (0.99, 9.9), (0.0, 0.1)])
def test_percentiles_are_interpolated(share: float, expected: float) -> None:
    """Of 0 to 10 in equal steps; a single sample is all of its own."""
    assert percentile([10.0, *range(10)], share) == pytest.approx(expected)
    assert percentile([3.0], share) == 3.0


def test_sentences_tell_what_was_lost_and_why_somebody_is_missing(result: ServingResult) -> None:
    """Counts, the worst distance, memory in both halves, HTTP, and the reason of who is absent."""
    said = " ".join(sentences(result))
    for text in (
        "39 came as",
        "38 equal",
        "1 within rounding",
        "80.0 dB",
        "1 were lost",
        "300 MB",
        "400 MB",
        "4.00 ms",
    ):
        assert text in said
    assert "peer was not measured: it <cannot>" in said


def test_the_page_says_what_the_tables_say_and_escapes_it(result: ServingResult) -> None:
    """Every cell is there; nothing that was measured becomes markup; the JSON inside is the result."""
    page = serving_html(result)
    for row in rows(result.comparisons[0]):
        assert all(f">{cell}</" in page for cell in row)
    assert "<cannot>" not in page
    assert "<sorts>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    raw = page.split('<script type="application/json" id="result">')[1].split("</script>")[0]
    assert ServingResult.model_validate(json.loads(raw)) == result


def test_the_tables_have_a_row_for_each_server(result: ServingResult) -> None:
    """And as many cells as columns."""
    table = [line for line in serving_markdown(result).splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {len(COLUMNS) + 1}


def test_a_page_has_the_figures_between_two_comments(result: ServingResult) -> None:
    """What was there is replaced; a page without a place is refused."""
    page = with_figures("# Load\n<!-- figures: serving -->\nold\n<!-- end of figures -->\nrest\n", result)
    assert "old" not in page
    assert "| 8 | alone |" in page
    assert page.endswith("<!-- end of figures -->\nrest\n")
    with pytest.raises(RequestError, match="no place for figures"):
        with_figures("# Load\n", result)


def test_the_committed_page_says_what_was_measured() -> None:
    """The table in the documentation is that of the committed result, of which nothing was lost."""
    measured = read_serving_result(HOUSE / "benchmarks" / "results" / "serving" / "load.json")
    text = (HOUSE / "docs" / "serving" / "load.md").read_text("utf-8")
    assert with_figures(text, measured) == text
    assert measured.pictures.wrong == ()


def test_a_result_is_read_as_it_was_written(result: ServingResult, tmp_path: Path) -> None:
    """A damaged one is refused in a sentence."""
    path = tmp_path / "load.json"
    write_document(path, result)
    assert read_serving_result(path) == result
    path.write_text(path.read_text("utf-8").replace('"clients": 8', '"clients": 0'), "utf-8")
    with pytest.raises(RequestError, match="measure again"):
        read_serving_result(path)
