"""``latentrt upscale``: names of files, what is kept of a picture's settings, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import latentrt
from latentrt.engines.bundle.checks.photograph import photograph
from latentrt.engines.shapes import Profile

Command = Callable[..., Any]
SETTINGS = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 16x12"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a PNG that has settings, a JPEG, and a text."""
    image, text = photograph(Profile(width=16, height=12)), PngInfo()
    text.add_text("parameters", SETTINGS)
    text.add_text("workflow", "{}")
    image.save(tmp_path / "cat.png", pnginfo=text)
    image.save(tmp_path / "dog.jpg")
    (tmp_path / "note.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_picture_keeps_its_settings(onnx_upscaler_bundle: Path, command: Command, pictures: Path) -> None:
    """A1111's texts stand in the PNG as they were, and its chunk for what came after."""
    ran = command("upscale", onnx_upscaler_bundle, "cat.png", "-o", "large.png")
    assert (ran.status, ran.stdout) == (0, "large.png  (32x24)\n"), ran.stderr
    with Image.open("large.png") as large, Image.open("cat.png") as small:
        assert large.text["parameters"] == SETTINGS
        assert large.text["workflow"] == "{}"
        assert large.text["postprocessing"] == "Postprocess upscale by: 2, Postprocess upscaler: twice"
        np.testing.assert_array_equal(np.asarray(large)[::2, ::2], np.asarray(small))
    assert latentrt.read_parameters("large.png") == SETTINGS


def test_several_by_folder_and_by_pattern(onnx_upscaler_bundle: Path, command: Command, pictures: Path) -> None:
    """Named after their sources."""
    ran = command("upscale", onnx_upscaler_bundle, "cat.png", "dog.jpg", "-o", "out", "--scale", "1.5")
    assert ran.status == 0, ran.stderr
    assert {path.name for path in Path("out").iterdir()} == {"cat-x1.5.png", "dog-x1.5.png"}
    assert Image.open("out/dog-x1.5.png").size == (24, 18)
    pattern = "big/{index:02}-{name}-{scale}-{model}.webp"
    ran = command("upscale", onnx_upscaler_bundle, "cat.png", "dog.jpg", "-o", pattern, "--json")
    told = json.loads(ran.stdout)
    assert [row["path"] for row in told["pictures"]] == ["big/00-cat-x2-twice.webp", "big/01-dog-x2-twice.webp"]
    assert [(row["width"], row["height"]) for row in told["pictures"]] == [(32, 24)] * 2
    assert latentrt.read_parameters("big/00-cat-x2-twice.webp") == SETTINGS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cat.png", "-o", "cat.png"), "which is a picture to read"),
        (("cat.png", "-o", "dog.jpg"), "there already"),
        (("cat.png", "dog.jpg", "-o", "one.png"), "got the file 'one.png' for 2 pictures"),
        (("cat.png", "-o", "one.gif"), "expected a name that ends in .png"),
        (("cat.png", "dog.jpg", "-o", "{seed}.png"), "with {seed}, expected {name}, {index}, {scale}, {model}"),
        (("cat.png", "./cat.png", "-o", "out"), "names two pictures"),
        (("none.png", "-o", "one.png"), "cannot read the picture 'none.png'"),
        (("cat.png", "note.png", "-o", "out"), "(1 of 2 pictures are written)"),
        (("cat.png", "-o", "one.png", "--scale", "100"), "got scale 100, expected 1 to 64"),
        (("cat.png", "-o", "one.png", "--backend", "tpu"), "got backend 'tpu'"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], said: str, onnx_upscaler_bundle: Path, command: Command, pictures: Path
) -> None:
    """A sentence each, and no file replaced."""
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    ran = command("upscale", onnx_upscaler_bundle, *arguments)
    assert ran.status == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


def test_overwrite(onnx_upscaler_bundle: Path, command: Command, pictures: Path) -> None:
    """On request alone."""
    assert command("upscale", onnx_upscaler_bundle, "cat.png", "-o", "dog.jpg", "--overwrite").status == 0
    assert Image.open("dog.jpg").size == (32, 24)


def test_bundles_of_other_sorts(
    onnx_upscaler_bundle: Path, tiny_bundle: Path, command: Command, pictures: Path
) -> None:
    """An upscaler draws nothing, and a model enlarges nothing; both say what to do."""
    ran = command("generate", onnx_upscaler_bundle, "a cat", "-o", "one.png")
    assert ran.status == 2
    assert "the bundle of an upscaler, expected that of a model; enlarge pictures with it: latentrt up" in ran.stderr
    ran = command("upscale", tiny_bundle, "cat.png", "-o", "one.png")
    assert ran.status == 2
    assert "the bundle of a model, expected that of an upscaler" in ran.stderr


def test_inspect_and_verify(onnx_upscaler_bundle: Path, command: Command) -> None:
    """As for other bundles."""
    shown = command("inspect", onnx_upscaler_bundle).stdout
    assert "twice (an upscaler x2, ONNX)" in shown
    assert "tiles      64x64" in shown
    told = json.loads(command("inspect", onnx_upscaler_bundle, "--json").stdout)
    assert (told["upscaler"], told["scale"], told["addon"]) == ("onnx", 2, None)
    checked = command("verify", onnx_upscaler_bundle)
    assert checked.status == 0, checked.stderr
    assert "upscaler with its own ONNX, not optimised" in checked.stdout
