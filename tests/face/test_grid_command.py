"""``latentrt grid``: what it draws, how it goes on, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.cli.grids.cells import Cell, CellKeys
from latentrt.cli.grids.settings import GridDrawing, Settings
from latentrt.engines.errors import EngineError
from latentrt.runtime import pipeline
from latentrt.runtime.call.keywords.flags import FLAGS
from latentrt.runtime.pictures.picture_file import read_parameters

GRID = ("--x", "steps=1,2", "--y", "sampler=euler,heun", "--guidance", 3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Draws:
    """Counts what is drawn, and fails before what would be one too many."""

    def __init__(self) -> None:
        self.count = 0
        self.most: int | None = None
        self.error: BaseException = EngineError("got NaN, expected none; draw otherwise")
        self._draw = pipeline.draw

    def __call__(self, *arguments: Any) -> Any:
        if self.count == self.most:
            raise self.error
        self.count += 1
        return self._draw(*arguments)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    """What the pipeline draws with."""
    counting = Draws()
    monkeypatch.setattr(pipeline, "draw", counting)
    return counting


def table(name: str = "grid.json") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(name).read_text("utf-8"))
    return read


def pixels(path: str | Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_grid(here: Path, emoji_bundle: Path, command: Callable[..., Any]) -> None:
    """Each cell is what ``generate`` draws; the sheet shows it in its place; the table says what it is."""
    done = command("grid", emoji_bundle, "cat face", *GRID, "--seed", 5)
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "grid.png  (4 cells, 4 of them new; table: grid.json)"
    told = table()
    assert [(row["x"], row["y"], row["z"], row["seed"]) for row in told["cells"]] == [
        ("1", "euler", None, 5),
        ("2", "euler", None, 5),
        ("1", "heun", None, 5),
        ("2", "heun", None, 5),
    ]
    assert told["complete"]
    assert told["sheets"] == ["grid.png"]
    assert all(row["seconds"] > 0 for row in told["cells"])
    assert files(here) == sorted(["grid.json", "grid.png", *(row["file"] for row in told["cells"])])
    sheet = pixels("grid.png")
    for index, row in enumerate(told["cells"]):
        drawn = pixels(row["file"])
        assert row["parameters"] == read_parameters(row["file"])
        assert row["settings"]["num_inference_steps"] == int(row["x"])
        left, top = sheet.shape[1] - (2 - index % 2) * (128 + 7), sheet.shape[0] - (2 - index // 2) * (128 + 7)
        np.testing.assert_array_equal(sheet[top : top + 128 : 2, left : left + 128 : 2], drawn)
    for row in told["cells"][1:3]:
        plain = ("--sampler", row["y"], "--steps", row["x"], "--guidance", 3, "--seed", 5, "-o", "plain.png")
        assert command("generate", emoji_bundle, "cat face", *plain, "--overwrite").status == 0
        np.testing.assert_array_equal(pixels(row["file"]), pixels("plain.png"))
        assert row["parameters"] == read_parameters("plain.png")


def test_what_is_there_is_not_drawn_again(
    here: Path, tiny_bundle: Path, command: Callable[..., Any], draws: Draws
) -> None:
    """The same command, without a seed: what is missing or cut short is drawn with the same one. Further values take
    what fits; other settings take nothing."""
    first = command("grid", tiny_bundle, "cat", *GRID)
    assert first.status == 0, first.stderr
    before = {name: (here / name).read_bytes() for name in files(here)}
    seed = table()["seed"]
    again = command("grid", tiny_bundle, "cat", *GRID)
    assert (again.status, draws.count) == (0, 4)
    assert f"seed {seed}, as before" in again.stderr
    assert "4 of 4 cells are there already" in again.stderr
    names = [row["file"] for row in table()["cells"]]
    (here / names[0]).unlink()
    (here / names[1]).write_bytes(before[names[1]][:500])
    shutil.copy(here / names[2], here / names[3])  # whole, but another cell's
    (here / "grid.png").unlink()
    assert command("grid", tiny_bundle, "cat", *GRID).status == 0
    assert draws.count == 7
    assert {name for name in before if before[name] != (here / name).read_bytes()} == {"grid.json"}  # seconds
    more = ("--x", "steps=1,2,3", *GRID[2:])
    refused = command("grid", tiny_bundle, "cat", *more)
    assert (refused.status, draws.count) == (2, 7)
    assert "where another grid is (--x 'steps=1,2')" in refused.stderr
    assert command("grid", tiny_bundle, "cat", *more, "--overwrite").status == 0
    assert draws.count == 9
    other = command("grid", tiny_bundle, "cat", *GRID[:-1], 4, "--overwrite", "--json")
    assert draws.count == 13
    assert json.loads(other.stdout) == table()
    assert table()["seed"] == seed


@pytest.mark.parametrize("error", [EngineError("got NaN, expected none"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_early_end(
    error: BaseException, here: Path, tiny_bundle: Path, command: Callable[..., Any], draws: Draws
) -> None:
    """What is drawn is kept, and there is no sheet; the same command goes on."""
    draws.most, draws.error = 2, error
    ended = command("grid", tiny_bundle, "cat", *GRID)
    if isinstance(error, KeyboardInterrupt):
        assert ended.status == 130
        assert "interrupted; 2 of 4 cells are written, and the same command goes on" in ended.stderr
    else:
        assert ended.status == 2
        assert "got NaN, expected none (in the cell steps 1, sampler heun; 2 of 4 cells are written" in ended.stderr
    assert not table()["complete"]
    assert files(here) == sorted(["grid.json", *(row["file"] for row in table()["cells"])])
    draws.most = None
    assert command("grid", tiny_bundle, "cat", *GRID).status == 0
    assert draws.count == 4
    assert len({row["seed"] for row in table()["cells"]}) == 1
    assert table()["complete"]


@pytest.mark.slow
def test_loras_sheets_and_pictures_to_start_from(
    here: Path, tiny_bundle: Path, command: Callable[..., Any], draws: Draws
) -> None:
    """A sheet for each value of z; the weight that the axis says; image-to-image's strength; one picture for cells
    that are the same."""
    save_tiny_lora(here / "style.safetensors", tiny_bundle)
    axes = ("--x", "lora:style=0,1", "--y", "prompt=cat,dog", "--z", "seed=1,2")
    done = command("grid", tiny_bundle, "cat", *axes, "--lora", "style.safetensors:0.5", "--steps", 1, "-o", "z.webp")
    assert done.status == 0, done.stderr
    assert {path.name for path in here.glob("z*.*")} == {"z-0.webp", "z-1.webp", "z.json"}
    prompts = [read_parameters(row["file"]).splitlines()[0] for row in table("z.json")["cells"]]  # type: ignore[union-attr]
    assert prompts == 2 * ["cat", "cat <lora:style:1>", "dog", "dog <lora:style:1>"]
    Image.new("RGB", (32, 32), "red").save("red.png")
    draws.count = 0
    axes = ("--x", "strength=0.5,1,0.5")
    start = ("--image", "red.png", "--steps", 2, "--seed", 1, "-o", "s.png")
    done = command("grid", tiny_bundle, "cat", *axes, *start)
    assert (done.status, draws.count) == (0, 2), done.stderr
    assert [row["settings"]["strength"] for row in table("s.json")["cells"]] == [0.5, 1.0, 0.5]
    Image.new("RGB", (32, 32), "blue").save("red.png")  # another picture under the same name
    assert command("grid", tiny_bundle, "cat", *axes, *start).status == 0
    assert draws.count == 4


REFUSED = {
    "no axis": ("", "got no axis"),
    "unknown axis": ("--x stepz=1", "did you mean steps?"),
    "another suffix": ("--x steps=1 -o grid.gif", ".png, .jpg"),
    "a folder that is missing": ("--x steps=1 -o none/grid.png", "does not exist"),
    "another file": ("--x steps=1 -o there.png", "'there.png' is there already", "--overwrite"),
    "another table": ("--x steps=1 -o other.png --overwrite", "'other.json' is no grid's table"),
    "a file in place of cells": ("--x steps=1 -o file.png", "file-cells", "not a folder"),
    "no bundle": ("--x steps=1", "none.bundle"),
}
REFUSED_BY_THE_MODEL = {
    "sampler": ("--x steps=1,2 --y sampler=euler,eulr", "got sampler 'eulr'", "(in the cell steps 1, sampler eulr)"),
    "option of another sampler": ("--x sampler.eta=0 --sampler euler", "'eta=0'", "sampler 'euler'"),
    "steps": ("--x steps=2,0", "steps 0", "(in the cell steps 0)"),
    "size": ("--x size=32x32,4096x4096", "4096x4096"),
    "strength alone": ("--x strength=0.5", "--image"),
    "prompt": ("--x prompt=cat,(cat --prompt-syntax compel", "▸(cat", "(in the cell prompt (cat)"),
    "value of a number": ("--x guidance=1,a", "got --guidance 'a'", "(in the cell guidance a)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_bundle_is_opened(case: str, here: Path, command: Callable[..., Any]) -> None:
    """One sentence; nothing is written."""
    (here / "there.png").touch()
    (here / "other.json").write_text("{}")
    (here / "file-cells").touch()
    before = files(here)
    arguments, *reasons = REFUSED[case]
    done = command("grid", "none.bundle", "cat", *arguments.split())
    assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert all(reason in done.stderr for reason in reasons), done.stderr
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize("case", REFUSED_BY_THE_MODEL)
def test_refused_before_the_first_cell(
    case: str, here: Path, tiny_bundle: Path, command: Callable[..., Any], draws: Draws
) -> None:
    """One sentence with the cell, however late it would come; nothing is written."""
    arguments, *reasons = REFUSED_BY_THE_MODEL[case]
    done = command("grid", tiny_bundle, "cat", *arguments.split())
    assert (done.status, done.stdout, done.stderr.count("\n"), draws.count) == (2, "", 1, 0), done.stderr
    assert all(reason in done.stderr for reason in reasons), done.stderr
    assert list(here.iterdir()) == []


def test_keys_depend_on_model_settings_options_and_files(tmp_path: Path, tiny_pipe: latentrt.Pipeline) -> None:
    """Another of any of them is another cell; the place on the axes does not count."""
    (metadata,) = tiny_pipe.check("cat", seed=1)
    (other,) = tiny_pipe.check("cat", seed=2)
    picture = tmp_path / "a:b.png"
    picture.write_bytes(b"one")

    def key(manifest: Any = tiny_pipe.manifest, settings: Any = metadata, place: int = 0, **options: Any) -> str:
        keywords = {name: options.pop(name, None) for name in FLAGS}
        drawing = GridDrawing(keywords=keywords, **{"control": [f"net.bundle:{picture}:0.5"], **options})
        cell = Cell(place=(place, 0, 0), label="", settings=Settings(prompt="cat", drawing=drawing))
        return CellKeys(manifest).checked(cell, settings).key

    digests = {"unet.onnx": SimpleNamespace(sha256="0")}
    keys = [key(), key(SimpleNamespace(files=digests)), key(settings=other), key(vae="tiled"), key(control=["net:a"])]
    picture.write_bytes(b"two")
    assert len({*keys, key()}) == 6
    assert key() == key(place=1) == key(threads=2) == key(json=True)


def test_check_gives_the_settings_of_a_call(tiny_pipe: latentrt.Pipeline, draws: Draws) -> None:
    """Of text-to-image and of image-to-image, without drawing; it refuses what the call refuses."""
    image = Image.new("RGB", (32, 32), "red")
    checked = tiny_pipe.check(["cat", "dog"], seed=3, num_inference_steps=1)
    from_image = tiny_pipe.check("cat", image=image, strength=0.5, seed=3, num_inference_steps=2)
    for keywords in ({"sampler": "eulr"}, {"image": image, "strength": 2}, {"stepz": 3}):
        with pytest.raises(latentrt.RequestError):
            tiny_pipe.check("cat", **keywords)
    assert draws.count == 0
    assert checked == tiny_pipe(["cat", "dog"], seed=3, num_inference_steps=1).metadata
    assert from_image == tiny_pipe.img2img("cat", image=image, strength=0.5, seed=3, num_inference_steps=2).metadata
