"""Several prompts in one, as AUTOMATIC1111's web UI writes them: ``a cat :1.2 AND a dog AND a penguin :2.2``.

The prediction is u + Σ wᵢ · s · (cᵢ − u) for the predictions cᵢ of the prompts, u of the negative prompt, the weights
wᵢ and the guidance scale s (Liu et al., "Compositional Visual Generation with Composable Diffusion Models",
arXiv 2206.01714).
"""

import re
from math import isfinite

from latentrt.engines.errors import RequestError

_MOST_PROMPTS = 32  # each costs a sample of every model call
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))")


def composed_prompts(text: str) -> tuple[tuple[float, str], ...]:
    """The prompts that AND joins, each behind its weight.

    AND counts wherever it stands as a word, inside of brackets, too. A weight is a colon and a number at the end of a
    prompt, also of one alone (``a cat :1.2``). So A1111 reads them.

    Raises:
        RequestError: more than 32 prompts, or a weight that is not finite.
    """
    written = _AND.split(text)
    if len(written) > _MOST_PROMPTS:
        raise RequestError(
            f"got {len(written)} prompts joined by AND, expected {_MOST_PROMPTS} at most; write and for the word itself"
        )
    return tuple(map(_weighted, written))


def _weighted(prompt: str) -> tuple[float, str]:
    prompt = prompt.rstrip()
    text, colon, written = prompt.rpartition(":")
    number = _WEIGHT.fullmatch(written) if colon else None
    if number is None:
        return 1.0, prompt
    weight = float(number.group(1))
    if not isfinite(weight):
        raise RequestError(f"got weight {written.strip()[:12]}… of a prompt, expected a finite number; lower it")
    return weight, text.rstrip()
