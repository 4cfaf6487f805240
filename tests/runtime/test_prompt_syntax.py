"""What the prompt syntaxes read, and how they refuse."""

import random
import re
from collections.abc import Callable

import pytest

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.syntax.a1111 import prompt_from_a1111
from latentrt.runtime.prompts.syntax.compel import prompt_from_compel
from latentrt.runtime.prompts.syntax.tree import Blend, Prompt, Text, without_loras

Fragments = list[tuple[str, float]]


def fragments(text: Text) -> Fragments:
    """Texts and rounded weights."""
    return [(fragment.text, round(fragment.weight, 6)) for fragment in text.fragments]


def only_text(prompt: Prompt) -> Fragments:
    """The fragments of a prompt that is one text."""
    (part,) = prompt.parts
    assert isinstance(part, Text)
    assert prompt.weights == (1.0,)
    return fragments(part)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        (" \n", [("", 1.0)]),
        ("a red apple", [("a red apple", 1.0)]),
        ("a red+ apple", [("a", 1.0), ("red", 1.1), ("apple", 1.0)]),
        ("red--- x", [("red", 0.729), ("x", 1.0)]),
        ("(two words)1.3", [("two words", 1.3)]),
        ("(two words)++", [("two words", 1.21)]),
        ("(a (b)0.5 c+)2", [("a", 2.0), ("b", 1.0), ("c", 2.2)]),
        ("((a))", [("a", 1.0)]),
        ('"two words"0.4 x', [("two words", 0.4), ("x", 1.0)]),
        (r"\(a\)+ \"b\"", [("(a)", 1.1), ('"b"', 1.0)]),
        ("well-lit+ C++", [("well-lit", 1.1), ("C", 1.21)]),
        ("a+, b", [("a", 1.1), (", b", 1.0)]),
        ("one.attend(1.5) (two words).attend(--)", [("one", 1.5), ("two words", 0.81)]),
        # What compel reads as text
        ('5" x7 cat(s)+ a.b+ - +x', [('5" x7 cat(s)+ a.b+ - +x', 1.0)]),
        ("(a = b)1.3", [("(a = b)1.3", 1.0)]),
        ("1,000", [("1, 000", 1.0)]),
    ],
)
def test_compel(prompt: str, expected: Fragments) -> None:
    """Words, groups, nesting, escapes, and what only looks like syntax."""
    assert only_text(prompt_from_compel(prompt)) == expected


def test_compel_blend_and_conjunction() -> None:
    """Weights of a blend are normalised unless told otherwise; those of a conjunction never are."""
    (blend,) = prompt_from_compel('("a+", "b").blend(1, 3)').parts
    assert isinstance(blend, Blend)
    assert blend.weights == (0.25, 0.75)
    assert [fragments(text) for text in blend.texts] == [[("a", 1.1)], [("b", 1.0)]]
    (plain,) = prompt_from_compel('("a","b").blend(1,-0.5,no_normalize)').parts
    assert isinstance(plain, Blend)
    assert plain.weights == (1.0, -0.5)
    both = prompt_from_compel('( "a - b" , (c d) , e ) .and(1, 0.5, 2)')
    assert both.weights == (1.0, 0.5, 2.0)
    assert [fragments(part) for part in both.parts if isinstance(part, Text)] == [
        [("a - b", 1.0)],
        [("c d", 1.0)],
        [("e", 1.0)],
    ]
    assert prompt_from_compel('("a","b").and()').weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (red apple", r"character 3: a ▸\(red apple: a parenthesis that is never closed"),
        ("a red) apple :)", r"character 6: a red▸\) apple"),
        ("smile :)", r"character 8: smile :▸\): .* write \\\) for the character"),
        ('("a","b").blend(0.7)', r"character 17: .*▸0.7\): got 1 weights for 2 texts"),
        ('("a","b").blend(0.7,x)', r"got weight 'x', expected a number"),
        ('("a","b").blend(nan,1)', r"got weight 'nan'"),
        ('("a","b").blend(1,-1)', "sum to 0"),
        ('("a","b").and(1,no_normalize)', "got weight 'no_normalize'"),
        ('("a","b").and() and more', r"character 17: .*▸and more: .*must be the end"),
        ('a ("a","b").blend()', r"character 1: ▸a .*behind the whole prompt"),
        ('("a" "b").and()', r"character 6: .*▸\"b\".*expected a comma"),
        ('("a", ).and()', "expected a text in double quotes"),
        ('("a","b").blend((1))', "must be the end|expected"),
        ("cat.swap(dog)", r"character 4: cat▸\.swap"),
        ("a.withLora(x,1)", r"character 3: a\.▸withLora\(x,1\): expected withLora\(name, 0.8\) as a word by itself"),
        ("withLora(my.lora, 1)", "a name of letters"),
        ("(withLora(x) = b)", "as a word by itself"),
        ("withLora(x) b withLora(x, 0.5)", r"character 15: .*stands there twice"),
        ("withLora(x, 9" + "9" * 400 + ")", "finite"),
        ("a.attend(x)", "got weight 'x'"),
        ("(a)" + "9" * 400, "finite"),
        ("a" + "+" * 9999, "finite"),
        ("(" * 40 + "a" + ")" * 40, "more than 32 nested"),
    ],
)
def test_compel_refuses(prompt: str, message: str) -> None:
    """In one line that says where, why and what to do."""
    with pytest.raises(RequestError, match=message) as refused:
        prompt_from_compel(prompt)
    assert "\n" not in str(refused.value)
    assert "; " in str(refused.value)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("a (red) apple", [("a ", 1.0), ("red", 1.1), (" apple", 1.0)]),
        ("((a))[b][[c]]", [("a", 1.21), ("b", 0.909091), ("c", 0.826446)]),
        ("(a:1.3)(b: .5 )", [("a", 1.3), ("b", 0.5)]),
        ("(a (b:1.5):2)", [("a ", 2.0), ("b", 3.0)]),
        (r"\(a\) \[b\] \\ \c", [("(a) [b] \\ c", 1.0)]),
        # What A1111 reads in spite of itself
        ("(a", [("a", 1.1)]),
        ("a) b] :1.3) c", [("a) b] :1.3) c", 1.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a [b) c", [("a ", 1.1), ("b", 1.0), (" c", 0.909091)]),
        ("BREAKING", [("BREAKING", 1.0)]),
    ],
)
def test_a1111(prompt: str, expected: Fragments) -> None:
    """Brackets, weights, escapes."""
    assert only_text(prompt_from_a1111(prompt)) == expected


def test_a1111_break() -> None:
    """A part for each chunk; only one that the end leaves empty is none."""

    def parts(prompt: str) -> list[Fragments]:
        return [fragments(part) for part in prompt_from_a1111(prompt).parts if isinstance(part, Text)]

    assert parts("a BREAK b") == [[("a", 1.0)], [("b", 1.0)]]
    assert parts("a BREAK (b)") == [[("a", 1.0)], [("", 1.0), ("b", 1.1)]]
    assert parts("a BREAK ") == [[("a", 1.0)]]
    assert parts("BREAK a") == [[("", 1.0)], [("a", 1.0)]]
    assert parts("a BREAK BREAK b") == [[("a", 1.0)], [("", 1.0)], [("b", 1.0)]]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (b:1..3)", r"character 6: a \(b:▸1\.\.3\): got weight '1\.\.3', expected a number"),
        ("(b:.)", "got weight"),
        ("(a:" + "9" * 400 + ")", "finite"),
        ("(" * 9000 + "a", "finite"),
        ("(a BREAK b)", r"character 1: ▸\(a BREAK"),
        ("a <lora:x:1> (b:1..3)", r"character 17: .*got weight"),
        ("a <lora:x:y>", r"character 3: a ▸<lora:x:y>: got weight 'y', expected a number"),
        ("<lora:x:nan>", "got weight 'nan'"),
        ("<lora:x:>", "got weight ''"),
        ("<lora:x:1:inf>", "got weight 'inf'"),
        ("<lora:x:1:1:8>", "smaller rank"),
        ("<lora:x:dyn=8>", "smaller rank"),
        ("<lora:x:1:lbw=MIDD>", "got 'lbw' in a tag"),
        ("<lora:x:1:1:8:9>", "got '9' in a tag"),
        ("<lora:te=0.5>", "a tag without a name"),
        ("<lora: :1>", "a tag without a name"),
        ("<lora:x> b <lyco:x:0.3>", "stands there twice"),
        ("<Lora:x:1>", "write it in lower case"),
        ("<hypernet:x:1>", "hypernetworks are not supported"),
    ],
)
def test_a1111_refuses(prompt: str, message: str) -> None:
    """In one line that says where, why and what to do."""
    with pytest.raises(RequestError, match=message) as refused:
        prompt_from_a1111(prompt)
    assert "\n" not in str(refused.value)
    assert "; " in str(refused.value)


@pytest.mark.parametrize(
    ("prompt", "loras"),
    [
        ("<lora:x>", [("x", 1.0, 1.0)]),
        ("<lyco:x:0.8>", [("x", 0.8, 0.8)]),
        ("<lora:x:0.8:0.5>", [("x", 0.5, 0.8)]),  # the text encoders' comes first
        ("<lora:x:unet=0.5>", [("x", 0.5, 1.0)]),
        ("<lora:x:te=0>", [("x", 0.0, 0.0)]),  # whose weight is the U-Net's, too
        ("<lora:x:0.8:unet=-1.5>", [("x", -1.5, 0.8)]),
        ("<lora:x:0.8:0.7:te=.1:unet=2>", [("x", 2.0, 0.1)]),
        ("<lora: my style v1.0 : 0.5 >", [("my style v1.0", 0.5, 0.5)]),
        ("<lora:b:1><lora:a:0.2>", [("b", 1.0, 1.0), ("a", 0.2, 0.2)]),
        ("<lora:>, <foo:bar>, lora:x:1", []),
        ("<lora:x", []),
    ],
)
def test_a1111_loras(prompt: str, loras: list[tuple[str, float, float]]) -> None:
    """As its extension Lora reads the arguments of ``modules/extra_networks.py``."""
    assert [(lora.name, lora.unet, lora.text) for lora in prompt_from_a1111(prompt).loras] == loras


def test_a1111_takes_tags_out_first() -> None:
    """Before brackets and words are read."""
    assert only_text(prompt_from_a1111("a gr<lora:x:1>een (ap<lora:y:2>ple:1.3)")) == [
        ("a green ", 1.0),
        ("apple", 1.3),
    ]
    assert only_text(prompt_from_a1111("<lora:AND [a|b] BREAK:1>(b)")) == [("b", 1.1)]


@pytest.mark.parametrize("parse", [prompt_from_compel, prompt_from_a1111])
def test_a_prompt_without_its_loras(parse: Callable[[str], Prompt]) -> None:
    """What was typed around them; escapes before them do not move them."""
    prompt = '"a \\t \\" b" withLora(x, 1) <lora:y:1>, c'
    (lora,) = parse(prompt).loras
    assert without_loras(prompt, parse(prompt).loras) == prompt.replace(prompt[lora.begin : lora.end], "")
    assert prompt[lora.begin : lora.end] in ("withLora(x, 1)", "<lora:y:1>")


PIECES = (
    *'()[]"+-.,:=\\<> \n\t\v\0',
    *("red", "apple", "1.3", "0.5", "2", "é", "🍎", "\u200f", ".blend(", ".and(", ".attend(", "no_normalize", "BREAK"),
    *('("a","b")', "(a b)1.2", "[x]", "(y:1.4)", '\\"', "\\(", "\\)", "BREAK ", "AND"),
    *("<lora:x:", "<lora:y>", "withLora(", "withLora(z,0.5)", "useLora(w)", "te=", "\\t"),
)


@pytest.mark.parametrize("parse", [prompt_from_compel, prompt_from_a1111])
@pytest.mark.parametrize("seed", range(4))
def test_no_text_raises_anything_else(parse: object, seed: int) -> None:
    """Random heaps of syntax parse, or are refused in a sentence; every weight is a finite number."""
    drawn = random.Random(seed)
    for _ in range(1500):
        prompt = "".join(drawn.choices(PIECES, k=drawn.randint(0, 14)))
        try:
            tree = parse(prompt)  # type: ignore[operator]
        except RequestError as error:
            message = str(error)
            assert re.search(r"at character \d+: .*▸", message), message
            assert "\n" not in message
            continue
        texts = [text for part in tree.parts for text in (part.texts if isinstance(part, Blend) else [part])]
        assert texts
        assert all(abs(fragment.weight) < float("inf") for text in texts for fragment in text.fragments)


@pytest.mark.parametrize("parse", [prompt_from_compel, prompt_from_a1111])
def test_long_texts_are_read_in_time(parse: object) -> None:
    """Ten thousand characters of what could make a parser try again and again; then pytest's timeout ends the test."""
    for piece in ("(a - ", '"a \\" ', "((a)b)", "[a:", "a+", ",", '"', "\\", "(a)1.1"):
        prompt = piece * (10_000 // len(piece))
        try:
            parse(prompt)  # type: ignore[operator]
        except RequestError:
            continue


@pytest.mark.parametrize(
    "text", ["(" * 32 + "a" + ")" * 32, "(" * 32 + "a = b" + ")" * 32, '("' * 1 + "(" * 31 + "a" + ")" * 31 + '")']
)
def test_nested_parentheses_are_read_in_time(text: str) -> None:
    """Each is read once, whatever may stand behind it; otherwise this takes hours, and pytest's timeout ends it."""
    prompt_from_compel(text)


def test_blanks_and_digits_are_read_in_time() -> None:
    """Twenty thousand blanks, a colon before them, and a number that never ends; pytest's timeout is the limit."""
    for text in (" " * 20000, ":" + " " * 20000, "[:" + "1" * 20000):
        prompt_from_a1111(text)
