"""Files of JSON lines."""

from pathlib import Path

import pytest

from latentrt.engines.errors import OutputError
from latentrt.engines.json_lines import JsonLines


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    """The row behind it has a line of its own; separators of Unicode end none."""
    path = tmp_path / "rows.jsonl"
    lines = JsonLines(path)
    assert lines.rows() == []
    rows = [{"text": "one\u2028two"}, {"number": 2}, {"number": 3}]
    for row in rows:
        lines.append(row)
    path.write_bytes(path.read_bytes()[:-4])
    lines.append({"number": 4})
    path.write_bytes(path.read_bytes() + b"[1]\n\xff\n")
    lines.append({"number": 5})
    assert JsonLines(path).rows() == [*rows[:2], {"number": 4}, {"number": 5}]
    lines.start({"number": 6})
    assert lines.rows() == [{"number": 6}]


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    """In one sentence."""
    with pytest.raises(OutputError, match="it is a folder"):
        JsonLines(tmp_path).append({})
