"""What the README and CONTRIBUTING tell people to type and to read exists."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from latentrt.cli.app import app

HOUSE = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")


def shell_lines(page: str) -> list[str]:
    """The commands in a page's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```(?:bash|sh|console|shell)\n(.*?)^```", (HOUSE / page).read_text("utf-8"), re.M | re.S)
    return [line.removeprefix("$ ").strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


COMMANDS = [line for page in PAGES for line in shell_lines(page) if line.startswith("latentrt ")]
TARGETS = sorted(
    {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)make ([a-z][\w-]*)", (HOUSE / page).read_text("utf-8"), re.M)
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    """Sub-command, options and the number of arguments; nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    command.make_context(words[0], words[1:])


PICTURES = HOUSE / "docs" / "tour"
# The README's block that begins by building the embedded model
TOUR = re.findall(r"^```sh\n(latentrt build emoji -o .*?)^```", (HOUSE / "README.md").read_text("utf-8"), re.M | re.S)


def test_the_tours_pictures_are_what_its_commands_draw(
    wide_bundle: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command in turn, in one folder; other CPUs round otherwise, which leaves pictures alike to 40 dB."""
    shutil.copy(PICTURES / "mask.png", tmp_path)
    shutil.copytree(wide_bundle, tmp_path / "emoji.bundle")  # so that the first command finds it up to date
    monkeypatch.chdir(tmp_path)
    (block,) = TOUR
    for line in block.splitlines():
        ran = command(*shlex.split(line)[1:])
        assert ran.status == 0, ran.stderr
    assert {path.name for path in PICTURES.iterdir()} == {path.name for path in tmp_path.glob("*.png")}
    for shown in PICTURES.iterdir():
        ours, theirs = (np.asarray(Image.open(path), np.float64) for path in (tmp_path / shown.name, shown))
        assert np.mean((ours - theirs) ** 2) <= 255**2 * 1e-4, shown.name


def test_there_are_commands_to_check() -> None:
    """The README shows at least how to build and to generate."""
    assert {"build", "generate"} <= {line.split()[1] for line in COMMANDS}


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_exists(target: str) -> None:
    """As a rule of the Makefile."""
    assert re.search(rf"^{target}:", (HOUSE / "Makefile").read_text("utf-8"), re.M)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_resolves(page: str) -> None:
    """Pages and pictures; links into the web are not followed."""
    links = re.findall(r"\]\(([^)\s]+)\)", (HOUSE / page).read_text("utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (HOUSE / link).exists()] == []
