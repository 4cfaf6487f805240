"""Many pictures from one command: batches, names, prompts from files, and what ends the work early."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.cli.drawing.batches import Batch
from latentrt.cli.outputs import Picture
from latentrt.engines.errors import OutputError
from latentrt.runtime import pipeline
from latentrt.runtime.pictures import picture_file
from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

FAST = ("--steps", 1)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def seeds(folder: Path) -> dict[str, str]:
    """The seed in the settings of each picture."""
    return {name: settings_from_parameters(str(read_parameters(folder / name)))["Seed"] for name in names(folder)}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the pipeline draws."""
    calls: list[int] = []
    draw = pipeline.draw

    def counting(pipe: Any, engines: Any, text_encoders: Any, call: Any, *arguments: Any) -> Any:
        calls.append(call.request.count)
        return draw(pipe, engines, text_encoders, call, *arguments)

    monkeypatch.setattr(pipeline, "draw", counting)
    return calls


def test_pictures_are_drawn_in_the_profiles_batches(
    command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, counted: list[int]
) -> None:
    """Each is the picture that its seed draws alone; the profile of the size counts."""
    done = command("generate", tiny_bundle, "cat", *FAST, "--count", 5, "--seed", 7, "-o", tmp_path / "a.png")
    assert done.status == 0, done.stderr
    assert counted == [2, 2, 1]
    assert seeds(tmp_path) == {f"a-{index}.png": str(7 + index) for index in range(5)}
    assert done.stdout.splitlines()[2] == f"{tmp_path / 'a-2.png'}  (seed 9)"
    assert done.stdout.splitlines()[-1].startswith("5 pictures in ")
    command("generate", tiny_bundle, "cat", *FAST, "--seed", 9, "-o", tmp_path / "alone.png")
    np.testing.assert_allclose(*(np.asarray(Image.open(tmp_path / f"{n}.png"), int) for n in ("alone", "a-2")), atol=1)
    counted.clear()
    command("generate", tiny_bundle, "cat", *FAST, "--count", 2, "--size", "48x32", "-o", tmp_path / "w.png")
    assert counted == [1, 1]


@pytest.mark.parametrize(
    ("workflow", "options", "expected"),
    [
        ("img2img", ("--strength", 1), [1, 1, 1]),
        ("inpaint", ("--mask", "{image}"), [1, 1, 1]),
        ("outpaint", ("--left", 16), [1, 1, 1]),
        ("img2img", ("--strength", 1, "--size", "32x32"), [2, 1]),
    ],
)
def test_every_workflow_draws_in_batches(
    workflow: str,
    options: tuple[Any, ...],
    expected: list[int],
    command: Callable[..., Any],
    tiny_bundle: Path,
    tmp_path: Path,
    counted: list[int],
) -> None:
    """The picture's own size counts where none is given."""
    image = tmp_path / "start.png"
    Image.new("RGB", (32 if workflow == "outpaint" else 48, 32), "white").save(image)
    options = tuple(str(option).format(image=image) for option in options)
    out = tmp_path / "out" / "{index}.webp"
    done = command(workflow, tiny_bundle, "cat", "--image", image, *options, *FAST, "--count", 3, "-o", out)
    assert done.status == 0, done.stderr
    assert counted == expected
    assert names(tmp_path / "out") == ["0.webp", "1.webp", "2.webp"]


def test_names_by_pattern(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """The folder is made; a prompt becomes a name that every system takes; braces are doubled."""
    pattern = tmp_path / "new" / "{{x}}" / "{index:04}-{seed}-{prompt:.9}-{model}.jpg"
    done = command("generate", tiny_bundle, "a/b: ../Käse?", *FAST, "--count", 2, "--seed", 7, "-o", pattern)
    assert done.status == 0, done.stderr
    assert names(tmp_path) == ["new/{x}/0000-7-a-b-..-Kä-tiny.jpg", "new/{x}/0001-8-a-b-..-Kä-tiny.jpg"]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("x" * 300 + ".png", "the name is too long"),
        ("{index}" + "x" * 300 + ".png", "the name is too long"),
        ("folder-{index}.png", "it is a folder"),
        ("text.txt/{index}.png", "is a file"),
        ("none/a.png", "the folder does not exist"),
    ],
)
def test_names_that_no_file_can_have(
    output: str, reason: str, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, before a bundle is opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder-1.png").mkdir()
    (tmp_path / "text.txt").touch()
    done = command("generate", "none.bundle", "cat", "--count", 2, "-o", output)
    assert (done.status, done.stdout) == (2, ""), done.stderr
    assert reason in done.stderr
    assert names(tmp_path) == ["text.txt"]


BAD_NAMES = {
    "{": "a malformed pattern (",
    "a}": "a malformed pattern (",
    "{sede}": "with {sede}, expected {index}, {seed}, {prompt}, {model}",
    "{}": "with {}",
    "{0}": "with {0}",
    "{seed.real}": "with {seed.real}",
    "{prompt[0]}": "with {prompt[0]}",
    "{index!r}": "with {index!r}",
    "{index:0999999999}": "with {index:0999999999}",
    "{index:{seed}}": "with {index:{seed}}",
    "{prompt}": "names two pictures 'cat.png'; add {index} to it",
}


@pytest.mark.parametrize("pattern", BAD_NAMES)
def test_malformed_patterns(
    pattern: str, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, before a bundle is opened."""
    monkeypatch.chdir(tmp_path)
    done = command("generate", tmp_path / "none.bundle", "cat", "--count", 2, "-o", f"{pattern}.png")
    assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert BAD_NAMES[pattern] in done.stderr
    assert names(tmp_path) == []


def test_what_is_there_is_replaced_only_if_told(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """Refused before anything is drawn, with the name and the way out."""
    for name in ("a-1.png", "a-2.png", "a.npy"):
        (tmp_path / name).write_bytes(b"mine")
    arguments = ("generate", tiny_bundle, "cat", *FAST, "--count", 3, "-o")
    for output, there in (("a.png", "a-1.png' and 1 more are"), ("a-{index}.png", "a-1.png' and 1 more are"),
                          ("a.npy", "a.npy' is")):  # fmt: skip
        done = command(*arguments, tmp_path / output)
        assert done.status == 2
        assert there in done.stderr
        assert "--overwrite" in done.stderr
        assert names(tmp_path) == ["a-1.png", "a-2.png", "a.npy"]
    assert command(*arguments, tmp_path / "a.png", "--overwrite").status == 0
    assert all((tmp_path / f"a-{index}.png").read_bytes().startswith(b"\x89PNG") for index in range(3))


LINES = "a cat\r\n\r\n  ein Käse  \n\u2028港\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("way", ["--prompts FILE", "--prompts -", "-"])
def test_prompts_from_a_file_and_from_standard_input(
    way: str,
    encoding: str,
    command: Callable[..., Any],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: list[int],
) -> None:
    """One a line, each as often as --count says, in batches over all of them."""
    (tmp_path / "lines.txt").write_bytes(LINES.encode(encoding))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(LINES.encode(encoding)), isatty=lambda: False))
    words = way.replace("FILE", str(tmp_path / "lines.txt")).split()
    out = tmp_path / "out" / "{index}.png"
    done = command("generate", tiny_bundle, *words, *FAST, "--count", 2, "--seed", 1, "--json", "-o", out)
    assert done.status == 0, done.stderr
    pictures = json.loads(done.stdout)["pictures"]
    assert [picture["prompt"] for picture in pictures] == ["a cat", "a cat", "ein Käse", "ein Käse", "港", "港"]
    assert [picture["seed"] for picture in pictures] == [1, 2, 3, 4, 5, 6]
    assert counted == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "got no PROMPT, expected one"),
        (("cat", "--prompts", "{tmp}/empty.txt"), "got PROMPT and --prompts"),
        (("--prompts", "{tmp}/none.txt"), "none.txt', which cannot be read"),
        (("--prompts", "{tmp}"), "which cannot be read"),
        (("--prompts", "{tmp}/empty.txt"), "without a prompt"),
        (("--prompts", "{tmp}/latin.txt"), "expected UTF-8 text"),
        (("--prompts", "{tmp}/binary.txt"), "no binary file"),
        (("-",), "got prompts from standard input without a prompt"),
        (("--prompts", "{tmp}/second.txt", "--prompt-syntax", "a1111"), "the prompt is malformed"),
        (("cat", "--count", "100001"), "got count 100001, expected 1 to 100000"),
    ],
)
def test_prompts_that_cannot_be_drawn(
    arguments: tuple[str, ...],
    reason: str,
    command: Callable[..., Any],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sentence before the first is drawn, also where it is the second that is malformed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n\n"), isatty=lambda: False))
    content = {"empty": b"\n \n", "latin": "Käse".encode("latin1"), "binary": b"a\0b", "second": b"a cat\na\n(b:1..2)"}
    for name, text in content.items():
        (tmp_path / f"{name}.txt").write_bytes(text)
    before = names(tmp_path)
    done = command("generate", tiny_bundle, *(argument.format(tmp=tmp_path) for argument in arguments), *FAST)
    assert (done.status, done.stdout) == (2, ""), done.stderr
    assert reason in done.stderr
    assert names(tmp_path) == before


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "latentrt: interrupted; 3 of 6 pictures are written"),
        (OutputError("cannot write 'x': the disk is full"), 2, "the disk is full (3 of 6 pictures are written)"),
    ],
)
def test_what_is_finished_is_on_disk(
    ends: BaseException,
    status: int,
    said: str,
    *,
    as_json: bool,
    command: Callable[..., Any],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C, or a disk that fills up, after three of six; with --json the three are told."""
    write = picture_file.write_picture

    def failing(path: Path, *arguments: Any) -> None:
        if path.stem == "3":
            raise ends
        write(path, *arguments)

    monkeypatch.setattr(picture_file, "write_picture", failing)
    out = tmp_path / "{index}.png"
    done = command("generate", tiny_bundle, "cat", *FAST, "--count", 6, "-o", out, *["--json"] * as_json)
    assert (done.status, done.stderr.strip().splitlines()[-1][-len(said) :]) == (status, said)
    assert names(tmp_path) == ["0.png", "1.png", "2.png"]
    if as_json:
        told = json.loads(done.stdout)
        assert (len(told["pictures"]), told["interrupted"]) == (3, True)
    else:
        assert len(done.stdout.splitlines()) == 3


def test_latents_of_many_pictures(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """One file under a plain name, a file each by pattern; each goes on from its own."""
    arguments = ("generate", tiny_bundle, "cat", *FAST, "--count", 3, "--seed", 1, "-o")
    done = command(*arguments, tmp_path / "a.npy")
    assert done.stdout.splitlines()[0] == f"{tmp_path / 'a.npy'}  (seed 1, 2, 3)"
    assert command(*arguments, tmp_path / "b-{index}.npy").status == 0
    together = np.load(tmp_path / "a.npy")
    each = [np.load(tmp_path / f"b-{index}.npy") for index in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(each))
    on = ("img2img", tiny_bundle, "cat", "--image", tmp_path / "a.npy", "--strength", 0, "--seed", 1, "-o")
    refused = command(*on, tmp_path / "c.png")
    assert (refused.status, "use --count 3" in refused.stderr) == (2, True)
    assert command(*on, tmp_path / "c-{index}.npy", "--count", 3).status == 0
    for index in range(3):
        np.testing.assert_array_equal(np.load(tmp_path / f"c-{index}.npy"), each[index])


def test_inspect_shows_a_pictures_settings(command: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """As they stand in the file, or as pairs."""
    command("generate", tiny_bundle, "cat", *FAST, "--seed", 5, "-o", tmp_path / "a.jpg")
    text = command("inspect", tmp_path / "a.jpg").stdout
    assert text == f"{read_parameters(tmp_path / 'a.jpg')}\n"
    settings = json.loads(command("inspect", tmp_path / "a.jpg", "--json").stdout)
    assert (settings["Prompt"], settings["Seed"], settings["Size"]) == ("cat", "5", "32x32")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    refused = command("inspect", tmp_path / "plain.png")
    assert (refused.status, "without settings" in refused.stderr) == (2, True)


def test_what_a_progress_bar_says() -> None:
    """Which pictures of how many."""
    pictures = [Picture(prompt="cat", seed=seed) for seed in range(5)]
    said = [
        Batch(pictures=pictures[first:last], first=first, total=total).label
        for first, last, total in ((0, 1, 1), (0, 2, 5), (4, 5, 5))
    ]
    assert said == ["denoising", "pictures 1 to 2 of 5", "picture 5 of 5"]
