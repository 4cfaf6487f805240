"""Which texts the passes of a run read: of every picture, for every text encoder, at every step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.guider import NEGATIVE, Pass, Side
from latentrt.runtime.prompts.encoder import Prompts
from latentrt.runtime.prompts.parts import PromptPart, StepCount
from latentrt.runtime.prompts.style import Style

Texts = tuple[str, ...]
"""One text for each text encoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPlan:
    """What N pictures' passes read over a run of S steps.

    Attributes:
        texts: of each side, every one once. A side that was encoded before, or has zeros, has none.
        of_step: which of its side's texts a pass reads: (S, N), or (1, N) where no prompt of it changes.
        weights: how much each positive pass counts, (N, 1, 1, 1) float32.
        areas: where each positive pass counts: 0 is the picture, and the regions follow.
    """

    texts: Mapping[Side, Sequence[Texts]]
    of_step: Mapping[Pass, Array]
    weights: tuple[Array, ...]
    areas: tuple[int, ...] = ()

    def of_picture(self, index: int) -> Iterator[str]:
        """The texts of one picture, each once."""
        found = {
            text: None
            for which, places in self.of_step.items()
            for place in dict.fromkeys(places[:, index].tolist())
            for text in self.texts[which.side][place]
        }
        return iter(found)

    def of_encoder(self, side: Side, index: int) -> Sequence[str]:
        """What a text encoder reads of a side."""
        return [texts[index] for texts in self.texts.get(side, ())]


def prompt_plan(
    of_encoders: Sequence[Prompts], style: Style, steps: StepCount, regions: Sequence[Sequence[Prompts]] = ()
) -> PromptPlan:
    """Takes the pictures' prompts apart.

    A picture of fewer prompts than another repeats its last one, which counts nothing.

    Args:
        of_encoders: as they were written, for every text encoder; sides that were encoded before are empty or None.
        style: how they are read.
        steps: of the run.
        regions: the prompts of each region, likewise, without negatives.

    Raises:
        RequestError: a prompt that is malformed, or one that is composed of another number of prompts for one text
            encoder than for another.
    """
    texts: dict[Side, Sequence[Texts]] = {}
    of_step: dict[Pass, Array] = {}
    weights: list[Array] = []
    areas: list[int] = []
    if of_encoders[0].positives:
        table = _Table(style, steps)
        for area, of_area in enumerate((of_encoders, *regions)):
            pictures = [_parts(written, style) for written in zip(*(one.positives for one in of_area), strict=True)]
            for prompt in range(max(map(len, pictures))):
                places = table.places([parts[min(prompt, len(parts) - 1)] for parts in pictures])
                of_step[Pass(Side.POSITIVE, len(areas))] = places
                of_each = [parts[prompt][0].weight if prompt < len(parts) else 0.0 for parts in pictures]
                weights.append(np.array(of_each, np.float32).reshape(-1, 1, 1, 1))
                areas.append(area)
        texts[Side.POSITIVE] = table.texts
    if of_encoders[0].negatives is not None:
        table = _Table(style, steps)
        against = zip(*(one.negatives or () for one in of_encoders), strict=True)
        of_step[NEGATIVE] = table.places([[PromptPart(text=text) for text in written] for written in against])
        texts[Side.NEGATIVE] = table.texts
    return PromptPlan(texts=texts, of_step=of_step, weights=tuple(weights), areas=tuple(areas))


def is_composed(weights: Sequence[Array]) -> bool:
    """Whether a picture has several prompts, or one that does not count wholly, by the weights of a plan."""
    return len(weights) > 1 or any(np.any(weight != 1.0) for weight in weights)


def _parts(written: Texts, style: Style) -> Sequence[Sequence[PromptPart]]:
    """The prompts that one picture is composed of, each as what every text encoder reads.

    The first encoder's weights count. An encoder that is given one prompt alone reads it in all of them.
    """
    of_each = [style.parts(text) for text in written]
    most = max(map(len, of_each))
    for parts in of_each:
        if len(parts) not in (1, most):
            raise RequestError(
                f"got prompt and prompt_2 composed of {len(of_each[0])} and {len(of_each[-1])} prompts, expected "
                "equally many; join as many with AND, or leave prompt_2 out"
            )
    if len(of_each[0]) < most:
        raise RequestError(
            f"got prompt_2 composed of {most} prompts and prompt of one, expected equally many; join as many with AND"
        )
    return list(zip(*(parts * most if len(parts) < most else parts for parts in of_each), strict=True))


class _Table:
    """The texts of a side, each once."""

    def __init__(self, style: Style, steps: StepCount) -> None:
        self._style, self._steps = style, steps
        self._places: dict[Texts, int] = {}

    @property
    def texts(self) -> Sequence[Texts]:
        return tuple(self._places)

    def places(self, pictures: Sequence[Sequence[PromptPart]]) -> Array:
        """Where the texts of each picture are, (S or 1, N)."""
        rows = []
        for parts in pictures:
            at_steps = [self._style.at_steps(part.text, self._steps) for part in parts]
            length = max(map(len, at_steps))
            texts = zip(*(one * length if len(one) < length else one for one in at_steps), strict=True)
            rows.append([self._places.setdefault(text, len(self._places)) for text in texts])
        length = max(map(len, rows))
        return np.array([row * length if len(row) < length else row for row in rows]).T
