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
# Words, single digits and runs of other symbols; English clitics apart (CLIP, simple_tokenizer.py)
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


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

    def __init__(self, backend: "TokenizersTokenizer", *, length: int, bos_id: int, eos_id: int, pad_id: int) -> None:
        self._backend = backend
        self.length = length
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def encode(self, text: str) -> Encoding:
        """Ids of a text, (length,) int64; what goes beyond ``length`` − 2 tokens is left out and reported."""
        tokens = self.tokens(text)
        lost = text[tokens.begins[self.room] :].strip() if len(tokens.ids) > self.room else ""
        return Encoding(self.framed(tokens.ids[: self.room]), lost)

    def tokens(self, text: str) -> Tokens:
        """All tokens of a text, without framing."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return Tokens(encoding.ids, [begin for begin, _ in encoding.offsets])

    def framed(self, ids: Sequence[int]) -> Array:
        """Start, at most ``room`` ids, end and padding: (length,) int64."""
        framed = np.full(self.length, self.pad_id, np.int64)
        framed[0], framed[1 : len(ids) + 1], framed[len(ids) + 1] = self.bos_id, ids, self.eos_id
        return framed

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

    @property
    def pad_token(self) -> str:
        """The padding token's text."""
        return str(self._backend.id_to_token(self.pad_id))

    def save(self, path: Path) -> None:
        """Writes ``tokenizer.json``."""
        path.write_text(self._backend.to_str(pretty=True), "utf-8")  # its own save raises no OSError


def tokenizer_from_folder(folder: Path, *, length: int = 77, pad_token: str | None = None) -> Tokenizer:
    """Opens ``tokenizer.json``, or builds the same from ``vocab.json`` and ``merges.txt``.

    Args:
        folder: a diffusers ``tokenizer`` folder.
        length: tokens per prompt, framing included.
        pad_token: the padding token; None takes the folder's ``tokenizer_config.json``, else the end token.

    Raises:
        BundleError: neither form is there or readable.
    """
    from tokenizers import Tokenizer as TokenizersTokenizer

    try:
        if (folder / "tokenizer.json").is_file():
            backend = TokenizersTokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            backend = _clip_bpe(folder / "vocab.json", folder / "merges.txt")
        pad = pad_token or _configured_pad(folder) or END
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
    return Tokenizer(backend, length=length, bos_id=ids[START], eos_id=ids[END], pad_id=ids[pad])


def _configured_pad(folder: Path) -> str | None:
    """The padding token that transformers would take: ``special_tokens_map.json`` goes first."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        pad = json.loads(path.read_text("utf-8")).get("pad_token") if path.is_file() else None
        if pad is not None:
            return str(pad["content"] if isinstance(pad, dict) else pad)
    return None


def _clip_bpe(vocabulary: Path, merges: Path) -> "TokenizersTokenizer":
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    model = models.BPE.from_file(
        str(vocabulary), str(merges), continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return backend
