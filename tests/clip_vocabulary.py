"""The real CLIP vocabulary in transformers' form, from the merges that the package open-clip-torch ships."""

import gzip
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

_MERGES = 49152 - 256 - 2  # as CLIP's simple_tokenizer.py cuts them; the file lists more


def write_clip_tokenizer(folder: Path) -> Path:
    """Writes ``vocab.json`` and ``merges.txt`` as in SD 1.5's tokenizer folder: 49,408 tokens."""
    try:
        packed = Path(str(distribution("open-clip-torch").locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz")))
    except PackageNotFoundError:
        pytest.skip("open-clip-torch is not installed; make test installs it")
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : _MERGES + 1]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(line.replace(" ", "") for line in lines)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), "utf-8")
    return folder
