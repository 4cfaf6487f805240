"""``--region``: prompts with a place in the picture, on every drawing command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.arguments.regions import regions_from_options
from latentrt.runtime.pictures.picture_file import read_parameters

FAST = ("--steps", 2, "--seed", 1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a picture and a mask whose name has an @."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "white").save("start.png")
    Image.new("L", (64, 64), 255).save("m@sk.png")
    return tmp_path


@pytest.mark.parametrize(
    "workflow", ["generate", *(pytest.param(one, marks=pytest.mark.slow) for one in ("img2img", "inpaint", "outpaint"))]
)
def test_every_command_takes_regions(workflow: str, here: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Two of them, one value for all or one for each; the picture is Python's, and its settings name them."""
    more = {
        "generate": (),
        "img2img": ("--image", "start.png", "--strength", 1),
        "inpaint": ("--image", "start.png", "--mask", "start.png"),
        "outpaint": ("--image", "start.png", "--left", 16),
    }[workflow]
    regions = ("--region", "a dog @ 0,0.25,.5,1", "--region", "me@home@m@sk.png", "--region-weight", 0.5)
    if workflow == "outpaint":  # where a mask is of the wider picture
        Image.new("L", (96, 64), 255).save("m@sk.png")
    soft = ("--region-feather", 0, "--region-feather", 0.2)
    done = command(workflow, tiny_bundle, "cat", *more, *FAST, *regions, *soft, "-o", "out.png", "--json")
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)["pictures"][0]["regions"]
    assert [(one["prompt"], one["box"], one["weight"], one["feather"]) for one in told] == [
        ("a dog", [0.0, 0.25, 0.5, 1.0], 0.5, 0.0),
        ("me@home", None, 0.5, 0.2),
    ]
    assert "Region 1: " in str(read_parameters(here / "out.png"))
    if workflow == "generate":
        with latentrt.open(tiny_bundle) as pipe:
            drawn = pipe(
                "cat",
                regions=[
                    latentrt.Region("a dog", box=(0, 0.25, 0.5, 1), weight=0.5),
                    latentrt.Region("me@home", mask=np.ones((32, 32)), weight=0.5, feather=0.2),
                ],
                num_inference_steps=2,
                seed=[1],
            )
        np.testing.assert_array_equal(np.asarray(Image.open(here / "out.png")), np.asarray(drawn.images[0]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--region", "a dog"), "got region 'a dog' without a place, expected PROMPT@LEFT,TOP,RIGHT,BOTTOM in shares"),
        (("--region", "a dog@0,0,1"), "got place '0,0,1' of region 'a dog', expected PROMPT@LEFT"),
        (("--region", "a dog@none.png"), "got place 'none.png' of region 'a dog', which is no box and no file"),
        (("--region", "a dog@"), "which is no box and no file"),
        (("--region", f"a dog@{'x' * 5000}"), "which is no box and no file"),
        (("--region", "a dog@out.txt"), "got 'out.txt', expected a picture file"),
        (("--region", "a dog@0,0,32,32"), "got box (0, 0, 32, 32) of region 1 ('a dog'), expected shares"),
        (("--region", "a dog@0,0,1,nan"), "expected finite numbers"),
        (
            ("--region-weight", 0.5),
            "got --region-weight without --region, expected it beside one; give --region PROMPT@",
        ),
        (
            ("--region", "a@0,0,1,1", "--region-feather", 0, "--region-feather", 1),
            "--region-feather 2 times for 1 times",
        ),
        (("--region", "a@0,0,1,1", "--region-prompt-2", "b"), "with a model that has one text encoder; leave it out"),
    ],
    ids=range(11),
)
def test_refusals(
    options: tuple[Any, ...], words: str, here: Path, tiny_bundle: Path, command: Callable[..., Any]
) -> None:
    """One sentence, and no file."""
    (here / "out.txt").write_text("no picture")
    done = command("generate", tiny_bundle, "cat", *FAST, *options)
    assert done.status == 2
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "out.png").exists()


def test_nothing_is_named_by_nothing() -> None:
    """An @ in front of a box alone is an empty prompt."""
    assert regions_from_options((), prompts_2=(), weights=(), feathers=()) == []
    (region,) = regions_from_options(("@0,0,1,1",), prompts_2=(), weights=(), feathers=())
    assert (region.prompt, region.box) == ("", (0.0, 0.0, 1.0, 1.0))
