"""A plugin for pytest: what becomes of each test is a line of a file as soon as it is known."""

import json
import os
from pathlib import Path
from typing import Any

FILE = "LATENTRT_TEST_OUTCOMES"
"""The environment's name of the file."""
_REASON = 200  # characters


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest for each part of a test: of what passes, the test itself counts."""
    if report.when != "call" and report.outcome == "passed":
        return
    reason = None if report.outcome == "passed" else _reason(report)
    line = json.dumps({"name": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "reason": reason})
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _reason(report: Any) -> str:
    """The last line of why it failed or was skipped."""
    told = report.longrepr
    crash = getattr(told, "reprcrash", None)
    text = told[2] if isinstance(told, tuple) else str(told) if crash is None else crash.message
    return " ".join(text.split())[:_REASON]
