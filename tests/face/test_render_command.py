"""``latentrt render``: what it draws, how it goes on, and what it refuses."""

import json
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.engines.errors import EngineError, OutputError
from latentrt.engines.files import locked
from latentrt.engines.json_lines import JsonLines
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.render.journal import Journal

Command = Callable[..., Any]
CAT: Mapping[str, Any] = {"prompt": "a cat", "num_inference_steps": 1, "seed": 1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a picture and a mask."""
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(tmp_path / "face.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(*orders: Mapping[str, Any] | str, name: str = "orders.jsonl") -> str:
    """A file of orders."""
    lines = [order if isinstance(order, str) else json.dumps(order) for order in orders]
    Path(name).write_text("\n".join(lines), "utf-8")
    return name


def rows(name: str = "journal.jsonl", folder: str = "out") -> list[dict[str, Any]]:
    """The rows of a journal, without what was cut short."""
    return JsonLines(Path(folder) / name).rows()


def pictures(folder: str = "out") -> dict[str, bytes]:
    """The files of a folder, without journals."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix not in (".jsonl", ".lock")}


def test_every_way_of_drawing_is_what_the_pipeline_draws(tiny_bundle: Path, command: Command, here: Path) -> None:
    """Pixels and settings; orders without a seed get one each, which is in their settings."""
    face, mask = Image.open("face.png"), Image.open("mask.png")
    inline = b64encode(Path("face.png").read_bytes()).decode()
    orders = (
        {**CAT, "id": "text"},
        {**CAT, "seed": None, "prompt": ["a cat", "a dog"]},
        {**CAT, "image": "face.png", "strength": 1.0},
        {**CAT, "image": f"data:image/png;base64,{inline}", "mask_image": "mask.png"},
        {**CAT, "seed": None, "width": 48, "height": 32, "sampler": {"name": "ddim", "eta": 0.5}},
        {**CAT, "seed": None, "width": 48, "height": 32, "sampler": {"name": "ddim", "eta": 0.5}},
    )
    ran = command("render", tiny_bundle, written(*orders), "-o", "out", "--backend", "ort-cpu", "--together", 3)
    assert (ran.status, ran.stderr) == (0, ""), ran.stderr
    told = {row["line"]: row for row in rows()}
    assert sorted(told) == [1, 2, 3, 4, 5, 6]
    assert told[1]["id"] == "text"
    assert told[1]["seeds"] == [1]
    assert len({*told[2]["seeds"], *told[5]["seeds"], *told[6]["seeds"]}) == 4
    assert sorted(pictures()) == sorted(name for row in told.values() for name in row["files"])
    assert ran.stdout.count("\n") == 8
    with latentrt.open_pipeline(tiny_bundle) as pipe:
        ddim = latentrt.Sampler(name="ddim", eta=0.5)
        expected = {
            1: pipe(**CAT),
            2: pipe(**{**CAT, "prompt": ["a cat", "a dog"], "seed": told[2]["seeds"]}),
            3: pipe.img2img(**CAT, image=face, strength=1.0),
            4: pipe.inpaint(**CAT, image=face, mask_image=mask),
            5: pipe(**{**CAT, "seed": told[5]["seeds"], "width": 48, "height": 32, "sampler": ddim}),
            6: pipe(**{**CAT, "seed": told[6]["seeds"], "width": 48, "height": 32, "sampler": ddim}),
        }
    for line, result in expected.items():
        for name, image, metadata in zip(told[line]["files"], result.images, result.metadata, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(Path("out", name))), np.asarray(image))
            assert latentrt.read_parameters(Path("out", name)) == metadata.parameters()


def test_the_same_command_goes_on(tiny_bundle: Path, command: Command, here: Path) -> None:
    """What is there stays as it is, whatever became of the journal's last line; equal orders are drawn once."""
    orders = written({**CAT, "id": "one"}, "", {**CAT, "seed": None}, {**CAT, "id": "two"}, {**CAT, "seed": 3})
    run = ("render", tiny_bundle, orders, "-o", "out", "--json")
    first = json.loads(command(*run).stdout)
    assert [row["line"] for row in first["orders"]] == [1, 3, 4, 5]
    assert (first["failed"], first["missing"]) == (0, 0)
    assert first["orders"][0]["files"] == first["orders"][2]["files"]
    drawn = pictures()
    assert len(drawn) == 3
    assert [(row["line"], row["id"]) for row in rows()] == [(1, "one"), (3, None), (5, None), (4, "two")]
    times = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    again = command(*run)
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == times
    assert json.loads(again.stdout)["orders"] == first["orders"]
    assert "4 of 4 orders are there already" in again.stderr

    lost, unknown = (first["orders"][index]["files"][0] for index in (1, 3))
    Path("out", lost).unlink()
    Path("out", unknown).write_bytes(drawn[unknown][:100])  # a loss of power, before the journal had it
    kept = [row for row in rows() if row["line"] != 5]
    Path("out/journal.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept) + '{"line": 5, "id')
    assert command(*run).status == 0
    assert pictures() == drawn
    assert {row["digest"] for row in rows()} == {row["digest"] for row in first["orders"]}


def test_all_bad_lines_are_told_before_anything_is_drawn(tiny_bundle: Path, command: Command, here: Path) -> None:
    """By number, each with what to do."""
    Path("note.png").write_text("no picture")
    bad = {
        "no json": "no JSON",
        "[1]": "a JSON object",
        '{"prompt": "a cat", "stepz": 3}': "'stepz', which no order has; did you mean num_inference_steps?",
        '{"prompt": "a cat", "num_inference_steps": "many"}': "num_inference_steps 'many'",
        '{"prompt": "a cat", "sampler": "magic"}': "magic",
        '{"prompt": "a cat", "width": 40, "height": 40}': "40x40",
        '{"prompt": "a cat", "image": "nowhere.png"}': "cannot read the picture",
        '{"prompt": "a cat", "image": "note.png"}': "note.png of another format",
        '{"prompt": "a cat", "image": "&&"}': "base64",
        '{"prompt": "a cat", "model": "other"}': "model 'other'",
        '{"prompt": "a cat", "loras": {"ink": 1}}': "LoRA 'ink'",
        '{"prompt": "a cat", "control": [{"net": "canny", "image": "face.png"}]}': "net 'canny'",
        '{"prompt": "a cat", "strength": 0.5}': "without image",
        '{"prompt": "a cat", "id": [1]}': "id [1]",
    }
    ran = command("render", tiny_bundle, written(CAT, *bad), "-o", "out")
    assert (ran.status, ran.stdout) == (2, "")
    told = ran.stderr.splitlines()
    for number, (line, part) in enumerate(zip(told, bad.values(), strict=False), 2):
        assert line.startswith(f"latentrt: orders.jsonl:{number}: ")
        assert part in line
    assert f"of which {len(bad)} cannot be drawn, so that none was" in told[-1]
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/2"), "got shard '0/2', expected i/n"),
        (("--together", 0), "got together 0"),
        (("--format", "tiff"), "got format 'tiff', expected one of png, jpg"),
        (("--actors", 2), "without --ray"),
        (("--loras", "nowhere"), "which is not there"),
    ],
)
def test_options_are_checked(
    options: tuple[Any, ...], said: str, tiny_bundle: Path, command: Command, here: Path
) -> None:
    """Before anything is opened."""
    ran = command("render", tiny_bundle, written(CAT), "-o", "out", *options)
    assert ran.status == 2
    assert said in ran.stderr


def test_an_order_that_fails_stops_no_other(
    tiny_bundle: Path, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal and the exit status say so, and the same command tries it again."""
    submit = Pipeline.submit

    def failing(pipe: Pipeline, prompt: Any = None, **options: Any) -> Any:
        if prompt == "bad luck":
            raise EngineError("got NaN, expected none; draw otherwise")
        return submit(pipe, prompt, **options)

    orders = written({**CAT, "prompt": "bad luck"}, CAT)
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "submit", failing)
        ran = command("render", tiny_bundle, orders, "-o", "out")
    assert ran.status == 2
    assert "1 of 2 orders failed, the first in line 1: got NaN" in ran.stderr
    assert [(row["line"], row["error"] is None, len(row["files"])) for row in rows()] == [(1, False, 0), (2, True, 1)]
    assert command("render", tiny_bundle, orders, "-o", "out").status == 0
    assert [(row["line"], row["error"]) for row in rows()[2:]] == [(1, None)]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; 1 of 3 orders are drawn, and the same command goes on"),
        (OutputError("cannot write 'journal': the disk is full; free some space and try again"), 2, "the disk is full"),
    ],
)
def test_what_ends_it_early_costs_nothing(
    error: BaseException,
    status: int,
    said: str,
    tiny_bundle: Path,
    command: Command,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C and a full disk; a picture that the journal does not know of counts as well."""
    orders = written(*({**CAT, "seed": seed} for seed in range(3)))
    add = Journal.add

    def failing(journal: Journal, outcome: Any) -> None:
        if outcome.line == 2:
            raise error
        add(journal, outcome)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", failing)
        ran = command("render", tiny_bundle, orders, "-o", "out")
    assert (ran.status, said in ran.stderr) == (status, True), ran.stderr
    before = pictures()
    ran = command("render", tiny_bundle, orders, "-o", "out")
    assert "2 of 3 orders are there already" in ran.stderr
    assert {row["line"] for row in rows()} == {1, 2, 3}
    assert before.items() < pictures().items()


def test_shards_draw_all_between_them(tiny_bundle: Path, command: Command, here: Path) -> None:
    """Each has its journal, and knows what the others have drawn; nobody else draws one meanwhile."""
    orders = written(*({**CAT, "seed": seed} for seed in range(5)))
    with locked(here / "out" / "journal-1-of-2.jsonl", "render"):
        ran = command("render", tiny_bundle, orders, "-o", "out", "--shard", "1/2")
        assert (ran.status, "another render is writing" in ran.stderr) == (2, True)
        assert command("render", tiny_bundle, orders, "-o", "out", "--shard", "2/2").status == 0
    assert command("render", tiny_bundle, orders, "-o", "out", "--shard", "1/2").status == 0
    assert [row["line"] for row in rows("journal-1-of-2.jsonl")] == [1, 3, 5]
    assert [row["line"] for row in rows("journal-2-of-2.jsonl")] == [2, 4]
    ran = command("render", tiny_bundle, orders, "-o", "out")
    assert "5 of 5 orders are there already" in ran.stderr
    assert len(pictures()) == 5


@pytest.mark.slow
def test_kill_9_costs_only_what_was_being_drawn(tiny_bundle: Path, command: Command, here: Path) -> None:
    """Killed three times, each time after another picture, a run gives the files of one that nobody killed."""
    orders = written(*({**CAT, "seed": None, "num_inference_steps": 40} for _ in range(6)))
    assert command("render", tiny_bundle, orders, "-o", "whole").status == 0
    line = [sys.executable, "-m", "latentrt", "render", str(tiny_bundle), orders, "-o", "out"]
    for _ in range(3):
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(str(here / "out"))
            process.send_signal(signal.SIGKILL)
    known = {row["digest"] for row in rows()}
    assert 3 <= len(known) < 6
    assert command("render", tiny_bundle, orders, "-o", "out").status == 0
    assert pictures("out") == pictures("whole")
    assert [row["digest"] for row in rows()] == [row["digest"] for row in rows(folder="whole")]
