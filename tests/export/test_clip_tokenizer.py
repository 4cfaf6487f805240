"""The vocabulary that the package carries is CLIP's."""

import json
from pathlib import Path

import pytest
from clip_vocabulary import write_clip_tokenizer

from latentrt.engines.bundle.tokenizer import tokenizer_from_folder
from latentrt.export.sources.single_file.tokenizer import VOCABULARY, clip_tokenizer_folder

TEXTS = (
    "",
    "a photo of a cat",
    "CAFÉ naïve ﬁ ½",
    "!!! wow!",
    "👩‍👩‍👧 12345",
    "it's 'LL",
    "a <|EndOfText|> b",
    "x" * 500,
)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_ids_equal_those_of_transformers(pad: str) -> None:
    """With both paddings."""
    from transformers import CLIPTokenizer

    folder = clip_tokenizer_folder(pad)
    theirs, ours = CLIPTokenizer.from_pretrained(folder), tokenizer_from_folder(folder)
    assert ours.vocabulary_size == VOCABULARY
    assert theirs("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ours.pad_token == pad
    for text in TEXTS:
        expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.encode(text).ids.tolist() == expected, ascii(text)


def test_equal_to_the_vocabulary_of_open_clip(tmp_path: Path) -> None:
    """The same files as from that package, where it is installed."""
    theirs, ours = write_clip_tokenizer(tmp_path / "clip"), clip_tokenizer_folder("!")
    assert (ours / "merges.txt").read_text() == (theirs / "merges.txt").read_text()
    assert json.loads((ours / "vocab.json").read_text()) == json.loads((theirs / "vocab.json").read_text())
