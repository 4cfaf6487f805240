"""Several prompts in one, as AUTOMATIC1111's web UI writes them: ``a cat :1.2 AND a dog AND a penguin :2.2``.

The prediction is u + Σ wᵢ · s · (cᵢ − u) for the predictions cᵢ of the prompts, u of the negative prompt, the weights
wᵢ and the guidance scale s (Liu et al., "Compositional Visual Generation with Composable Diffusion Models",
arXiv 2206.01714).
"""

import re
from math import isfinite

from latentrt.engines.errors import RequestError
from latentrt.runtime.prompts.parts import PromptPart
from latentrt.runtime.prompts.syntax.lora_tags import lora_tags
from latentrt.runtime.prompts.syntax.tree import without_loras

_MOST_PROMPTS = 32  # each costs a sample of every model call
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))")


def prompts_from_a1111(text: str) -> tuple[PromptPart, ...]:
    """The prompts that AND joins, with their weights and without tags of LoRAs; one that stands alone as it is written.

    AND counts wherever it stands as a word, inside of brackets, too. A weight is a colon and a number at the end of a
    prompt, also of one alone (``a cat :1.2``). So A1111 reads them.

    Raises:
        RequestError: more than 32 prompts, a weight that is not finite, or a malformed tag.
    """
    written = _AND.split(without_loras(text, lora_tags(text)))
    if len(written) > _MOST_PROMPTS:
        raise RequestError(
            f"got {len(written)} prompts joined by AND, expected {_MOST_PROMPTS} at most; write and for the word itself"
        )
    prompts = tuple(map(_weighted, written))
    return (PromptPart(text=text),) if [prompt.text for prompt in prompts] == [written[0].rstrip()] else prompts


def _weighted(prompt: str) -> PromptPart:
    prompt = prompt.rstrip()
    text, colon, written = prompt.rpartition(":")
    number = _WEIGHT.fullmatch(written) if colon else None
    if number is None:
        return PromptPart(text=prompt)
    weight = float(number.group(1))
    if not isfinite(weight):
        raise RequestError(f"got weight {written.strip()[:12]}… of a prompt, expected a finite number; lower it")
    return PromptPart(text=text.rstrip(), weight=weight)
