"""``--control``: nets with their pictures, on every drawing command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.arguments.controls import CONTROL_OPTION
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import read_parameters

FAST = ("--steps", 2, "--seed", 1)


@pytest.fixture
def here(tmp_path: Path, tiny_net: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a map, a picture, and a net whose name has a colon."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "orange").save("map.png")
    Image.new("RGB", (32, 32), "white").save("start.png")
    (tmp_path / "C:net.bundle").symlink_to(tiny_net)
    return tmp_path


@pytest.mark.parametrize("workflow", ["generate", "img2img", "inpaint", "outpaint"])
def test_every_command_takes_nets(workflow: str, here: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Two of them, one value for all or one for each; the settings of the picture name them."""
    more = {
        "generate": (),
        "img2img": ("--image", "start.png", "--strength", 1),
        "inpaint": ("--image", "start.png", "--mask", "start.png"),
        "outpaint": ("--image", "start.png", "--left", 16),
    }[workflow]
    nets = ("--control", "C:net.bundle:map.png:0.5", "--control", "C:net.bundle:map.png", "--control-mode", "control")
    shares = ("--control-start", 0, "--control-start", 0.5, "--control-end", 1)
    done = command(workflow, tiny_bundle, "cat", *more, *FAST, *nets, *shares, "-o", "out.png", "--json")
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)["pictures"][0]["control_nets"]
    assert [(one["net"], one["scale"], one["start"], one["mode"]) for one in told] == [
        ("C:net", 0.5, 0.0, "control"),
        ("C:net", 1.0, 0.5, "control"),
    ]
    assert "ControlNet 1: " in str(read_parameters(here / "out.png"))


def test_arrays_of_inpainting_nets(here: Path, tiny_bundle: Path, tiny_net: Path, command: Callable[..., Any]) -> None:
    """As ``latentrt prepare inpaint`` writes them."""
    Image.new("L", (32, 32), 255).save("mask.png")
    assert command("prepare", "inpaint", "start.png", "--mask", "mask.png", "-o", "marked.npy").status == 0
    drawn = ("--image", "start.png", "--mask", "mask.png", "--control", f"{tiny_net}:marked.npy", "-o", "out.npy")
    done = command("inpaint", tiny_bundle, "cat", *FAST, *drawn)
    assert done.status == 0, done.stderr
    with latentrt.open(tiny_bundle) as pipe:
        expected = pipe.inpaint(
            "cat",
            image=Image.open("start.png"),
            mask_image=Image.open("mask.png"),
            control=latentrt.Control(tiny_net, np.full((32, 32, 3), -1.0, np.float32)),
            num_inference_steps=2,
            seed=[1],
            output_type="latent",
        )
    np.testing.assert_allclose(np.load("out.npy"), expected.latents, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--control", "none.bundle:map.png"), "expected NET:IMAGE[:SCALE] with the bundle of a ControlNet"),
        (("--control", "C:net.bundle"), "without a picture, expected NET:IMAGE[:SCALE]; give C:net.bundle:edges.png"),
        (("--control", "C:net.bundle:none.png:0.5"), "got picture 'none.png' for the net 'C:net.bundle'"),
        (("--control", "C:net.bundle:map.png:much"), "got scale 'much' for the net"),
        (("--control", "C:net.bundle:map.png:1:2"), "got scale '1:2' for the net"),
        (("--control", "C:net.bundle:map.png", "--control-mode", "most"), "expected one of balanced, prompt, control"),
        (("--control-start", 0.5), "got --control-start without --control"),
        (
            ("--control", "C:net.bundle:map.png", "--control-end", 0.5, "--control-end", 0.6),
            "got --control-end 2 times for 1 times --control; give it once for all, or once for each",
        ),
        (("--control", "start.png:map.png"), "expected the folder of a bundle"),
        (("--control", "map.png:C:net.bundle"), "expected NET:IMAGE[:SCALE]; swap them"),
        (("--control", "C:net.bundle:bad.npy"), "cannot read a control picture from 'bad.npy'"),
        (("--control", "C:net.bundle:bad.png"), "expected a picture file"),
    ],
)
def test_refusals(
    options: tuple[Any, ...], words: str, here: Path, tiny_bundle: Path, command: Callable[..., Any]
) -> None:
    """Each in one sentence."""
    for name in ("bad.npy", "bad.png"):
        (here / name).write_bytes(b"nothing")
    done = command("generate", tiny_bundle, "cat", *FAST, *options)
    assert done.status != 0
    assert words in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


def test_paths_may_have_colons(here: Path) -> None:
    """The longest beginnings that exist are the net and its picture."""
    (here / "a").mkdir()
    (here / "a:0.5").mkdir()
    (here / "m:2.png").write_bytes(b"")
    (here / "m").write_bytes(b"")
    found = CONTROL_OPTION.argument("a:0.5:m:2.png:-3e-1")
    assert (str(found.bundle), str(found.image), found.scale) == ("a:0.5", "m:2.png", -0.3)
    assert CONTROL_OPTION.argument("a:m:2").scale == 2.0
    for text in ("", ":", "a", "x:m"):
        with pytest.raises(RequestError, match=r"expected NET:IMAGE\[:SCALE\]"):
            CONTROL_OPTION.argument(text)
