"""CLIP's tokenizer without transformers, through the `tokenizers` library."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.errors import BundleError
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
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
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as TokenizersTokenizer

    try:
        specials = _configured_specials(folder)
        if (folder / "tokenizer.json").is_file():
            backend = TokenizersTokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            backend = _clip_bpe(folder / "vocab.json", folder / "merges.txt", _normalized(specials))
        pad = pad_token or _content(specials.get("pad_token", END))
        if pad not in (START, END):
            # In a text, too, transformers takes it for the padding: SD 2.x's "!" is not the word "!"
            backend.add_special_tokens([AddedToken(pad, special=True, normalized=pad in _normalized(specials))])
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


def _configured_specials(folder: Path) -> dict[str, Any]:
    """The special tokens that transformers would take: ``special_tokens_map.json`` goes first."""
    found: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        found |= {role: content[role] for role in _ROLES if content.get(role) is not None}
    return found


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _normalized(specials: Mapping[str, Any]) -> set[str]:
    """The special tokens that are found in lower-cased text, too (``<|StartOfText|>``).

    transformers adds the tokens of all roles in turn, leaves out what it has added already, and the last to be
    added decides; one that is a mere text is not normalised. SD 1.5's files say so of the start token alone.
    """
    tokens = [specials.get(role, START if role == "bos_token" else END) for role in _ROLES]
    different = [token for index, token in enumerate(tokens) if token not in tokens[:index]]
    last = {_content(token): isinstance(token, dict) and bool(token.get("normalized", True)) for token in different}
    return {content for content, normalized in last.items() if normalized}


def _clip_bpe(vocabulary: Path, merges: Path, normalized: set[str]) -> "TokenizersTokenizer":
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
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=token in normalized) for token in (START, END)]
    )
    return backend
