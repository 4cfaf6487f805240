"""Prompts, as the states and pooled vectors of all text encoders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import UnetCall
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE, Pass, Side
from latentrt.runtime.denoiser.steps import step_at
from latentrt.runtime.prompts.encoder import Encoded, PromptEncoder
from latentrt.runtime.prompts.plan import PromptPlan
from latentrt.runtime.prompts.style import PromptOptions
from latentrt.runtime.prompts.syntax.tree import Prompt
from latentrt.runtime.sampling.schedule import Level

STATES, POOLED = "encoder_hidden_states", "text_embeds"  # the U-Net's inputs
EMBEDS: Mapping[str, tuple[Pass, str]] = {
    "prompt_embeds": (POSITIVE, STATES),
    "negative_prompt_embeds": (NEGATIVE, STATES),
    "pooled_prompt_embeds": (POSITIVE, POOLED),
    "negative_pooled_prompt_embeds": (NEGATIVE, POOLED),
}
"""diffusers' names of encoded prompts, by pass and by input of the U-Net. Of prompts that are composed, the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PassText:
    """What one pass is told over a run.

    Attributes:
        inputs: (T, …) by name, of T texts.
        of_step: which of them each picture is told at each step, (S, N), or (1, N) where nothing changes.
    """

    inputs: Mapping[str, Array]
    of_step: Array

    def rows(self, step: int = 0) -> dict[str, Array]:
        """(N, …) by name, of one step."""
        places = self.of_step[min(step, len(self.of_step) - 1)]
        return {name: array[places] for name, array in self.inputs.items()}

    def with_rows(self, name: str, rows: Array) -> "PassText":
        """The same with other rows (N, …) of one input at every step; what it is told beside them goes on as it was."""
        pictures = np.broadcast_to(np.arange(len(rows)), self.of_step.shape)
        both = np.stack([self.of_step.ravel(), pictures.ravel()])
        (texts, changed), of_step = np.unique(both, axis=1, return_inverse=True)
        kept = {other: array[texts] for other, array in self.inputs.items()}
        return PassText(inputs={**kept, name: rows[changed]}, of_step=of_step.reshape(self.of_step.shape))


def fixed_text(rows: Mapping[str, Array]) -> PassText:
    """A pass that is told the same at every step: (N, …) by name."""
    count = len(next(iter(rows.values())))
    return PassText(inputs=rows, of_step=np.arange(count)[None])


@dataclass(frozen=True, kw_only=True, eq=False)
class TextCondition:
    """The prompts of a run. A pass may be missing where no step makes it.

    Attributes:
        of_pass: what each pass is told.
        ratios: the noise-to-signal ratios of the run's steps, descending; none where nothing changes.
        chunks: of how many chunks the longest prompt is.
    """

    of_pass: Mapping[Pass, PassText]
    chunks: int
    ratios: tuple[float, ...] = ()

    def rows(self, which: Pass, level: Level | None = None) -> dict[str, Array]:
        """What a pass is told, (N, …) by name: at a level, or at the first step."""
        which = which.reads
        return self.of_pass[which].rows(self._step(level)) if which in self.of_pass else {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """All of it, where no pass changes."""
        if self._changes:
            return {}
        rows = [self.rows(which) for which in passes]
        return {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The texts of the level's step, where a pass changes."""
        if not self._changes:
            return {}
        step = self._step(call.level)
        texts = [self.of_pass[which.reads] for which in call.pass_of_each]
        places = [
            text.of_step[min(step, len(text.of_step) - 1), picture]
            for text, picture in zip(texts, call.picture_of_each, strict=True)
        ]
        return {
            name: np.stack([text.inputs[name][place] for text, place in zip(texts, places, strict=True)])
            for name in texts[0].inputs
        }

    @property
    def _changes(self) -> bool:
        return any(len(text.of_step) > 1 for text in self.of_pass.values())

    def _step(self, level: Level | None) -> int:
        return 0 if level is None or not self.ratios else step_at(self.ratios, level)


def text_condition(
    encoders: Iterable[PromptEncoder],
    plan: PromptPlan,
    options: PromptOptions,
    parsed: Mapping[str, Prompt],
    *,
    guides: bool,
    ratios: tuple[float, ...] = (),
    given: TextCondition | None = None,
) -> TextCondition:
    """Encodes the prompts with every text encoder, each text once.

    Args:
        encoders: in the order in which their states lie side by side; taken where there is a text to encode.
        plan: which texts the passes read.
        options: how to read them.
        parsed: the tree of every text.
        guides: whether any step has a negative pass; what that sees is zeros where the prompts have no negatives.
        ratios: the noise-to-signal ratios of the run's steps, for prompts that change.
        given: the sides that were encoded before, which have no texts.

    Raises:
        RequestError: weights so large that the result is not finite, or texts of more chunks than what was given.
    """
    of_pass = {} if given is None else dict(given.of_pass)
    guides = guides and NEGATIVE not in of_pass
    least = 1 if given is None else given.chunks
    sides = [Side.POSITIVE] if Side.POSITIVE in plan.texts else []
    if guides and Side.NEGATIVE in plan.texts:
        sides.append(Side.NEGATIVE)
    if sides == [Side.NEGATIVE]:
        options = replace(options, clip_skip=0)  # which concerns prompts alone
    encoded = _encoded(encoders if sides else (), sides, plan, options, parsed, least)
    chunks = encoded[0][0].chunks if encoded else least
    if given is not None and chunks > least:
        length = encoded[0][0].states.shape[1]
        raise RequestError(
            f"got embeds of {length * least // chunks} tokens and texts of {length}, expected equally many; encode "
            "both with one pipe.encode, or shorten the text"
        )
    of_side = {side: _inputs([one[index] for one in encoded]) for index, side in enumerate(sides)}
    of_pass |= {
        which: PassText(inputs=of_side[which.side], of_step=places)
        for which, places in plan.of_step.items()
        if which.side in of_side
    }
    if guides and NEGATIVE not in of_pass:
        positive = of_pass[POSITIVE].rows()
        of_pass[NEGATIVE] = fixed_text({name: np.zeros_like(array) for name, array in positive.items()})
    return TextCondition(of_pass=of_pass, chunks=chunks, ratios=ratios)


def _encoded(
    encoders: Iterable[PromptEncoder],
    sides: Sequence[Side],
    plan: PromptPlan,
    options: PromptOptions,
    parsed: Mapping[str, Prompt],
    least: int,
) -> list[list[Encoded]]:
    """What every encoder makes of the texts of some sides, of equally many chunks, ``least`` or more."""
    encoders = list(encoders)

    def texts(least: int) -> list[list[Encoded]]:
        made = []
        for index, encoder in enumerate(encoders):
            first, *second = [plan.of_encoder(side, index) for side in sides]
            both = encoder.encode(first, second[0] if second else None, options, parsed, chunks=least)
            made.append([one for one in both if one is not None])
        return made

    encoded = texts(least)
    chunks = max((first.chunks for first, *_ in encoded), default=least)
    return encoded if all(first.chunks == chunks for first, *_ in encoded) else texts(chunks)


def _inputs(encoded: Sequence[Encoded]) -> Mapping[str, Array]:
    """States side by side, and the pooled vector of the encoder that has one."""
    pooled = [one.pooled for one in encoded if one.pooled is not None]
    states = np.concatenate([one.states for one in encoded], axis=-1)
    return {STATES: states, **({POOLED: pooled[0]} if pooled else {})}
