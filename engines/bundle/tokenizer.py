"""CLIP's tokenizer without transformers, through the `tokenizers` library."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentrt.engines.errors import BundleError
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_BESIDE_A_VOCABULARY = ("special_tokens_map.json", "added_tokens.json", "vocab.json")


@dataclass(frozen=True)
class Encoding:
    """Token ids of one prompt, and the end of the text that did not fit (empty if all of it did)."""

    ids: Array
    lost: str


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text without framing, and where in the text each token begins."""

    ids: list[int]
    begins: list[int]


class Tokenizer:
    """Byte-level BPE with CLIP's framing: start, text, end, padding up to a fixed length."""

    def __init__(
        self, backend: "TokenizersTokenizer", *, length: int, bos_id: int, eos_id: int, pad_id: int, pad_token: str
    ) -> None:
        self._backend = backend
        self.length = length
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.pad_token = pad_token  # the backend may know it in lower case alone

    def encode(self, text: str) -> Encoding:
        """Ids of a text, (length,) int64; what goes beyond ``length`` − 2 tokens is left out and reported."""
        tokens = self.tokens(text)
        lost = text[tokens.begins[self.room] :].strip() if len(tokens.ids) > self.room else ""
        return Encoding(self.framed(tokens.ids[: self.room]), lost)

    def tokens(self, text: str) -> Tokens:
        """All tokens of a text, without framing.

        Raises:
            BundleError: the vocabulary lacks what it says to put for unknown symbols.
        """
        try:
            encoding = self._backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(
                f"the tokenizer cannot read a text ({str(error)[:200]}); build the bundle again"
            ) from error
        return Tokens(encoding.ids, [begin for begin, _ in encoding.offsets])

    def framed(self, ids: Sequence[int]) -> Array:
        """Start, at most ``room`` ids, end and padding: (length,) int64."""
        framed = np.full(self.length, self.pad_id, np.int64)
        framed[0], framed[1 : len(ids) + 1], framed[len(ids) + 1] = self.bos_id, ids, self.eos_id
        return framed

    def end_positions(self, ids: Array) -> Array:
        """Where each row of ids (…, length) has its first end token: (…) int64."""
        return np.asarray((ids == self.eos_id).argmax(-1), np.int64)

    @property
    def room(self) -> int:
        """How many tokens fit between start and end."""
        return self.length - 2

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return int(self._backend.get_vocab_size())

    def text_of(self, token_id: int) -> str:
        """A token's text in the vocabulary, ``</w>`` at the end of a word; empty for an id outside of it."""
        return self._backend.id_to_token(token_id) or ""

    def id_of(self, token: str) -> int | None:
        """The id of a token's text in the vocabulary, None if there is none."""
        number: int | None = self._backend.token_to_id(token)
        return number

    def save(self, path: Path) -> None:
        """Writes ``tokenizer.json``."""
        path.write_text(self._backend.to_str(pretty=True), "utf-8")  # its own save raises no OSError


def tokenizer_from_folder(folder: Path, *, length: int = 77) -> Tokenizer:
    """Opens a bundle's ``tokenizer.json``, or reads a checkpoint's files as transformers does.

    Args:
        folder: a bundle's, with ``tokenizer.json`` and the padding token, or a diffusers ``tokenizer`` folder.
        length: tokens per prompt, framing included.

    Raises:
        BundleError: neither form is there or readable.
    """
    try:
        backend, pad = _bundled(folder) or _read_files(folder)
    except Exception as error:  # the library raises bare Exception for malformed files
        raise BundleError(
            f"cannot read the tokenizer in {str(folder)!r} ({str(error)[:200]}); "
            "expected tokenizer.json, or vocab.json with merges.txt"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    found = {token: backend.token_to_id(token) for token in (START, END, pad)}
    ids = {token: number for token, number in found.items() if number is not None}
    missing = found.keys() - ids.keys()
    if missing:
        raise BundleError(f"the tokenizer in {str(folder)!r} lacks {', '.join(missing)}; expected a CLIP tokenizer")
    return Tokenizer(backend, length=length, bos_id=ids[START], eos_id=ids[END], pad_id=ids[pad], pad_token=pad)


def _bundled(folder: Path) -> "tuple[TokenizersTokenizer, str] | None":
    """A bundle's tokenizer and its padding token: the one form that holds all tokens in ``tokenizer.json``."""
    from tokenizers import Tokenizer as TokenizersTokenizer

    config = folder / "tokenizer_config.json"
    content = json.loads(config.read_text("utf-8")) if config.is_file() else None
    if not isinstance(content, dict) or content.keys() != {"pad_token"}:
        return None
    if not (folder / "tokenizer.json").is_file() or any((folder / name).exists() for name in _BESIDE_A_VOCABULARY):
        return None
    return TokenizersTokenizer.from_file(str(folder / "tokenizer.json")), str(content["pad_token"])


def _read_files(folder: Path) -> "tuple[TokenizersTokenizer, str]":
    from latentrt.engines.bundle.tokenizer_files import read_tokenizer_files  # what only a build needs

    return read_tokenizer_files(folder)
