"""Prompts that change and prompts that are composed: A1111's published examples, and forty thousand random ones."""

import json
from typing import Any

import pytest
from a1111_prompts import ANSWERS, BLOCK, COUNT, Case, cases, digest

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.parts import StepCount
from latentrt.runtime.prompts.syntax.composition import prompts_from_a1111
from latentrt.runtime.prompts.syntax.lora_tags import lora_tags
from latentrt.runtime.prompts.syntax.prompt_editing import changes, texts_at_steps
from latentrt.runtime.prompts.syntax.tree import without_loras

LANDSCAPE = (
    "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
    "[ in background:0.25] [shoddy:masterful:0.5]"
)


@pytest.mark.parametrize(
    ("prompt", "steps", "until"),
    [
        # The examples of modules/prompt_parser.py: which text is there until which step
        ("test", 10, {10: "test"}),
        ("a [b:3]", 10, {3: "a ", 10: "a b"}),
        ("a [b: 3]", 10, {3: "a ", 10: "a b"}),
        ("a [[[b]]:2]", 10, {2: "a ", 10: "a [[b]]"}),
        ("[(a:2):3]", 10, {3: "", 10: "(a:2)"}),
        ("a [b : c : 1] d", 10, {1: "a b  d", 10: "a  c  d"}),
        ("a[b:[c:d:2]:1]e", 10, {1: "abe", 2: "ace", 10: "ade"}),
        ("a [unbalanced", 10, {10: "a [unbalanced"}),
        ("a [b:.5] c", 10, {5: "a  c", 10: "a b c"}),
        ("((a][:b:c [d:3]", 10, {3: "((a][:b:c ", 10: "((a][:b:c d"}),
        ("[a|(b:1.1)]", 4, {1: "a", 2: "(b:1.1)", 3: "a", 4: "(b:1.1)"}),
        ("[fe|]male", 3, {1: "female", 2: "male", 3: "female"}),
        ("[fe|||]male", 6, {1: "female", 4: "male", 5: "female", 6: "male"}),
        # Of the wiki's page Features
        ("a [fantasy:cyberpunk:16] landscape", 20, {16: "a fantasy landscape", 20: "a cyberpunk landscape"}),
        ("[cow|horse] in a field", 3, {1: "cow in a field", 2: "horse in a field", 3: "cow in a field"}),
        (
            LANDSCAPE,
            100,
            {
                25: "fantasy landscape with a mountain and an oak in foreground shoddy",
                50: "fantasy landscape with a lake and an oak in foreground in background shoddy",
                60: "fantasy landscape with a lake and an oak in foreground in background masterful",
                75: "fantasy landscape with a lake and an oak in background masterful",
                100: "fantasy landscape with a lake and a christmas tree in background masterful",
            },
        ),
        # What it makes of numbers, escapes, loose brackets and of what it cannot read
        ("[a:b:1.0]", 10, {10: "a"}),
        ("[a:b:1]", 10, {1: "a", 10: "b"}),
        ("[a:b:0.04]", 10, {10: "b"}),
        ("[a:b:-2]", 10, {10: "b"}),
        ("[a:b:99]", 10, {10: "a"}),
        ("[a:b:1e0]", 10, {1: "a", 10: "b"}),
        ("[a:b:9" + "9" * 400 + "]", 10, {10: "a"}),
        (r"[a\:b\]:c:5]", 10, {5: r"a\:b\]", 10: "c"}),
        ("[a:b:c:3]", 10, {10: "[a:b:c:3]"}),
        ("[a:[b:c:3]", 10, {3: "[a:b", 10: "[a:c"}),
        ("[a:b|c:3] [d:e:3]", 10, {10: "[a:b|c:3] [d:e:3]"}),
        ("[a:b:3] \\", 10, {10: "[a:b:3] \\"}),
        ("(a|b)", 10, {10: "(a|b)"}),
    ],
)
def test_prompt_editing(prompt: str, steps: int, until: dict[int, str]) -> None:
    """The text of every step."""
    expected = [next(text for end, text in until.items() if step <= end) for step in range(1, steps + 1)]
    found = texts_at_steps(prompt, StepCount(steps=steps))
    assert list(found * steps if len(found) == 1 else found) == expected
    assert len(found) == (steps if len(set(expected)) > 1 else 1)


@pytest.mark.parametrize(
    ("prompt", "until"),
    [
        ("a [b:.5] c", {10: "a b c"}),  # both of its examples
        ("a [b:1.5] c", {5: "a  c", 10: "a b c"}),
        ("a [b:20] c", {4: "a  c", 10: "a b c"}),
        ("a [b::1.0] c", {10: "a  c"}),
    ],
)
def test_prompt_editing_in_the_second_pass(prompt: str, until: dict[int, str]) -> None:
    """Of a hires fix, of 10 steps behind 16: shares count from 1, steps from the end of the first pass."""
    found = texts_at_steps(prompt, StepCount(steps=10, before=16))
    expected = [next(text for end, text in until.items() if step <= end) for step in range(1, 11)]
    assert list(found * 10 if len(found) == 1 else found) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat :1.2 AND a dog AND a penguin :2.2", [("a cat", 1.2), (" a dog", 1), (" a penguin", 2.2)]),
        ("a cat AND a dog", [("a cat", 1), (" a dog", 1)]),
        ("a:-.5 AND b: +2. AND", [("a", -0.5), (" b", 2), ("", 1)]),
        ("[a AND b:c:3]", [("[a", 1), (" b:c:3]", 1)]),
        ("<lora:x AND y:1>a AND <lora:z:2>b", [("a", 1), (" b", 1)]),
        ("photo 16:9", [("photo 16", 9)]),
        ("photo 16:9,", [("photo 16:9,", 1)]),
        ("ANDROID (x:1.2)", [("ANDROID (x:1.2)", 1)]),
        ("a :1.0", [("a", 1)]),
    ],
)
def test_composed_prompts(prompt: str, expected: list[tuple[str, float]]) -> None:
    """Texts and weights."""
    assert [(part.text, part.weight) for part in prompts_from_a1111(prompt)] == expected


def test_a_prompt_that_is_not_composed_is_as_it_is_written() -> None:
    """With its tags, so that a mistake in it is found where it stands."""
    (part,) = prompts_from_a1111("a <lora:x:1> cat ")
    assert part.text == "a <lora:x:1> cat "
    assert texts_at_steps(part.text, StepCount(steps=4)) == (part.text,)
    assert texts_at_steps("[a:<lora:x:1>b:2]", StepCount(steps=4)) == ("a", "a", "b", "b")


def answer(case: Case) -> list[Any]:
    """What is made of a prompt: weights and texts of every step, and the texts of a negative prompt."""
    steps = StepCount(steps=case.steps, before=case.before)

    def texts(text: str) -> list[str]:
        return list(texts_at_steps(text, steps))

    whole = without_loras(case.prompt, lora_tags(case.prompt))
    parts = [(part.weight, part.text) for part in prompts_from_a1111(case.prompt)]
    if len(parts) == 1 and parts[0] == (1.0, case.prompt):
        parts = [(1.0, whole.rstrip())]
    return [[[weight, texts(text)] for weight, text in parts], texts(whole)]


def check(first: int, end: int) -> None:
    """Compares the answers to some prompts with A1111's, block by block."""
    theirs = json.loads(ANSWERS.read_text("utf-8"))
    either: dict[str, list[str]] = theirs["either"]
    block: list[Any] = []
    for index, case in enumerate(cases(end)):
        if index >= first:
            found = answer(case)
            if str(index) in theirs["full"]:
                assert [case.prompt, found] == theirs["full"][str(index)], case
            if str(index) in either:
                assert digest(found) in either[str(index)], case
            else:
                block.append([case.prompt, found])
        if index % BLOCK == BLOCK - 1:
            if index >= first:
                name = f"prompts {index + 1 - BLOCK} to {index}"
                assert digest(block) == theirs["blocks"][index // BLOCK], name
            block = []


def test_random_prompts() -> None:
    """The first ten thousand: those that A1111 reads in one way, as it does; the others as one of its answers."""
    check(0, COUNT // 4)


@pytest.mark.slow
def test_more_random_prompts() -> None:
    """All others."""
    check(COUNT // 4, COUNT)


@pytest.mark.parametrize(
    "prompt",
    [
        "[" * 10_000,
        "[[" * 2500 + "a" + "]]" * 2500,
        "[a|" * 2500 + "b" + "]" * 2500,
        "[a:" * 2500 + "0.5" + "]" * 2500,
        "[" * 2500 + "a" + ":3]" * 2500,
        "[a:b:" * 2000,
        "[a|b]" * 2000,
        "(" * 5000 + ")" * 5000,
        ":" * 10_000,
        " " * 10_000 + ":",
        "AND" * 3000,
        "".join(f"[:{step}]" for step in range(1200)),
    ],
    ids=lambda prompt: prompt[:8],
)
def test_long_prompts_are_read_in_time(prompt: str) -> None:
    """Each bracket once, however deep; pytest's timeout is the limit."""
    prompts_from_a1111(prompt)
    assert len(texts_at_steps(prompt, StepCount(steps=1000))) in (1, 1000)
    changes(prompt)


def test_texts_are_bounded() -> None:
    """A text for each of a thousand steps is refused where they are long."""
    cycles = "".join(f"[{'|'.join('ab'[index % 2] for index in range(size))}]" for size in (7, 11, 13))
    assert len(set(texts_at_steps(cycles, StepCount(steps=1000)))) <= 1000
    with pytest.raises(RequestError, match=r"more than 100,000 characters of text over 1000 steps, expected fewer; "):
        texts_at_steps(cycles + " long" * 100, StepCount(steps=1000))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a AND " * 40, "got 41 prompts joined by AND, expected 32 at most; "),
        ("a AND b :" + "9" * 400, r"got weight 999999999999… of a prompt, expected a finite number; lower it"),
        ("a AND <lora:x:y>", "character 7: .*got weight 'y'"),
    ],
)
def test_composed_prompts_are_refused(prompt: str, message: str) -> None:
    """In a sentence."""
    with pytest.raises(RequestError, match=message):
        prompts_from_a1111(prompt)
