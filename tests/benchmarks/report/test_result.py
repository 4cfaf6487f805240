"""The result's JSON: read back as it was, and refused with one sentence where it is not one."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_sample import result

from latentrt.benchmarks.report.schema import SCHEMA, BenchResult, Figure, read_result
from latentrt.engines.documents import write_document
from latentrt.engines.errors import RequestError


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    """Every field, to the last digit."""
    write_document(tmp_path / "r.json", result())
    assert read_result(tmp_path / "r.json") == result()


def test_figure_keeps_samples_in_their_order() -> None:
    """The median is that of all; the 90th percentile lies between the largest two of eleven."""
    figure = Figure.of([11.0, *map(float, range(1, 11))])
    assert figure.samples[0] == 11.0
    assert (figure.median, figure.p90) == (6.0, 10.0)


def damaged(data: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**data, **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cut short or not JSON"),
        ("[1]", "not written by latentrt"),
        ('{"pictures": []}', "not written by latentrt"),
        ('{"schema_version": true}', "not written by latentrt"),
        (json.dumps({"schema_version": SCHEMA + 1}), "schema 2, this latentrt reads schema 1; update latentrt"),
        (json.dumps({"schema_version": 0}), "schema 0, this latentrt reads schema 1; .*measure again"),
        (damaged(json.loads(result().model_dump_json()), contenders=[]), "contenders"),
        (damaged(json.loads(result().model_dump_json()), seconds="soon"), "seconds"),
        (damaged(json.loads(result().model_dump_json()), surprise=1), "surprise"),
    ],
)
def test_refuses_what_is_no_result(text: str, said: str, tmp_path: Path) -> None:
    """With what is wrong and what to do."""
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=said) as refused:
        read_result(path)
    assert "\n" not in str(refused.value)


def test_refuses_a_median_that_its_samples_do_not_have(tmp_path: Path) -> None:
    """A figure that was written by hand."""
    data = json.loads(result().model_dump_json())
    data["contenders"][0]["latency"]["picture"]["median"] *= 0.5
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RequestError, match="its samples say"):
        read_result(path)


def test_reads_results_of_before_flip(tmp_path: Path) -> None:
    """Theirs is unknown, and so is the worst."""
    data = json.loads(result().model_dump_json())
    for row in data["contenders"][0]["quality"]["pictures"]:
        del row["flip"]
    (tmp_path / "r.json").write_text(json.dumps(data))
    quality = read_result(tmp_path / "r.json").contenders[0].quality
    assert quality is not None
    assert quality.worst_flip is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("peak", "by_library"), {}),
        (("peak", "by_library", "NumPy"), {"samples": [0.0], "median": 0.0, "p90": 0.0}),
        (("peak", "size"), 0),
        (("work", "unet"), 0.0),
        (("contenders", 0, "throughput", "points"), []),
        (("contenders", 0, "latency", "picture"), {"samples": [-1.0], "median": -1.0, "p90": -1.0}),
        (("contenders", 0, "peak_bytes"), 0),
        (("contenders", 0, "own_emoji", "rate"), 1.5),
        (("contenders", 0, "quality", "pictures", 0, "flip"), 1.5),
        (("settings", "threads"), 0),
        (("parameters",), 0),
    ],
)
def test_refuses_figures_that_cannot_be(place: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    """By name, before anything divides by them."""
    data = json.loads(result().model_dump_json())
    at = data
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RequestError, match=str(place[-1])):
        read_result(path)


def test_refuses_infinity(tmp_path: Path) -> None:
    """JSON has none."""
    data = result().model_dump()
    data["seconds"] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        BenchResult.model_validate(data)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """With the name that was given."""
    with pytest.raises(RequestError, match="No such file"):
        read_result(tmp_path / "none.json")
