"""Tables of figures, in files and on terminals of every width."""

from __future__ import annotations

import pytest
from rich.console import Console

from latentrt.cli import terminal

_COLUMNS = ("contender", "computes in", "picture", "step", "cold start", "memory", "worst PSNR")
_ROWS = [("a contender of a long name", "bf16, int8", "12.0 s", "2.46 s", "25.9 s", "3.65 GB", "29.6 dB")]


def test_in_a_file_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table("figures", _COLUMNS, [(*_ROWS[0][:-1], "9" * 200)])
    line = next(line for line in capsys.readouterr().out.splitlines() if "12.0 s" in line)
    assert all(value in line for value in (*_ROWS[0][:-1], "9" * 200))


@pytest.mark.parametrize("width", [70, 80, 200])
def test_figures_are_whole_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "stdout", Console(force_terminal=True, color_system=None, width=width))
    terminal.print_table("figures", _COLUMNS, _ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert any(all(value in line for value in _ROWS[0][2:]) for line in lines)
    assert max(map(len, lines)) <= width
