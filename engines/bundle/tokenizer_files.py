"""A CLIP tokenizer's files as transformers' CLIPTokenizer reads them: vocabulary, merges and tokens that were added."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from latentrt.engines.bundle.tokenizer import END, START

# In the order in which transformers adds their tokens, with CLIP's
_ROLES = {
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "sep_token": None,
    "pad_token": END,
    "cls_token": None,
    "mask_token": None,
}
# Words, single digits and runs of other symbols; English clitics apart (CLIP, simple_tokenizer.py)
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_Token = str | AddedToken


class TokenizerFiles(NamedTuple):
    """The tokenizer that a folder describes, and its padding token."""

    backend: Tokenizer
    pad_token: str


class _Added(NamedTuple):
    """What the files add: tokens by the numbers they once had, and special ones by their roles; others without."""

    numbered: dict[int, AddedToken]
    roles: dict[str, _Token]
    others: list[_Token]


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Reads ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, and the tokens of the files beside them.

    Raises:
        Exception: whatever the library raises for files that are missing or malformed.
    """
    stored = _table(folder / "tokenizer.json")
    added = _added(folder, stored)
    unknown = str(added.roles.get("unk_token", END))
    shape = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "unk_token": unknown}
    if stored:
        merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in stored["model"]["merges"])
        pairs = [(str(first), str(second)) for first, second in merges]
        model = models.BPE(vocab=stored["model"]["vocab"], merges=pairs, **shape)
    else:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"), **shape)
    backend = _clip(model)
    backend.add_tokens(list(_in_order(added)))
    return TokenizerFiles(backend, str(added.roles.get("pad_token", END)))


def _clip(model: models.BPE) -> Tokenizer:
    """Byte-level BPE as CLIP has it, without any token but the model's."""
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
    return backend


def _added(folder: Path, stored: Mapping[str, Any]) -> _Added:
    """The tokens beside the vocabulary (transformers, ``PreTrainedTokenizerBase._from_pretrained``).

    ``added_tokens_decoder`` in the config is what later releases write, and all there is then. Before, tokens were in
    files of their own, of which ``special_tokens_map.json`` goes before the config.
    """
    config = _table(folder / "tokenizer_config.json")
    settings: dict[str, Any] = {
        # some files lack the mark that a role's token is one
        key: _as_token(value) if isinstance(value, dict) and key.endswith("_token") else _token(value)
        for key, value in config.items()
    }
    numbered: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        numbered = {int(number): _as_token(token) for number, token in config["added_tokens_decoder"].items()}
    else:
        for key, value in _table(folder / "special_tokens_map.json").items():
            settings[key] = _as_token(value, special=True) if isinstance(value, dict) else value
        special = {str(settings[role]) for role in _ROLES if settings.get(role)}
        special |= {str(token) for token in settings.get("extra_special_tokens") or ()}
        for content, number in _table(folder / "added_tokens.json").items():
            named = content in special
            numbered[number] = AddedToken(content, normalized=not named, special=named)
        for token in stored.get("added_tokens") or ():
            numbered[token["id"]] = _as_token({key: value for key, value in token.items() if key != "id"})
    by_content = {str(token): token for token in numbered.values()}
    roles: dict[str, _Token] = {}
    for role, usual in _ROLES.items():
        token = settings.get(role, usual)
        if token:
            roles[role] = by_content.get(str(token), token)
    for key, value in settings.items():  # roles of other models
        if key.endswith("_token") and key not in _ROLES and isinstance(value, (str, AddedToken)):
            roles[key] = value
    listed = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if isinstance(listed, dict):
        roles |= {key: _token(value) for key, value in listed.items()}
        listed = []
    return _Added(numbered, roles, [_as_token(token) if isinstance(token, dict) else _token(token) for token in listed])


def _in_order(added: _Added) -> Iterator[AddedToken]:
    """The tokens as transformers adds them (``TokenizersBackend.__init__``): the library numbers them as they come.

    One may come twice with different flags: the last decides.
    """
    tokens: list[_Token] = [added.numbered[number] for number in sorted(added.numbered)]
    known = {str(token) for token in tokens}
    for token in (*added.roles.values(), *added.others):
        if str(token) not in known and token not in tokens:
            tokens.append(token)
    named = {str(token) for token in added.roles.values()}
    for token in tokens:
        if isinstance(token, str):
            token = AddedToken(token, special=True)
        elif str(token) in named:
            token.special = True
        yield token


def _token(value: Any) -> Any:
    """A token where a JSON value is marked as one; in lists, too; any other value as it is."""
    if isinstance(value, list):
        return [_token(item) for item in value]
    return _as_token(value) if isinstance(value, dict) and value.get("__type") == "AddedToken" else value


def _as_token(entry: Any, **flags: bool) -> AddedToken:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise ValueError(f"a token is {str(entry)[:60]!r}, expected its content and its flags")
    return AddedToken(**{key: value for key, value in {**entry, **flags}.items() if key != "__type"})


def _table(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content
