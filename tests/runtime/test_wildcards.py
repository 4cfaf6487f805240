"""Wildcards: the package's own choices, bound to the seed, and nothing read outside of the folder."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dynamicprompts.generators import RandomPromptGenerator
from dynamicprompts.wildcards import WildcardManager

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.wildcards.wildcards import Resolve, resolver_from_argument

FILES = {
    "color.txt": "red\nblue\n# a comment\n\ngreen\nred\n",
    "sub/animal.txt": "a __color__ {cat|dog}\nfrog\n",
    "clothes.yaml": "hats: [cap, 3::bowler, {text: crown, weight: 0.5}]\nshoes:\n  warm: [boots]\n",
    "sub/list.json": '["one", "two"]',
    "unread.md": "no wildcard",
}
TEMPLATES = [
    "a {red|blue|green} cat",
    "{0.5::rare|9::often} {a|b {c|d}}",
    "{2$$ and $$red|green|blue}, {1-2$$x|y}",
    "${hue=!{red|blue}}a ${hue} hat on a ${hue} cat, ${size:small}",
    "__color__ __color__ __sub/animal__ __animal__",
    "__hats__, __shoes/*__, __sub/list__, __list__, __*__",
    "{2$$__color__}",
    "%{a ... of {wool|silk}$$__color__ hat}",
    "(red:{1.1|1.3}), [cat|dog], [a:b:0.5], <lora:{ink|oil}:0.8> # a comment",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of wildcards."""
    place = tmp_path / "wild"
    write(place, FILES)
    return place


@pytest.fixture
def resolve(folder: Path) -> Resolve:
    """Resolves with that folder."""
    return resolver_from_argument(folder)


def write(folder: Path, files: dict[str, str]) -> None:
    """Files with their texts."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_seed_chooses_as_the_package_does(folder: Path, resolve: Resolve, template: str) -> None:
    """A1111's extension gives each picture's seed to a generator of the package, too."""
    for seed in (0, 1, 2, 2**40):
        generator = RandomPromptGenerator(WildcardManager(folder), seed=seed)
        assert [resolve(template, seed)] == generator.generate(template, 1)


def test_a_prompt_is_its_seeds_alone(resolve: Resolve) -> None:
    """Whatever was resolved before, and in however many threads."""
    template = "__animal__ {1|2|3|4|5} __hats__"  # weighted entries are drawn ten at a time
    alone = {seed: resolve(template, seed) for seed in range(30)}
    assert len(set(alone.values())) > 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: resolve(template, seed % 30), range(300))) == [*alone.values()] * 10


def test_weights_count(resolve: Resolve) -> None:
    """Of options and of entries."""
    drawn = Counter(resolve("{1::a|9::b} __hats__", seed) for seed in range(300))
    share = {word: sum(n for text, n in drawn.items() if word in text.split()) / 300 for word in ("a", "bowler", "cap")}
    assert share["a"] == pytest.approx(0.1, abs=0.06)
    assert share["bowler"] == pytest.approx(3 / 4.5, abs=0.1)
    assert share["cap"] == pytest.approx(1 / 4.5, abs=0.1)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("50% of $5, {100%|100%} wool", "50% of $5, 100% wool"),
        ("a } b, [c|d]", "a } b, [c|d]"),
        ("", ""),
        ("plain", "plain"),
        ("{!same|same} {@same|same}", "same same"),
    ],
)
def test_what_is_no_template_stays(resolve: Resolve, template: str, prompt: str) -> None:
    """Percent and dollar signs alone are text, though the package's parser stops at them."""
    assert resolve(template, 1) == prompt


def test_files_with_marks_and_signs(folder: Path) -> None:
    """UTF-8 and UTF-16 with a byte order mark, as editors and PowerShell write them; percent signs in entries."""
    (folder / "bom.txt").write_bytes("\ufeff100% wool\n".encode())
    (folder / "wide.txt").write_bytes("ünïcode\r\n".encode("utf-16"))
    assert resolver_from_argument(folder)("__bom__, __wide__", 1) == "100% wool, ünïcode"


def test_a_changed_file_counts(folder: Path) -> None:
    """Structured files are kept while they are as they were."""
    assert resolver_from_argument(folder)("__shoes/warm__", 1) == "boots"
    write(folder, {"clothes.yaml": "shoes:\n  warm: [sandals]\n"})
    assert resolver_from_argument(folder)("__shoes/warm__", 1) == "sandals"


REFUSALS = {
    "a { b": "'{' at character 3, which begins nothing that ends",
    "{a|b": "close it, or leave it out",
    "snake__case": "'__' at character 6",
    "__colour__": "expected __color__; correct it, or add colour.txt",
    "__x/animals__": "expected __sub/animal__",
    "__nothing__": "expected one such as",
    "__../../etc/passwd__": "which nothing in the folder",
    "__/etc/passwd__": "which nothing in the folder",
    "__outside__": "which nothing in the folder",
    "__two\nlines__": "got wildcard '__two\\nlines__', which nothing in the folder",
    "__linked/secret__": "which nothing in the folder",
    "__empty__": "whose file has no entries",
    "__circle__": "name one another without end",
    "${a=x ${a}}${a}": "name one another without end",
    "{" * 3000: "braces lie too deep",
    "__bomb0__": "beyond 20000 parts or 100000 characters",
    "{2$$__long__}": "expected 1 to 10000; choose one entry at a time",
    "{2$$__heavy__}": "expected 1 to 10000",
    "__long__ __large__": "of more than 8 MB",
    "${unset}": "Variable unset is not defined",
    "{0::a|0::b}": "Total of weights must be greater than zero",
}


@pytest.mark.parametrize("template", REFUSALS, ids=range(len(REFUSALS)))
def test_refusals(folder: Path, template: str) -> None:
    """One sentence each, soon, and without a look outside of the folder."""
    write(folder.parent, {"secret.txt": "secret", "elsewhere/secret.txt": "secret"})
    (folder / "outside.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    os.mkfifo(folder / "pipe.txt")
    write(folder, {f"bomb{index}.txt": f"__bomb{index + 1}__ __bomb{index + 1}__" for index in range(40)})
    write(folder, {"bomb40.txt": "x", "empty.txt": "# nothing\n", "circle.txt": "__circle__\n"})
    write(folder, {"long.txt": "\n".join(map(str, range(10_001))), "heavy.yaml": "heavy: ['9999::x', '9999::y']"})
    (folder / "large.txt").write_bytes(b"x\n" * (4 * 2**20 + 1))
    with pytest.raises(RequestError) as refusal:
        resolver_from_argument(folder)(template, 1)
    assert REFUSALS[template] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "while parsing a flow node"),
        ("a: ['1e9::x', '100000::x']", "expected 0 to 10000"),
        ("a: &a {b: *a}", "maximum recursion depth"),
        (
            "".join(f"a{n + 1}: &a{n + 1} {{x: *a{n}, y: *a{n}}}\n" for n in range(40)).replace("*a0", "z"),
            "more than 20000 lists",
        ),
    ],
    ids=["malformed", "weight", "endless", "bomb"],
)
def test_a_damaged_file_is_left_out(folder: Path, text: str, reason: str) -> None:
    """With a warning that names it; the others serve."""
    write(folder, {"bad.yaml": text})
    with pytest.warns(UserWarning, match="bad.yaml") as warned:
        resolve = resolver_from_argument(folder)
    assert reason in str(warned[0].message)
    assert resolve("__shoes/warm__", 1) == "boots"


@pytest.mark.parametrize("wildcards", [3, True, ["wild"], "absent", "color.txt", "zero\0"])
def test_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, wildcards: Any) -> None:
    """What is none is refused, and "" has no files."""
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match=r"^got wildcards "):
        resolver_from_argument(wildcards)
    assert resolver_from_argument("")("{a|a}", 1) == "a"
    with pytest.raises(RequestError, match="wildcards='', which is for templates without files"):
        resolver_from_argument("")("__color__", 1)


def test_far_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole disk was given by mistake."""
    monkeypatch.setattr("latentrt.runtime.prompts.wildcards.files._MOST_FILES", 4)
    write(tmp_path, {f"{index}/{index}.txt": "x" for index in range(5)})
    with pytest.raises(RequestError, match="more than 4 files in it"):
        resolver_from_argument(tmp_path)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    import sys

    monkeypatch.setitem(sys.modules, "latentrt.runtime.prompts.wildcards.templates", None)
    with pytest.raises(RequestError, match=r"pip install 'latentrt\[wildcards\]'"):
        resolver_from_argument("")
