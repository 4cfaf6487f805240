"""Terminals and pipes of any encoding, readers that go, and streams that are closed: the work is done, and said."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).resolve().parents[2]
COMMAND = "from latentrt.cli.app import main; main()"


def run(*arguments: object, encoding: str = "utf-8", closed: str = "", **options: Any) -> Any:
    """``latentrt ARGUMENTS…`` in a process of its own, with the shell's redirections behind."""
    words = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    script = f'"$@" {closed}'
    return subprocess.run(
        ["/bin/bash", "-c", script, "bash", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=120,
        check=False,
        cwd=HOUSE.parent,
        **{"capture_output": True, **options},
    )


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose name few encodings have."""
    link = tmp_path / "Bündel港🚢.bundle"
    link.symlink_to(tiny_bundle)
    return link


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_what_an_encoding_lacks_is_escaped(bundle: Path, tmp_path: Path, encoding: str) -> None:
    """Paths and prompts, on stdout and on stderr; JSON stays JSON."""
    arguments = ("generate", bundle, "ein Käse 🚢 港", "--steps", 1, "--seed", 1)
    done = run(*arguments, "-o", tmp_path / "Käse港🚢-{index}.png", encoding=encoding)
    assert done.returncode == 0, done.stderr
    line = done.stdout.decode(encoding).splitlines()[0]
    assert line.endswith({"ascii": "K\\xe4se\\u6e2f\\U0001f6a2-0.png  (seed 1)"}.get(encoding, "  (seed 1)"))
    done = run(*arguments, "-o", tmp_path / "港.png", "--json", encoding=encoding)
    picture = json.loads(done.stdout.decode(encoding))["pictures"][0]
    assert (picture["prompt"], picture["path"]) == ("ein Käse 🚢 港", str(tmp_path / "港.png"))
    refused = run(*arguments, "-o", tmp_path / "港.gif", encoding=encoding)
    assert refused.returncode == 2
    assert b"\\u6e2f.gif" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [("samplers",), *(pytest.param(one, marks=pytest.mark.slow) for one in (("inspect", "{}"), ("--help",)))],
)
def test_tables_in_any_encoding(bundle: Path, arguments: tuple[str, ...]) -> None:
    """Lines that the encoding has; nothing is lost."""
    done = run(*(argument.format(bundle) for argument in arguments), encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").count("\n") > 5
    assert b"\\u25" not in done.stdout


def test_bytes_of_a_name_that_are_no_text_are_told_as_they_are(tiny_bundle: Path, tmp_path: Path) -> None:
    """So that the next command finds the file; JSON escapes them."""
    folder = os.fsencode(tmp_path) + b"/d\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    words = [sys.executable, "-c", COMMAND, "generate", str(tiny_bundle), "cat", "--steps", "1", "-o"]
    done = subprocess.run([*words, folder + b"/a.png"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(folder + b"/a.png  (seed ")


DRAWING = ("generate", "{}", "cat", "--steps", 1, "--count", 5, "-o", "{}/{{index}}.png")
CLOSED = {
    "a reader that goes": ("| head -1; exit ${{PIPESTATUS[0]}}", 0),
    "a reader that goes at once": ("| true; exit ${{PIPESTATUS[0]}}", 0),
    "both streams, and nobody reads": ("2>&1 | true; exit ${{PIPESTATUS[0]}}", 0),
    "stdout closed": (">&-", 0),
    "both closed": (">&- 2>&-", 0),
    "a full disk": (">/dev/full", 2),
}
OFTEN = ("a reader that goes at once", "both closed", "a full disk")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in OFTEN else pytest.mark.slow) for case in CLOSED]
)
def test_a_closed_stream_is_no_error(tiny_bundle: Path, tmp_path: Path, case: str) -> None:
    """The pictures are drawn to the last; a full disk is one, in a sentence."""
    closed, status = CLOSED[case]
    arguments = [str(word).format(*[tiny_bundle if word == "{}" else tmp_path]) for word in DRAWING]
    done = run(*arguments, closed=closed.format())
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if status:
        assert b"latentrt: cannot write 'standard output': the disk is full" in done.stderr
    else:
        pictures = sorted(tmp_path.glob("*.png"))
        assert [path.name for path in pictures] == [f"{index}.png" for index in range(5)]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["samplers", "samplers --json", "--help"])
@pytest.mark.parametrize("closed", ["| true; exit ${PIPESTATUS[0]}", ">&-"])
def test_what_prints_alone_ends_quietly(arguments: str, closed: str) -> None:
    """Where nobody reads it."""
    done = run(*arguments.split(), closed=closed)
    assert (done.returncode, done.stderr) == (0, b"")


def test_streams_are_as_before_afterwards(command: Callable[..., Any]) -> None:
    """A program that calls the command line keeps its own."""
    before = sys.stdout, sys.stderr, sys.stdout.errors
    assert command("samplers").status == 0
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
