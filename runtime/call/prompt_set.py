"""The prompts of a call: texts for every text encoder, parsed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.records.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.options import PromptKeywords
from latentrt.runtime.checks import texts, texts_for, whole
from latentrt.runtime.prompts.encoder import Prompts
from latentrt.runtime.prompts.style import (
    PromptOptions,
    PromptSyntax,
    parsed_prompts,
    prompt_options_from_arguments,
)
from latentrt.runtime.prompts.tree import Prompt


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The texts of N pictures for each text encoder, how to read them, and the tree of every text."""

    of_encoders: tuple[Prompts, ...]
    options: PromptOptions
    trees: Mapping[str, Prompt]

    @property
    def count(self) -> int:
        """N."""
        return len(self.of_encoders[0].positives)

    def metadata(self, index: int) -> dict[str, Any]:
        """What a picture's metadata say of its prompts."""
        first, *others = self.of_encoders
        # A second text encoder that reads the same needs no mention
        second = None if not others or others[-1] == first else others[-1]
        return {
            "prompt": first.positives[index],
            "negative_prompt": None if first.negatives is None else first.negatives[index],
            "prompt_2": None if second is None else second.positives[index],
            "negative_prompt_2": None if second is None or not second.negatives else second.negatives[index],
            "clip_skip": self.options.clip_skip,
            "prompt_syntax": self.options.syntax.value,
        }


def prompt_set_from_keywords(manifest: BundleManifest, prompt: Any, keywords: PromptKeywords) -> PromptSet:
    """Checks and parses the prompts.

    Raises:
        RequestError: none, malformed ones, or a keyword that the model does not take.
    """
    prompts = texts(prompt, "prompt")
    repeats = whole(keywords.get("num_images_per_prompt", 1), "num_images_per_prompt")
    if not prompts or repeats < 1:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    clip_skip = keywords.get("clip_skip")
    options = prompt_options_from_arguments(
        keywords.get("prompt_syntax", PromptSyntax.PLAIN),
        keywords.get("long_prompt"),
        None if clip_skip is None else whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    of_encoders = _of_encoders(manifest, prompts, keywords)
    every = [text for one in of_encoders for text in (*one.positives, *(one.negatives or ()))]
    return PromptSet(
        of_encoders=tuple(one.repeated(repeats) for one in of_encoders),
        options=options,
        trees=parsed_prompts(every, options),
    )


def _of_encoders(manifest: BundleManifest, prompts: list[str], keywords: PromptKeywords) -> tuple[Prompts, ...]:
    """What each text encoder reads, one text per prompt.

    Negatives are None where the model wants zeros instead of an empty prompt that nobody gave.
    """
    second = [name for name in ("prompt_2", "negative_prompt_2") if name in keywords]
    encoders = len(manifest.conditioning.text_encoders)
    if second and encoders == 1:
        raise RequestError(f"got {' and '.join(second)} with a model that has one text encoder; leave it out")
    if "negative_prompt_2" in keywords and "negative_prompt" not in keywords:
        raise RequestError("got negative_prompt_2 alone, expected negative_prompt, too; give it, if only ''")
    if manifest.guidance_embedding and (keywords.get("negative_prompt") or keywords.get("negative_prompt_2")):
        raise RequestError(
            "got a negative prompt with a model that has its guidance built in and knows none; leave it out"
        )
    against: list[str] | None = None
    if "negative_prompt" in keywords or not manifest.conditioning.zero_empty_negative:
        against = texts_for(keywords.get("negative_prompt", ""), len(prompts), "negative_prompt")
    first = Prompts(positives=prompts, negatives=against)
    if encoders == 1:
        return (first,)
    # An empty second prompt is none, as in diffusers
    positives = texts_for(keywords.get("prompt_2") or "", len(prompts), "prompt_2")
    negatives = (
        None
        if against is None
        else texts_for(keywords.get("negative_prompt_2") or "", len(prompts), "negative_prompt_2")
    )
    other = Prompts(
        positives=[own or text for own, text in zip(positives, prompts, strict=True)],
        negatives=None
        if against is None
        else [own or text for own, text in zip(negatives or (), against, strict=True)],
    )
    return (first, *[other] * (encoders - 1))
