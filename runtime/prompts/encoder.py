"""Prompts to conditioning: parsed, cut into chunks, encoded, weighted, and put together again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from latentrt.engines.batches import batch_results
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.checks import warn_caller
from latentrt.runtime.prompts.chunks import Framed, Token, framed
from latentrt.runtime.prompts.style import STYLES, LongPrompt, PromptOptions, Style
from latentrt.runtime.prompts.syntax.tree import EMPTY, Blend, Fragment, Prompt, Text, without_loras
from latentrt.runtime.prompts.text_encoder import TextEncoder


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the text encoder reads; the warning quotes what was left out."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The texts of N pictures for one text encoder; ``negatives`` is None where there is nothing to encode."""

    positives: Sequence[str]
    negatives: Sequence[str] | None

    def repeated(self, times: int) -> "Prompts":
        """Every text so many times in turn."""
        positives, negatives = (
            None if side is None else [text for text in side for _ in range(times)]
            for side in (self.positives, self.negatives)
        )
        return Prompts(positives=positives or [], negatives=negatives)


@dataclass(frozen=True)
class _Read:
    """A text, framed, and the end of it that was left out."""

    framed: Framed
    lost: str


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """N prompts as one text encoder has them: states (N, L · k, width) of k chunks, pooled (N, projection) or None."""

    states: Array
    pooled: Array | None
    chunks: int


@dataclass(frozen=True)
class _Outputs:
    """What the engine says of one chunk: states (layers, L, width) and pooled (projection,) or None."""

    states: Array
    pooled: Array | None


_Rows = dict[tuple[bytes, bytes], _Outputs]


class PromptEncoder:
    """A text encoder and its engine. Belongs to one call."""

    def __init__(self, encoder: TextEncoder, engine: Engine) -> None:
        self._encoder = encoder
        self._tokenizer, self._embeddings = encoder.tokenizer, encoder.embeddings
        self._inversions = encoder.inversions
        self._engine = engine

    def encode(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] | None,
        options: PromptOptions,
        parsed: Mapping[str, Prompt],
        *,
        chunks: int = 1,
    ) -> tuple[Encoded, Encoded | None]:
        """Conditioning of prompts and negative prompts; equal texts are encoded once.

        Args:
            prompts: N texts.
            negatives: N texts, or None where there are none.
            options: how to read them; ``clip_skip`` concerns the prompts alone.
            parsed: the tree of every text.
            chunks: as many at least.

        Returns:
            Both sides, of equally many chunks; the second is None without negatives. Shorter ones are filled up with
            the empty prompt.

        Raises:
            RequestError: weights so large that the result is not finite.
        """
        style = STYLES[options.syntax]
        trees = {prompt: parsed[prompt] for prompt in dict.fromkeys([*prompts, *(negatives or ())])}
        texts = dict.fromkeys(chain.from_iterable(tree.texts for tree in trees.values()))
        with np.errstate(over="ignore"):  # of weights beyond float32; the result is checked below
            read = {text: self._read(text, style, options.long_prompt) for text in texts}
        for text in read.values():
            if text.lost:
                warn_caller(
                    f"the prompt is longer than {self._tokenizer.room} tokens; left out: {text.lost!r}",
                    PromptTruncatedWarning,
                )
        framed = {text: r.framed for text, r in read.items()}
        if len({chunks, *(len(text.ids) for text in framed.values())}) > 1 or not all(
            map(_is_one_text, trees.values())
        ):
            framed.setdefault(EMPTY, self._read(EMPTY, style, options.long_prompt).framed)
        pooled = self._pooled_ids(trees, framed, style)
        rows = self._rows(list(framed.values()), list(pooled.values()), style, (-1 - options.clip_skip, -1))
        with np.errstate(over="ignore", invalid="ignore"):
            sides = []
            for layer, texts_of_side in enumerate((prompts, negatives or ())):
                wanted = dict.fromkeys(chain.from_iterable(trees[prompt].texts for prompt in texts_of_side)) | {
                    EMPTY: None
                }
                weighted = {text: self._weighted(framed[text], style, rows, layer) for text in wanted if text in framed}
                sides.append(([_combined(trees[prompt], weighted) for prompt in texts_of_side], weighted))
        most = max(chunks * self._tokenizer.length, *(len(one) for side, _ in sides for one in side))
        encoded = []
        for (side, weighted), wished in zip(sides, (prompts, negatives or ()), strict=True):
            if side:
                vectors = [rows[_key(pooled[prompt])].pooled for prompt in wished if prompt in pooled]
                encoded.append(
                    Encoded(
                        states=np.stack([_filled(one, weighted, most) for one in side]),
                        pooled=np.stack([vector for vector in vectors if vector is not None]) if vectors else None,
                        chunks=most // self._tokenizer.length,
                    )
                )
        if not all(np.isfinite(side.states).all() for side in encoded):
            raise RequestError("the prompt's weights give no finite conditioning, expected weights near 1; lower them")
        return encoded[0], encoded[1] if negatives else None

    def _pooled_ids(self, trees: Mapping[str, Prompt], framed: Mapping[Text, Framed], style: Style) -> dict[str, Array]:
        """The chunk (L,) that each prompt's pooled vector is taken from; none where the encoder has none."""
        if not self._encoder.record.pooled:
            return {}
        if style.pooled is not None:
            return {prompt: framed[style.pooled(tree)].ids[0] for prompt, tree in trees.items()}
        typed = {
            prompt: Text(fragments=(Fragment(text=without_loras(prompt, tree.loras)),))
            for prompt, tree in trees.items()
        }
        return {prompt: self._read(text, style, LongPrompt.TRUNCATE).framed.ids[0] for prompt, text in typed.items()}

    def _read(self, text: Text, style: Style, long_prompt: LongPrompt) -> _Read:
        tokens = list(self._tokens(text))
        room, lost = self._tokenizer.room, ""
        if long_prompt is LongPrompt.CHUNK:
            ends = style.ends(tokens, self._tokenizer)
        else:
            ends = [min(len(tokens), room)]
            if len(tokens) > room:
                first, *others = text.fragments[tokens[room].fragment :]
                lost = " ".join([first.text[tokens[room].begin :], *(other.text for other in others)]).strip()
        weights = [fragment.weight for fragment in text.fragments]
        return _Read(framed(tokens, ends, weights, self._tokenizer), lost)

    def _tokens(self, text: Text) -> list[Token]:
        """All tokens; the vectors of textual inversions are numbered behind the vocabulary."""
        tokens = []
        for number, fragment in enumerate(text.fragments):
            for begin, piece in self._inversions.pieces(fragment.text):
                if isinstance(piece, str):
                    found = self._tokenizer.tokens(piece)
                    tokens += [Token(id, number, begin + at) for id, at in zip(found.ids, found.begins, strict=True)]
                else:
                    slots = [self._embeddings.rows + vector for vector in piece]
                    tokens += [Token(id, number, begin, joined=i > 0) for i, id in enumerate(slots)]
        return tokens

    def _rows(self, texts: Sequence[Framed], more: Sequence[Array], style: Style, layers: Sequence[int]) -> _Rows:
        """What the engine says of every chunk under every mask, and of more chunks (L,) without one."""
        rows = {}
        for text in texts:
            for mask in [np.ones_like(text.ids), *style.masks(text)]:
                for ids, seen in zip(text.ids, mask, strict=True):
                    rows[_key(ids, seen)] = (ids, seen)
        rows |= {_key(ids): (ids, np.ones_like(ids)) for ids in more}
        ids, masks = (np.stack(column) for column in zip(*rows.values(), strict=True))
        inputs = {"inputs_embeds": self._vectors(ids), "attention_mask": masks}
        if self._encoder.record.pooled:
            inputs["end_position"] = self._tokenizer.end_positions(ids)
        found: list[_Outputs] = []
        for outputs in batch_results(self._engine, inputs):
            states, pooled = outputs["hidden_states"][:, list(layers)], outputs.get("text_embeds")
            found += [_Outputs(one, None if pooled is None else pooled[i]) for i, one in enumerate(states)]
        return dict(zip(rows, found, strict=True))

    def _vectors(self, ids: Array) -> Array:
        known = ids < self._embeddings.rows
        if known.all():
            return self._embeddings.vectors(ids)
        vectors = np.empty((*ids.shape, self._embeddings.width), np.float32)
        vectors[known] = self._embeddings.vectors(ids[known])
        vectors[~known] = self._inversions.vectors[ids[~known] - self._embeddings.rows]
        return vectors

    def _weighted(self, text: Framed, style: Style, rows: _Rows, layer: int) -> Array:
        """Conditioning (L · k, width) of one text from the states of one layer."""
        of_text = [
            np.stack([rows[_key(ids, seen)].states[layer] for ids, seen in zip(text.ids, mask, strict=True)])
            for mask in [np.ones_like(text.ids), *style.masks(text)]
        ]
        empty = rows.get(_key(self._tokenizer.framed([])))
        # Where nothing is weighted the empty prompt is not encoded, and any state will do
        weighted = style.weighted(text, of_text, of_text[0][0] if empty is None else empty.states[layer])
        return weighted.reshape(-1, weighted.shape[-1])


def _key(ids: Array, seen: Array | None = None) -> tuple[bytes, bytes]:
    """A chunk under a mask; None: without one."""
    return ids.tobytes(), (np.ones_like(ids) if seen is None else seen).tobytes()


def _is_one_text(prompt: Prompt) -> bool:
    """Whether nothing is weighted or combined."""
    return prompt.weights == (1.0,) and all(
        isinstance(part, Text) and all(fragment.weight == 1.0 for fragment in part.fragments) for part in prompt.parts
    )


def _filled(conditioning: Array, conditionings: dict[Text, Array], length: int) -> Array:
    """A conditioning filled up to a length with the empty prompt."""
    if len(conditioning) == length:
        return conditioning
    empty = conditionings[EMPTY]
    return np.concatenate([conditioning, *[empty] * ((length - len(conditioning)) // len(empty))])


def _combined(prompt: Prompt, conditionings: dict[Text, Array]) -> Array:
    """Conditioning (L · k, width) of a prompt from that of its texts."""
    parts = []
    for part, weight in zip(prompt.parts, prompt.weights, strict=True):
        if isinstance(part, Blend):
            members = [conditionings[text] for text in part.texts]
            most = max(map(len, members))
            conditioning = np.sum(
                [np.float32(w) * _filled(m, conditionings, most) for w, m in zip(part.weights, members, strict=True)],
                axis=0,
            )
        else:
            conditioning = conditionings[part]
        if weight != 1.0:
            base = _filled(conditionings[EMPTY], conditionings, len(conditioning))
            conditioning = base + (conditioning - base) * np.float32(weight)
        parts.append(conditioning)
    return np.concatenate(parts)
