"""Writes the pages' tables of figures anew from the committed results.

python -m latentrt.benchmarks.report.readme
"""

import re
from functools import partial
from pathlib import Path

from latentrt.benchmarks.report.markdown import markdown_table
from latentrt.benchmarks.report.schema import read_result
from latentrt.engines.errors import RequestError
from latentrt.engines.files import write_file

RESULTS = Path(__file__).resolve().parent.parent / "results"
PAGES = ("README.md", "docs/benchmarks.md")
_PLACE = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end of figures -->)", re.S)


def with_tables(text: str, results: Path = RESULTS) -> str:
    """The text with every ``<!-- figures: NAME -->`` … ``<!-- end of figures -->`` filled from NAME.json.

    A place whose result is not there is left empty.

    Raises:
        RequestError: a result is damaged, or there is no such place.
    """
    if not _PLACE.search(text):
        raise RequestError("the text has no place for figures, expected <!-- figures: NAME -->; put one in")

    def table(found: re.Match[str]) -> str:
        path = results / f"{found['name']}.json"
        filled = markdown_table(read_result(path)) if path.is_file() else ""
        return f"{found[1]}{filled}{found[3]}"

    return _PLACE.sub(table, text)


def main() -> None:
    """The command, from the repository's root."""
    for page in map(Path, PAGES):
        write_file(page, partial(_write, text=with_tables(page.read_text("utf-8"))))


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
