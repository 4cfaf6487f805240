"""The axes of a grid: values and ranges as they are written, names of options, and what they change."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_loras import save_tiny_lora

from latentrt.cli.app import command as commands
from latentrt.cli.grids.axes import Axis, axes_from_texts
from latentrt.cli.grids.cells import cells_of
from latentrt.cli.grids.settings import GridDrawing, Settings, axis_options
from latentrt.cli.grids.values import numbers_from_ranges, split_values
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.flags import FLAGS, Form

Given = Callable[..., Settings]
SAMPLES = {
    Form.TEXT: "text",
    Form.NUMBER: "0.5",
    Form.WHOLE_NUMBER: "7",
    Form.NUMBERS: "7.5",
    Form.NUMBERS_OR_AYS: "ays",
    Form.SIZE: "64x32",
}


@pytest.fixture
def given() -> Given:
    """Makes what a command says: its prompt, and options by parameter."""

    def make(prompt: str = "a cat", **options: Any) -> Settings:
        keywords = {name: options.pop(name, None) for name in FLAGS}
        return Settings(prompt=prompt, drawing=GridDrawing(keywords=keywords, **options))

    return make


def axis(text: str, settings: Settings) -> Axis:
    return axes_from_texts({"--x": text}, settings)[0]


def results(text: str, settings: Settings) -> list[Settings]:
    """What a cell of each value is drawn with."""
    one = axis(text, settings)
    return [one.change(settings, value) for value in one.values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("10,20,30", ["10", "20", "30"]),
        (" 10 , 20 ", ["10", "20"]),
        ("", [""]),
        (",red", ["", "red"]),
        ("red,", ["red", ""]),
        ('"a cat, sitting",dog', ["a cat, sitting", "dog"]),
        ('dog, "a, b" ', ["dog", "a, b"]),
        ('"say ""miau""",b', ['say "miau"', "b"]),
        ("it's,5\" wide", ["it's", '5" wide']),
        ('"two\nlines",one', ["two\nlines", "one"]),
        ("Käse,猫", ["Käse", "猫"]),
    ],
)
def test_values_between_commas(text: str, values: list[str]) -> None:
    """As CSV has them."""
    assert list(split_values(text, "--x prompt")) == values


@pytest.mark.parametrize("text", ['"a', '"a"b,c', "a\nb"])
def test_what_is_no_line_of_values(text: str) -> None:
    """A sentence."""
    with pytest.raises(RequestError, match=r"got --x prompt .* double quotes"):
        split_values(text, "--x prompt")


@pytest.mark.parametrize(
    ("text", "whole", "numbers"),
    [
        ("1-5", True, "1 2 3 4 5"),
        ("5-3", True, "5 4 3"),
        ("1-10(+3)", True, "1 4 7 10"),
        ("1-9 (+3)", True, "1 4 7"),
        ("1-10(3)", True, "1 4 7 10"),
        ("10-5 (-3)", True, "10 7"),
        ("10-4(3)", True, "10 7 4"),
        ("1-10 [5]", True, "1 3 5 7 10"),  # as A1111's documentation has it
        ("1-3[5]", True, "1 2 3"),
        ("1-10[1]", True, "1"),
        ("0-1", False, "0 1"),
        ("0-1 [6]", False, "0 0.2 0.4 0.6 0.8 1"),
        ("0-1(+0.1)", False, "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1"),
        ("1-0(-0.25)", False, "1 0.75 0.5 0.25 0"),
        ("-1-1", False, "-1 0 1"),
        ("1--1", False, "1 0 -1"),
        ("-2--1[3]", False, "-2 -1.5 -1"),
        ("0-1[4]", False, "0 0.333333 0.666667 1"),
        ("7-7", True, "7"),
        ("20,1-3,9", True, "20 1 2 3 9"),
        ("-1", True, "-1"),
        ("1e-5", False, "1e-5"),
        ("64x64", False, "64x64"),
        ("a-b", False, "a-b"),
        ("1-5-9", False, "1-5-9"),
        ("1-2(+1)[3]", False, "1-2(+1)[3]"),
    ],
)
def test_ranges(text: str, whole: bool, numbers: str) -> None:
    """What is no range stays as it is, for the option's own reader."""
    assert numbers_from_ranges(tuple(text.split(",")), "--x steps", whole=whole) == tuple(numbers.split())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1-5(-1)", "does not lead to its end"),
        ("5-1(+1)", "does not lead to its end"),
        ("1-5(0)", "does not lead to its end"),
        ("1-5[0]", "of 0 numbers"),
        ("1-1001", "of 1001 numbers, expected 1 to 1000"),
        ("0-1(+0.0000000001)", "of 10000000001 numbers"),
        ("1-2[99999999999]", "of 99999999999 numbers"),
    ],
)
def test_ranges_that_are_refused(text: str, reason: str) -> None:
    """Before their numbers are made."""
    with pytest.raises(RequestError, match=r"got --x steps with the range") as refused:
        numbers_from_ranges((text,), "--x steps", whole=True)
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", FLAGS)
def test_every_keyword_with_an_option_is_an_axis(name: str, given: Given) -> None:
    """By the option's name and by the keyword's; its value is what the option's would be."""
    flag = FLAGS[name]
    text = SAMPLES.get(flag.form, "1,2")
    parsed = commands().commands["generate"].make_context("generate", ["bundle", "cat", flag.name, text]).params[name]
    quoted = f'"{text}"'
    for spelled in (flag.name.removeprefix("--"), name, flag.name, name.upper()):
        (settings,) = results(f"{spelled}={quoted}", given())
        assert settings.drawing.keywords[name] == parsed
        assert type(settings.drawing.keywords[name]) is type(parsed)


def test_every_option_about_the_picture_is_an_axis(given: Given) -> None:
    """Whatever the drawing commands get; what is about files and machines is none."""
    options = {parameter.name for parameter in commands().commands["grid"].params} - {"bundle", "prompt", "x", "y", "z"}
    axes = {option.parameter for option in axis_options()}
    about_machines = {"backend", "loop", "threads"}
    assert options - axes == {"textual_inversion", "preview", "output", "overwrite", "json", *about_machines}
    assert {"seed", "size", "sampler", "lora", "control", "control_start", "strength", "image"} <= axes
    (settings,) = results("control-start=0.5", given())
    assert settings.drawing.control_start == (0.5,)
    (settings,) = results("image=/tmp/a.png", given())
    assert settings.drawing.image == Path("/tmp/a.png")
    assert axis("image=/tmp/a.png,b.png", given()).labels == ("a.png", "b.png")


def test_names_of_a1111(given: Given) -> None:
    """The titles of its axes, where ours have others."""
    assert axis("CFG Scale=1-7(+3)", given()).name == "guidance"
    assert axis("Denoising=0.5", given()).name == "strength"
    assert axis("Prompt S/R=cat,dog", given()).name == "prompt"
    assert axis("Clip skip=0,1", given()).values == ("0", "1")


def test_texts_in_prompts_are_replaced(given: Given) -> None:
    """The first text, by each of the values, in the prompt and in the negative one."""
    settings = given("a cat and a cat", negative_prompt="dark cat", guidance_scale="3")
    made = results('prompt=cat,"dog, wet",', settings)
    assert [one.prompt for one in made] == ["a cat and a cat", "a dog, wet and a dog, wet", "a  and a "]
    assert made[1].drawing.keywords["negative_prompt"] == "dark dog, wet"
    assert made[1].drawing.keywords["guidance_scale"] == "3"


def test_two_axes_of_prompts(given: Given) -> None:
    """x is replaced first, then y in what came of it."""
    settings = given("a cat")
    axes = axes_from_texts({"--x": "prompt=cat,red fish", "--y": "prompt=a,the", "--z": None}, settings)
    prompts = [cell.settings.prompt for cell in cells_of(axes, settings)]
    assert prompts == ["a cat", "a red fish", "the cthet", "the red fish"]
    axes = axes_from_texts({"--x": "prompt=cat,fish", "--y": "prompt=cat,dog", "--z": None}, settings)
    with pytest.raises(RequestError, match="got --y prompt with 'cat' first, which PROMPT 'a fish'"):
        cells_of(axes, settings)


def test_weights_of_loras(given: Given, tiny_bundle: Path, tmp_path: Path) -> None:
    """By the name of a file that --lora gives, whose own weight they replace."""
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:
        save_tiny_lora(path, tiny_bundle)
    settings = given(lora=[f"{paths[0]}:0.8", str(paths[1])])
    made = results("lora:one=0-1[3],1:0.5", settings)
    assert [one.drawing.lora for one in made] == [
        [f"{paths[0]}:{weight}", str(paths[1])] for weight in ("0", "0.5", "1", "1:0.5")
    ]
    for text, reason in (("lora:on=1", "choose from one, two"), ("lora:one=x", "got weight 'x' for LoRA")):
        with pytest.raises(RequestError, match=reason):
            results(text, settings)
    with pytest.raises(RequestError, match="add --lora PATH"):
        results("lora:one=1", given())


def test_options_of_samplers(given: Given) -> None:
    """Beside those that the command gives."""
    made = results("sampler.eta=0,1", given(sampler_option=["s_noise=2"]))
    assert [one.drawing.sampler_option for one in made] == [["s_noise=2", "eta=0"], ["s_noise=2", "eta=1"]]


@pytest.mark.parametrize(
    ("texts", "reasons"),
    [
        ([], ["got no axis", "--x steps=10,20,30"]),
        (["steps"], ["got --x 'steps', expected NAME=VALUES"]),
        (["stepz=1"], ["got --x 'stepz'", "did you mean steps?"]),
        (["gidance_scale=1"], ["did you mean guidance-scale?"]),
        (["eta=1"], ["write sampler.eta"]),
        (["sampler.etta=1"], ["did you mean sampler.eta?"]),
        (["backend=a"], ["choose from", "lora:NAME", "sampler.OPTION", "steps"]),
        (["steps=1.5"], ["got --x steps '1.5', expected a whole number"]),
        (["steps=10,"], ["got --x steps '', expected a whole number"]),
        (["strength=a"], ["got --x strength 'a', expected a number"]),
        (["prompt=dog,fish"], ["'dog' first, which PROMPT 'a cat'"]),
        (["prompt=,fish"], ["'' first, which PROMPT"]),
        (["steps=1", "num_inference_steps=2"], ["two axes 'steps'"]),
        (["clip-skip=1"], ["got --clip-skip beside --x clip-skip", "leave --clip-skip out"]),
        (["steps=1-100", "seed=1-11"], ["got 100 × 11 = 1100 cells, expected at most 1000"]),
    ],
)
def test_axes_that_are_refused(texts: Sequence[str], reasons: Sequence[str], given: Given) -> None:
    """In a sentence, with what was probably meant."""
    settings = given(clip_skip=1)
    named = dict(zip(("--x", "--y", "--z"), [*texts, None, None, None], strict=False))

    def make() -> None:
        cells_of(axes_from_texts(named, settings), settings)

    with pytest.raises(RequestError) as refused:
        make()
    assert all(reason in str(refused.value) for reason in reasons), refused.value
