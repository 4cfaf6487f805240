"""What README, CONTRIBUTING and docs/ tell people to type, to open and to read exists and works."""

import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shared import linked_copy, write_sealed

import latentrt
from latentrt.cli.app import command as commands
from latentrt.runtime.call.keywords.from_picture import PoseKeywords
from latentrt.runtime.call.keywords.video_options import VideoOptions
from latentrt.runtime.sampling.sampler_table import SAMPLERS

HOUSE = Path(__file__).resolve().parent.parent
PAGES = {
    str(path.relative_to(HOUSE)): path.read_text("utf-8")
    for path in (HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").rglob("*.md")))
}
DRAWING = PAGES["docs/drawing.md"]
ROOMS = ("benchmarks", "docs", "engines", "examples", "export", "latentrt", "models", "runtime", "tests", "typings")


def blocks(page: str, languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages (a regular expression)."""
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", PAGES[page], re.M | re.S)


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.M | re.S)


def code_spans(page: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def shell_lines(page: str) -> list[str]:
    """The commands in a page's shell blocks, continued lines joined."""
    joined = "".join(blocks(page, "bash|sh|console|shell")).replace("\\\n", " ")
    return [line.removeprefix("$ ").strip() for line in joined.splitlines()]


def anchors(page: str) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


COMMANDS = sorted({line for page in PAGES for line in shell_lines(page) if line.startswith("latentrt ")})
TARGETS = sorted({name for text in PAGES.values() for name in re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.M)})


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    """Sub-command, options and the number of arguments; nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    command = commands()
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


def test_there_are_commands_to_check() -> None:
    """The README shows at least how to build and to generate, and the command that continuous integration runs."""
    lines = shell_lines("README.md")
    assert {"build", "generate"} <= {line.split()[1] for line in lines if line.startswith("latentrt ")}
    assert any(line.startswith("make test") for line in lines)


def test_every_make_target_exists() -> None:
    """As a rule of the Makefile."""
    assert {"demo", "test"} <= set(TARGETS)
    rules = set(re.findall(r"^([\w-]+):", (HOUSE / "Makefile").read_text("utf-8"), re.M))
    assert set(TARGETS) - rules == set()


def test_every_extra_exists() -> None:
    """``pip install '.[export]'`` and the like."""
    named = {name for text in PAGES.values() for extras in re.findall(r"(?:\.|latentrt)\[([\w,]+)\]", text)
             for name in extras.split(",")}  # fmt: skip
    assert "export" in named
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["project"]
    assert named - set(project["optional-dependencies"]) == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_resolves(page: str) -> None:
    """Pages, pictures and headings; links into the web are not followed."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (HOUSE / page).parent / file if file else HOUSE / page
        name = os.path.relpath(target, HOUSE)
        if not target.exists() or (anchor and anchor not in anchors(name)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    """Code spans such as ``engines/store/key.py`` and ``runtime/prompts/``; a ``*`` must match something."""
    paths = [span for span in code_spans(page) if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w./*-]*", span)]
    assert [path for path in paths if not any(HOUSE.glob(path.rstrip("/")))] == []


def test_every_page_is_linked() -> None:
    """From the README, or from a page that it links to."""
    linked = {
        os.path.normpath(Path(page).parent / link.partition("#")[0])
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", PAGES[page])
    }
    assert set(PAGES) - linked <= {"README.md"}


def test_drawing_lists_every_keyword_and_every_sampler() -> None:
    """By its name, in backticks."""
    spans = set(code_spans("docs/drawing.md"))
    assert set(latentrt.Options.__annotations__) - spans == set()
    assert set(SAMPLERS) - spans == set()


@pytest.mark.parametrize(("page", "keywords"), [("video", VideoOptions), ("views", PoseKeywords)])
def test_pages_of_other_calls_list_every_keyword(page: str, keywords: type[Any]) -> None:
    """Likewise."""
    assert set(keywords.__annotations__) - set(code_spans(f"docs/{page}.md")) == set()


def test_readme_fits_one_long_screen() -> None:
    """What is longer belongs to docs/."""
    assert len(PAGES["README.md"].splitlines()) <= 160


@pytest.fixture
def emoji_here(wide_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with emoji.bundle as the pages build it, that draws in four steps if nothing is said."""
    bundle = linked_copy(wide_bundle, tmp_path / "emoji.bundle")
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    manifest["defaults"]["num_inference_steps"] = 4
    write_sealed(bundle / "bundle.json", manifest)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page: str, emoji_here: Path) -> None:
    """One after the other, in as few steps as show that they work; blocks about other bundles compile.

    Pages of which no block opens the embedded model are compiled alone.
    """
    names: dict[str, Any] = {}
    runs = "emoji.bundle" in "".join(blocks(page, "python"))
    for block in blocks(page, "python"):
        fewest = 9 if "deep_cache" in block else 4
        few = re.sub(r"(num_inference_steps\W{1,3})\d+", rf"\g<1>{fewest}", block)
        code = compile(few, page, "exec")
        if runs and not set(re.findall(r"[\w-]+\.bundle", block)) - {"emoji.bundle"}:
            exec(code, names)
    if runs:
        names["pipe"].close()


PICTURES = HOUSE / "docs" / "tour"
# The block that begins by building the embedded model
TOUR = re.findall(r"^```sh\n(latentrt build emoji -o .*?)^```", DRAWING, re.M | re.S)


@pytest.mark.slow
def test_the_tours_pictures_are_what_its_commands_draw(
    wide_bundle: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command in turn, in one folder; other CPUs round otherwise, which leaves pictures alike to 40 dB."""
    shutil.copy(PICTURES / "mask.png", tmp_path)
    linked_copy(wide_bundle, tmp_path / "emoji.bundle")  # so that the first command finds it up to date
    monkeypatch.chdir(tmp_path)
    (block,) = TOUR
    for line in block.splitlines():
        ran = command(*shlex.split(line)[1:])
        assert ran.status == 0, ran.stderr
    assert {path.name for path in PICTURES.iterdir()} == {path.name for path in tmp_path.glob("*.png")}
    for shown in PICTURES.iterdir():
        ours, theirs = (np.asarray(Image.open(path), np.float64) for path in (tmp_path / shown.name, shown))
        assert np.mean((ours - theirs) ** 2) <= 255**2 * 1e-4, shown.name
