"""Textual inversions: vectors that stand in a prompt for a trigger, and the files that trainers write them in."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.tokenizer import Tokenizer
from latentrt.engines.errors import RequestError
from latentrt.engines.files import sha256_of_file
from latentrt.engines.spec import Array
from latentrt.engines.tensors.tensor_file import StoredTensor, TensorFileError, open_tensor_file
from latentrt.runtime.checks import texts

_LEARNED = ("learned_embeds.safetensors", "learned_embeds.bin")  # diffusers' names inside a folder
_BASES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL's second text encoder"}
_SDXL = ("clip_l", "clip_g")


class UnusedTextualInversionWarning(UserWarning):
    """A textual inversion is loaded, but no prompt of the call names it."""


@dataclass(frozen=True)
class TextualInversion:
    """A trigger and its vectors (n, width) float32; n vectors take n token slots. ``sha256`` is their file's digest."""

    trigger: str
    vectors: Array
    sha256: str = ""


@dataclass(frozen=True)
class TextualInversions:
    """All that are loaded, numbered one behind the other. Never changes; loading makes another one."""

    loaded: tuple[TextualInversion, ...] = ()

    @cached_property
    def vectors(self) -> Array:
        """All vectors (N, width) float32; there must be at least one."""
        return np.concatenate([inversion.vectors for inversion in self.loaded])

    @cached_property
    def _forms(self) -> list[tuple[str, range]]:
        """How each trigger is matched, and the numbers of its vectors; the longest first.

        One without angle brackets stands in them, or alone as a word.
        """
        forms, end = [], 0
        for inversion in self.loaded:
            text = r"\s+".join(re.escape(word) for word in inversion.trigger.split())
            bracketed = inversion.trigger.startswith("<") and inversion.trigger.endswith(">")
            begin, end = end, end + len(inversion.vectors)
            forms.append((text if bracketed else rf"<{text}>|(?<![\w-]){text}(?![\w-])", range(begin, end)))
        return sorted(forms, key=lambda form: len(form[0]), reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """A group for every form."""
        return re.compile("|".join(f"({form})" for form, _ in self._forms), re.IGNORECASE)

    def pieces(self, text: str) -> Iterator[tuple[int, str | range]]:
        """A text cut at its triggers: where each piece begins, and plain text or the numbers of vectors."""
        end = 0
        for match in self._pattern.finditer(text) if self.loaded else ():
            yield end, text[end : match.start()]
            yield match.start(), self._forms[(match.lastindex or 1) - 1][1]
            end = match.end()
        yield end, text[end:]

    def used_in(self, texts: Iterable[str]) -> tuple[TextualInversion, ...]:
        """Those whose triggers stand in one of the texts."""
        if not self.loaded:
            return ()
        pieces = (piece for text in texts for _, piece in self.pieces(text))
        numbers = {piece.start for piece in pieces if isinstance(piece, range)}
        begins = accumulate((len(inversion.vectors) for inversion in self.loaded), initial=0)
        return tuple(one for one, begin in zip(self.loaded, begins, strict=False) if begin in numbers)

    def unnamed(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The triggers that stand in none of the texts."""
        used = {inversion.trigger for inversion in self.used_in(texts)}
        return tuple(inversion.trigger for inversion in self.loaded if inversion.trigger not in used)

    def with_loaded(self, added: Sequence[TextualInversion]) -> "TextualInversions":
        """These and more.

        Raises:
            RequestError: a trigger that is loaded already.
        """
        known = {_key(inversion.trigger) for inversion in self.loaded}
        for inversion in added:
            if _key(inversion.trigger) in known:
                raise RequestError(
                    f"the textual inversion {inversion.trigger!r} is loaded already, expected another trigger; "
                    "unload it first, or give a token"
                )
            known.add(_key(inversion.trigger))
        return TextualInversions((*self.loaded, *added))

    def without(self, triggers: str | Sequence[str]) -> "TextualInversions":
        """These but for some.

        Raises:
            RequestError: a trigger that is not loaded.
        """
        keys = {_key(trigger) for trigger in texts(triggers, "token")}
        kept = tuple(inversion for inversion in self.loaded if _key(inversion.trigger) not in keys)
        unknown = keys - {_key(inversion.trigger) for inversion in self.loaded}
        if unknown:
            known = ", ".join(repr(inversion.trigger) for inversion in self.loaded) or "none"
            raise RequestError(
                f"got token {sorted(unknown)[0]!r}, expected one that is loaded ({known}); choose one of these"
            )
        return TextualInversions(kept)


def _key(trigger: str) -> str:
    """Triggers that read the same to the tokenizer are the same."""
    return " ".join(trigger.casefold().split())


def inversions_from_paths(paths: Any, token: Any, *, tokenizer: Tokenizer, width: int) -> tuple[TextualInversion, ...]:
    """Reads embedding files.

    Args:
        paths: one file or several, or folders with diffusers' ``learned_embeds``.
        token: the trigger instead of the file's own; for several paths one each. For one path also a list: a trigger
            for each of the embeddings in it, or for each vector of its only one.
        tokenizer: the model's.
        width: the text encoder's.

    Raises:
        RequestError: a file that is missing, damaged or no textual inversion of this width, or a trigger that
            the vocabulary has already.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(given, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in given):
        raise RequestError(f"got {paths!r}, expected the path of an embedding file, or a list of paths; give one")
    files = [Path(path) for path in given]
    tokens: list[list[str]] = [[]] * len(files) if token is None else [[one] for one in texts(token, "token")]
    if len(files) == 1 and len(tokens) > 1:
        tokens = [[one for (one,) in tokens]]
    if len(tokens) != len(files):
        raise RequestError(f"got {len(tokens)} tokens for {len(files)} files, expected one text each; give as many")
    read = (_inversions(_file(path), own, tokenizer, width) for path, own in zip(files, tokens, strict=True))
    return tuple(chain.from_iterable(read))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in _LEARNED if (path / name).is_file()]
    if not found:
        raise RequestError(f"got folder {str(path)!r}, expected {' or '.join(_LEARNED)} in it; name the file")
    return found[0]


def _inversions(path: Path, tokens: Sequence[str], tokenizer: Tokenizer, width: int) -> tuple[TextualInversion, ...]:
    """The embeddings of one file under their own triggers, or under ``tokens``."""
    name = path.name
    embeddings = _embeddings(_content(path), name, width)
    vectors = [_vectors(tensor, name, width, tokenizer.room) for _, tensor in embeddings]
    if not tokens:
        own = path.parent.name if name in _LEARNED else path.stem
        names = [own if number == 1 else f"{own}-{number}" for number in range(1, len(embeddings) + 1)]
        triggers = [
            stored if stored is not None and not _stands_for_nothing(stored) else by_file
            for (stored, _), by_file in zip(embeddings, names, strict=True)
        ]
    else:
        triggers = list(tokens)
        if len(vectors) == 1 and len(triggers) > 1:
            vectors = [vector[None] for vector in vectors[0]]
        if len(triggers) != len(vectors):
            slots = sum(map(len, vectors))
            expected = f"{len(embeddings)}" if len(embeddings) > 1 else f"1, or {slots} for its vectors"
            raise RequestError(
                f"got {len(triggers)} tokens for {name!r} with {len(embeddings)} "
                f"embedding{'s' * (len(embeddings) > 1)}, expected {expected}; give as many"
            )
    checked = [_checked_trigger(trigger, path, tokenizer) for trigger in triggers]
    digest = sha256_of_file(path)
    return tuple(TextualInversion(*pair, digest) for pair in zip(checked, vectors, strict=True))


def _stands_for_nothing(trigger: str) -> bool:
    """Whether it is what trainers write where nobody gave a name: ``*``, ``<*>``, ``[*]``, ``<placeholder>``."""
    return re.sub(r"[\W_]", "", trigger).casefold() in ("", "placeholder")


def _checked_trigger(trigger: str, path: Path, tokenizer: Tokenizer) -> str:
    """A trigger that is a text and no word of the model's.

    Raises:
        RequestError: it is neither.
    """
    trigger, own = trigger.strip(), path.parent.name if path.name in _LEARNED else path.stem
    if not trigger or trigger == "<>":
        raise RequestError(f"got an empty token for {path.name!r}, expected a text such as <{own}>; give one")
    if any(tokenizer.id_of(form) is not None for form in (trigger.lower(), f"{trigger.lower()}</w>")):
        raise RequestError(
            f"{trigger!r} is in the tokenizer's vocabulary, so {path.name!r} needs another trigger; "
            f"give token='<{trigger.strip('<>|')}>', or rename the file"
        )
    return trigger


def _vectors(tensor: Any, name: str, width: int, room: int) -> Array:
    """Checked vectors (n, width) float32."""
    stored = tensor if isinstance(tensor, StoredTensor) else None
    floats = stored is not None and "float" in stored.dtype_name
    if stored is None or not floats or len(stored.shape) not in (1, 2) or 0 in stored.shape:
        got = f"{stored.shape} {stored.dtype_name}" if stored is not None else type(tensor).__name__
        raise RequestError(f"{name!r} holds {got}, expected vectors (n, {width}) of floats; choose another file")
    if stored.shape[-1] != width:
        raise RequestError(
            f"{name!r} was made for {_base(stored.shape[-1])}, expected an embedding for {_base(width)}; "
            "choose one that was trained for this model"
        )
    if len(stored.shape) == 2 and stored.shape[0] > room:
        raise RequestError(f"{name!r} has {stored.shape[0]} vectors, expected at most {room}; choose a smaller one")
    vectors = np.atleast_2d(stored.array())
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise RequestError(f"{name!r} has NaN or infinite vectors, expected finite ones; download it again")
    return vectors


def _base(width: int) -> str:
    return f"{_BASES[width]} (width {width})" if width in _BASES else f"width {width}"


def _content(path: Path) -> Any:
    """A file's tensors in their containers, whatever its name says it is; none of them is read."""
    if not path.is_file():
        missing = "is no file" if path.exists() else "does not exist"
        raise RequestError(f"{str(path)!r} {missing}, expected an embedding file; check the path")
    try:
        if path.stat().st_size == 0:
            raise RequestError(f"{path.name!r} is empty, expected an embedding file; download it again")
        return open_tensor_file(path, path.name).tree
    except TensorFileError as error:
        raise RequestError(str(error)) from error


def _embeddings(content: Any, name: str, width: int) -> list[tuple[str | None, Any]]:
    """What a file holds: the trigger that it stores for each of its embeddings, if any, and the tensor."""
    if isinstance(content, StoredTensor):
        return [(None, content)]
    if not isinstance(content, Mapping) or not content:
        raise RequestError(f"{name!r} holds no tensors, expected a textual inversion; choose another file")
    a1111 = content.get("string_to_param")
    if isinstance(a1111, Mapping) and a1111:
        stored = content.get("name")
        named = stored if isinstance(stored, str) and stored else None
        return [
            (named if named is not None and (len(a1111) == 1 or _stands_for_nothing(str(key))) else str(key), tensor)
            for key, tensor in a1111.items()
        ]
    flat = [key for key in content if str(key).startswith("string_to_param")]
    if flat or "emb_params" in content:
        return [(None, content[flat[0] if flat else "emb_params"])]
    sdxl = [content[key] for key in _SDXL if key in content]
    if sdxl:
        return [(None, next((tensor for tensor in sdxl if getattr(tensor, "shape", ())[-1:] == (width,)), sdxl[0]))]
    entries = [(str(key), tensor) for key, tensor in content.items()]
    if len(entries) == 1 and isinstance(next(iter(content)), str):
        return [*entries]
    if all(_may_be_embedding(key, tensor, width) for key, tensor in entries):
        return [*entries]
    keys = sorted(map(str, content))
    kind = "a LoRA" if any("lora" in key for key in keys) else f"{len(keys)} tensors ({', '.join(keys[:3])[:80]}, …)"
    raise RequestError(f"{name!r} holds {kind}, expected a textual inversion; choose another file")


def _may_be_embedding(key: str, tensor: Any, width: int) -> bool:
    """Whether one of several tensors in a file is one by its shape, and by its name no weight of a network."""
    shape = tensor.shape if isinstance(tensor, StoredTensor) else ()
    of_network = "lora" in key or key.rpartition(".")[2] in ("weight", "bias", "alpha")
    return len(shape) in (1, 2) and shape[-1] in (*_BASES, width) and not of_network
