"""Token ids equal to those of transformers' CLIPTokenizer, on texts that users and attackers write."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

import latentrt
from latentrt.engines.errors import BundleError
from latentrt.models import EMOJI
from latentrt.runtime.prompt import PromptTruncatedWarning
from latentrt.runtime.tokenizer import Tokenizer, tokenizer_from_folder

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
