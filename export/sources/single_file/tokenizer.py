"""CLIP's own tokenizer, for single files, which carry none: 49,408 tokens from the merges beside this file."""

import gzip
import json
import tempfile
from functools import cache
from pathlib import Path

from latentrt.engines.bundle.tokenizer import END, START

VOCABULARY = 49408
_MERGES = Path(__file__).with_name("clip") / "merges.txt.gz"
_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@cache
def clip_tokenizer_folder(pad_token: str) -> Path:
    """A tokenizer folder with ``vocab.json``, ``merges.txt`` and SD's settings; it lasts as long as the process.

    Args:
        pad_token: ``<|endoftext|>`` for CLIP ViT-L, ``!`` for OpenCLIP's models.
    """
    _kept.append(tempfile.TemporaryDirectory(prefix="latentrt-clip-"))
    folder = Path(_kept[-1].name)
    merges = gzip.decompress(_MERGES.read_bytes()).decode()
    (folder / "merges.txt").write_text(merges, "utf-8")
    tokens = {token: index for index, token in enumerate(_tokens(merges.splitlines()[1:]))}
    (folder / "vocab.json").write_text(json.dumps(tokens), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(pad_token), indent=1), "utf-8")
    return folder


def _tokens(merges: list[str]) -> list[str]:
    """All bytes, all bytes at a word's end, the merges in order, the two special tokens (CLIP, simple_tokenizer.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    return [*letters, *(f"{letter}</w>" for letter in letters), *(line.replace(" ", "") for line in merges), START, END]


def _config(pad_token: str) -> dict[str, object]:
    """As in tokenizer/tokenizer_config.json of SD 1.5 and of SD 2.1."""
    flags = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": {"content": START, **flags},
        "eos_token": {"content": END, **flags},
        "unk_token": {"content": END, **flags},
        "pad_token": pad_token,
        "model_max_length": 77,
    }
