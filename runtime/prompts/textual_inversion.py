"""Textual inversions: vectors that stand in a prompt for a trigger, and the files that trainers write them in."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.tokenizer import Tokenizer
from latentrt.engines.errors import RequestError
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
    """A trigger and its vectors (n, width) float32; n vectors take n token slots."""

    trigger: str
    vectors: Array


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

    def unnamed(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The triggers that stand in none of the texts."""
        named = {piece.start for text in texts for _, piece in self.pieces(text) if isinstance(piece, range)}
        begins = accumulate((len(inversion.vectors) for inversion in self.loaded), initial=0)
        return tuple(one.trigger for one, begin in zip(self.loaded, begins, strict=False) if begin not in named)

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
        token: the trigger instead of the file's own; for several paths one each.
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
    tokens = [None] * len(files) if token is None else texts(token, "token")
    if len(tokens) != len(files):
        raise RequestError(f"got {len(tokens)} tokens for {len(files)} files, expected one text each; give as many")
    return tuple(_inversion(_file(path), token, tokenizer, width) for path, token in zip(files, tokens, strict=True))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in _LEARNED if (path / name).is_file()]
    if not found:
        raise RequestError(f"got folder {str(path)!r}, expected {' or '.join(_LEARNED)} in it; name the file")
    return found[0]


def _inversion(path: Path, token: str | None, tokenizer: Tokenizer, width: int) -> TextualInversion:
    name = path.name
    stored, tensor = _tensor(_content(path), name, width)
    own = path.parent.name if path.name in _LEARNED else path.stem
    trigger = (token if token is not None else stored or own).strip()
    if not trigger or trigger == "<>":
        raise RequestError(f"got an empty token for {name!r}, expected a text such as <{own}>; give one")
    if any(tokenizer.id_of(form) is not None for form in (trigger.lower(), f"{trigger.lower()}</w>")):
        raise RequestError(
            f"{trigger!r} is in the tokenizer's vocabulary, so {name!r} needs another trigger; "
            f"give token='<{trigger.strip('<>|')}>', or rename the file"
        )
    return TextualInversion(trigger, _vectors(tensor, name, width, tokenizer.room))


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


def _tensor(content: Any, name: str, width: int) -> tuple[str | None, Any]:
    """The trigger that a file stores, if any, and its tensor."""
    if isinstance(content, StoredTensor):
        return None, content
    if not isinstance(content, Mapping) or not content:
        raise RequestError(f"{name!r} holds no tensors, expected a textual inversion; choose another file")
    a1111 = content.get("string_to_param")
    if isinstance(a1111, Mapping) and a1111:
        stored = content.get("name")
        return (stored if isinstance(stored, str) and stored else None), a1111.get("*", next(iter(a1111.values())))
    flat = [key for key in content if str(key).startswith("string_to_param")]
    if flat or "emb_params" in content:
        return None, content[flat[0] if flat else "emb_params"]
    sdxl = [content[key] for key in _SDXL if key in content]
    if sdxl:
        return None, next((tensor for tensor in sdxl if getattr(tensor, "shape", ())[-1:] == (width,)), sdxl[0])
    if len(content) == 1 and isinstance(next(iter(content)), str):
        return next(iter(content.items()))
    keys = sorted(map(str, content))
    kind = "a LoRA" if any("lora" in key for key in keys) else f"{len(keys)} tensors ({', '.join(keys[:3])[:80]}, …)"
    raise RequestError(f"{name!r} holds {kind}, expected a textual inversion; choose another file")
