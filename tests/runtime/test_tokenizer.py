"""Token ids equal to those of transformers' CLIPTokenizer, on texts that users and attackers write."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
from clip_vocabulary import write_clip_tokenizer

import latentrt
from latentrt.engines.bundle.tokenizer import END, START, Tokenizer, tokenizer_from_folder
from latentrt.engines.errors import BundleError
from latentrt.models import EMOJI
from latentrt.runtime.prompts.encoder import PromptTruncatedWarning

TEXTS = {
    "empty": "",
    "blank": " \t \n ",
    "plain": "a red apple",
    "capitals": "A Red APPLE",
    "clitics": "it's the cat's, they'll've we're I'm don't d'oh",
    "digits": "1234 4k 3.14159",
    "punctuation": "(masterpiece:1.2), [a|b], <lora:x:1>!!! ...---",
    "accents": "café, naïve, Ångström, décolletage",
    "combining": "cafe\u0301 A\u030angstro\u0308m",
    "emoji": "🚢👩‍🚀🏳️‍🌈 a ship",
    "CJK": "港口的日落 東京 한국어",
    "RTL": "قطة حمراء חתול אדום",
    "marks of direction": "\u202eabc\u202c \u200fabc",
    "control characters": "a\x00b\x01c\x7fd\x1be",
    "zero width": "a\u200bb\ufeffc",
    "spaces": "a\u00a0b\u3000c\u2003d",
    "newlines": "a\nb\r\nc\n\n\nd",
    "special tokens inside": "a <|endoftext|> b <|startoftext|>c",
    "almost a special token": "<|endoftext| > <| startoftext|>",
    "HTML entities": "a &amp; b &lt;c&gt; &quot;d&quot; &#39; &nbsp;",
    "special tokens in capitals": "a <|ENDOFTEXT|> b <|StartOfText|> c",
    "surrogates' neighbours": "\ud7ff\ue000\ufffd\uffff\U0010ffff",
    "math": "𝕬𝖇 ﬁ ½ ² Ⅷ İ ß",
    "long": "word " * 2000,
    "long without spaces": "x" * 10_000,
    "long emoji": "🚢" * 2500,
}


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json and merges.txt"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Ours, from either form of the embedded model's tokenizer."""
    if request.param == "tokenizer.json":
        return tokenizer_from_folder(EMOJI / "tokenizer")
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(EMOJI / "tokenizer" / name, folder / name)
    return tokenizer_from_folder(folder)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ids_equal_those_of_transformers(tokenizer: Tokenizer, text: str) -> None:
    """Framing, truncation and padding included."""
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert tokenizer.encode(text).ids.tolist() == expected


def added(content: str, normalized: bool) -> dict[str, object]:
    """A special token as in the JSON files beside a vocabulary."""
    flags = {"lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content, **flags}


# Of SD 1.5 and of SD 2.1, as on the hub; and turned around
CONFIGS: dict[str, dict[str, object]] = {
    "none": {},
    "SD 1.5": {
        "bos_token": added(START, True),
        "eos_token": added(END, True),
        "unk_token": added(END, True),
        "pad_token": END,
    },
    "SD 2.1": {
        "bos_token": added(START, True),
        "eos_token": added(END, True),
        "unk_token": added(END, True),
        "pad_token": "!",
    },
    "turned around": {"eos_token": END, "unk_token": added(END, True), "pad_token": added("!", True)},
}


@pytest.fixture(scope="module", params=CONFIGS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real vocabulary with a config beside it."""
    folder = write_clip_tokenizer(tmp_path_factory.mktemp("clip"))
    config = {"tokenizer_class": "CLIPTokenizer", **CONFIGS[request.param]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def random_texts(count: int) -> list[str]:
    """Heaps of letters of many scripts, marks, emoji, controls, entities and special tokens."""
    drawn = random.Random(0)
    blocks = (
        "0-7f 80-24f 300-36f 590-6ff 900-9ff 2000-206f 3000-30ff 4e00-4fff ac00-acff 1f300-1f6ff e000-e00f fff0-ffff"
    )
    ranges = [tuple(int(end, 16) for end in block.split("-")) for block in blocks.split()]
    words = (" ", "&amp;", "<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "'LL", "cat", "!", "\n", "\u0301")
    return [
        "".join(
            chr(drawn.randint(*drawn.choice(ranges))) if drawn.random() < 0.6 else drawn.choice(words)
            for _ in range(drawn.randint(1, 14))
        )
        for _ in range(count)
    ]


def test_the_real_vocabulary(real: Path, tmp_path: Path) -> None:
    """Ids equal to transformers' on CLIP's 49,408 tokens, from either form, and again from the form we store."""
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(real)
    assert theirs("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    ours = tokenizer_from_folder(real)
    ours.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": ours.pad_token}))
    saved = tmp_path / "saved"
    theirs.save_pretrained(saved)
    for tokenizer in (ours, tokenizer_from_folder(tmp_path), tokenizer_from_folder(saved)):
        for text in [*TEXTS.values(), *random_texts(500)]:
            expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
            assert tokenizer.encode(text).ids.tolist() == expected, ascii(text[:80])


def test_says_what_does_not_fit(tokenizer: Tokenizer) -> None:
    """The end of the text from the first token that was left out."""
    assert tokenizer.encode("cat " * 75).lost == ""
    assert tokenizer.encode("cat " * 75 + "in the rain").lost == "in the rain"


def test_a_long_prompt_warns_and_quotes_what_was_lost(tiny_pipe: latentrt.Pipeline) -> None:
    """Once for equal prompts; a prompt that fits warns of nothing."""
    with pytest.warns(PromptTruncatedWarning, match=r"left out: 'in the rain'") as caught:
        tiny_pipe(["cat " * 75 + "in the rain"] * 2, num_inference_steps=1, seed=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_pipe("cat " * 75, num_inference_steps=1, seed=1)


@pytest.mark.parametrize("files", [(), ("vocab.json",), ("merges.txt",)])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    """Half of a pair is none."""
    for name in files:
        shutil.copy(EMOJI / "tokenizer" / name, tmp_path / name)
    with pytest.raises(BundleError, match=r"expected tokenizer\.json, or vocab\.json with merges\.txt"):
        tokenizer_from_folder(tmp_path)


def test_special_tokens_map_names_the_padding_first(tmp_path: Path) -> None:
    """As transformers reads it: its pad token goes before that of tokenizer_config.json."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((EMOJI / "tokenizer" / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<|endoftext|>"}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    ids = tokenizer_from_folder(tmp_path).encode("cat").ids
    assert ids[-1] == json.loads((EMOJI / "tokenizer" / "vocab.json").read_text("utf-8"))["!"]


def test_a_malformed_config_is_refused(tmp_path: Path) -> None:
    """One sentence instead of a JSON traceback."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((EMOJI / "tokenizer" / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BundleError, match="cannot read the tokenizer"):
        tokenizer_from_folder(tmp_path)


def _flags(content: str, **flags: bool) -> dict[str, object]:
    """A token of ``added_tokens_decoder``."""
    usual = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **usual, **flags}


_MAP, _CONFIG = "special_tokens_map.json", "tokenizer_config.json"
_SIZE = len(json.loads((EMOJI / "tokenizer" / "vocab.json").read_text("utf-8")))
# Files beside the vocabulary, in the forms that releases of transformers and training scripts have written
ADDED: dict[str, dict[str, object]] = {
    "added_tokens.json alone": {"added_tokens.json": {"<cat-toy>": _SIZE, "sks dog": _SIZE + 1, "Éclair": _SIZE + 2}},
    "numbers with gaps, not in order": {"added_tokens.json": {"<b>": _SIZE + 7, "<a>": _SIZE + 3, "cat": 5}},
    "special ones by their list": {
        "added_tokens.json": {"<cat-toy>": _SIZE, "<Cat>": _SIZE + 1},
        _MAP: {"additional_special_tokens": ["<Cat>", "<other>"], "pad_token": "<pad>"},
    },
    "special ones with flags": {
        _MAP: {
            "bos_token": _flags(START, normalized=True),
            "pad_token": {"content": "<PAD>", "lstrip": True, "normalized": True, "rstrip": True, "single_word": False},
            "mask_token": "<mask>",
            "additional_special_tokens": ["<x>"],
        }
    },
    "the config's table": {
        _CONFIG: {
            "added_tokens_decoder": {
                str(_SIZE + 1): _flags("<cat-toy>", normalized=True, special=False),
                str(_SIZE): _flags("<Cat>", single_word=True),
                str(_SIZE + 2): _flags("toy ", rstrip=True),
            },
            "additional_special_tokens": ["<Cat>", "<x>"],
            "pad_token": "<Cat>",
        },
        _MAP: {"pad_token": "!", "additional_special_tokens": ["<cat>"]},
        "added_tokens.json": {"<other>": _SIZE},
    },
    "the config's list": {_CONFIG: {"extra_special_tokens": ["<x>", {"__type": "AddedToken", **_flags("<cat-toy>")}]}},
    "named tokens of other models": {_CONFIG: {"image_token": "<Cat>", "sep_token": "<x>"}},
}


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("form", ["vocab.json and merges.txt", "tokenizer.json", "saved again"])
def test_added_tokens_are_whole(kind: str, form: str, tmp_path: Path) -> None:
    """Each is one id, the one that it has in transformers, from every form and again from the form we store."""
    from transformers import CLIPTokenizer

    names = ("tokenizer.json",) if form == "tokenizer.json" else ("vocab.json", "merges.txt")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in names:
        shutil.copy(EMOJI / "tokenizer" / name, folder / name)
    for name, content in ADDED[kind].items():
        (folder / name).write_text(json.dumps(content))
    theirs = CLIPTokenizer.from_pretrained(folder)
    assert len(theirs) > _SIZE
    if form == "saved again":
        theirs.save_pretrained(folder)
        theirs = CLIPTokenizer.from_pretrained(folder)
    ours = tokenizer_from_folder(folder)
    assert ours.vocabulary_size == len(theirs)
    assert (ours.pad_token, ours.pad_id) == (theirs.pad_token, theirs.pad_token_id)
    (tmp_path / "stored").mkdir()
    ours.save(tmp_path / "stored" / "tokenizer.json")
    (tmp_path / "stored" / "tokenizer_config.json").write_text(json.dumps({"pad_token": ours.pad_token}))
    stored = tokenizer_from_folder(tmp_path / "stored")
    tokens = [token.content for token in theirs.added_tokens_decoder.values()]
    texts = [f"a {token} b{token}c, {token.upper()} {token.lower()}  x" for token in tokens]
    for text in [*texts, *TEXTS.values(), " ".join(tokens), "".join(tokens), *random_texts(50)]:
        expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        for tokenizer in (ours, stored):
            assert tokenizer.encode(text).ids.tolist() == expected, ascii(text[:80])
    for token in tokens:
        assert ours.tokens(token).ids == [theirs.convert_tokens_to_ids(token)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", "[]"),
        ("added_tokens.json", '{"<a>": "b", "<c>": 1}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"7": "<a>"}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": ["<a>"]}'),
        ("special_tokens_map.json", '{"pad_token": {"flags": 1}}'),
    ],
)
def test_malformed_added_tokens_are_refused(name: str, content: str, tmp_path: Path) -> None:
    """In one sentence that names the folder."""
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(EMOJI / "tokenizer" / file, tmp_path / file)
    (tmp_path / name).write_text(content)
    with pytest.raises(BundleError, match="cannot read the tokenizer"):
        tokenizer_from_folder(tmp_path)
