"""``--apg``, ``--cfg-plus-plus`` and ``--dynamic-thresholding``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentrt


def test_options_are_the_keywords(tiny_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """What is left out has its default; a hyphen may stand for an underscore."""
    out = tmp_path / "out.npy"
    settings = (
        "--apg",
        "norm-threshold=2",
        "--dynamic-thresholding",
        "mimic_scale=0.5,separate_feature_channels=false",
    )
    more = ("--cfg-plus-plus", "0.2,0.6", "--sampler", "euler", "--steps", 2, "--seed", 1, "-o", out, "--json")
    done = command("generate", tiny_bundle, "a cat", *settings, *more)
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)["pictures"][0]
    assert told["cfg_plus_plus"] is True
    assert told["apg"]["norm_threshold"] == 2
    assert told["dynamic_thresholding"]["scaling_startpoint"] == "mean"
    with latentrt.open(tiny_bundle) as pipe:
        expected = pipe(
            "a cat",
            seed=[1],
            sampler="euler",
            num_inference_steps=2,
            cfg_plus_plus=[0.2, 0.6],
            apg=latentrt.Apg(norm_threshold=2),
            dynamic_thresholding=latentrt.DynamicThresholding(mimic_scale=0.5, separate_feature_channels=False),
        )
    np.testing.assert_array_equal(np.load(out), expected.latents)


def test_off_is_as_if_left_out(tiny_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """So that a grid can compare with and without."""
    off = ("--apg", "off", "--freeu", "OFF", "--dynamic-thresholding", "off")
    for name, more in (("off.npy", off), ("out.npy", ())):
        done = command("generate", tiny_bundle, "a cat", *more, "--steps", 2, "--seed", 1, "-o", tmp_path / name)
        assert done.status == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "off.npy"), np.load(tmp_path / "out.npy"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--apg", "eta"), "expected NAME=VALUE with commas between them, on or off"),
        (("--deep-cache", "2.5"), "expected a whole number, NAME=VALUE with commas between them, on or off"),
        (("--apg", "eta=1,eta=0"), "expected each name once"),
        (("--apg", "eta=a lot"), "got eta of Apg 'a lot', expected a number"),
        (("--dynamic-thresholding", "mimic=3"), "got 'mimic' in dynamic_thresholding, expected some of mimic_scale"),
        (("--cfg-plus-plus", "strong"), "expected numbers"),
        (("--cfg-plus-plus", 0.6, "--guidance", 7), "leave one out"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[Any, ...], reason: str, tiny_bundle: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """In one line, and nothing is written."""
    done = command("generate", tiny_bundle, "a cat", *options, "-o", tmp_path / "out.png")
    assert done.status == 2
    assert reason in done.stderr
    assert list(tmp_path.glob("out*")) == []
