"""The texts that the keywords give to each text encoder."""

from typing import Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.checks import texts, texts_for
from latentrt.runtime.prompts.encoder import Prompts


def prompts_from_keywords(prompt: Any, keywords: Options) -> list[str]:
    """The prompts, one text or several; none where they are encoded.

    Raises:
        RequestError: no prompt, a side that is both text and embeddings, or a keyword that reads texts where there are
            none.
    """
    if prompt is None and "prompt_embeds" not in keywords:
        raise RequestError("got no prompt, expected a text or prompt_embeds; give one of them")
    reads = ("prompt_2", "clip_skip") if prompt is None else ()
    if prompt is None and not keywords.get("negative_prompt"):
        reads = (*reads, "prompt_syntax", "long_prompt")
    beside = [name for name in reads if name in keywords]
    if prompt is not None and "prompt_embeds" in keywords:
        beside.append("prompt")
    if beside:
        raise RequestError(
            f"got {' and '.join(beside)} with prompt_embeds, which are encoded already; leave it out, or give it to "
            "pipe.encode"
        )
    beside = [name for name in ("negative_prompt", "negative_prompt_2") if name in keywords]
    if beside and "negative_prompt_embeds" in keywords:
        raise RequestError(
            f"got {' and '.join(beside)} with negative_prompt_embeds, which are encoded already; leave one out"
        )
    return [] if prompt is None else texts(prompt, "prompt")


def texts_of_encoders(
    manifest: BundleManifest, prompts: list[str], keywords: Options, count: int
) -> tuple[Prompts, ...]:
    """What each text encoder reads, one text per prompt.

    Args:
        manifest: the bundle's.
        prompts: none where they are encoded already.
        keywords: those that were set.
        count: how many prompts there are, of texts or encoded.

    Returns:
        Negatives are None where the model wants zeros instead of an empty prompt that nobody gave, and where they are
        encoded already.

    Raises:
        RequestError: what the model does not take, or another number of texts than of prompts.
    """
    second = [name for name in ("prompt_2", "negative_prompt_2") if name in keywords]
    encoders = len(manifest.conditioning.text_encoders)
    if second and encoders == 1:
        raise RequestError(f"got {' and '.join(second)} with a model that has one text encoder; leave it out")
    if "negative_prompt_2" in keywords and "negative_prompt" not in keywords:
        raise RequestError("got negative_prompt_2 alone, expected negative_prompt, too; give it, if only ''")
    negative = keywords.get("negative_prompt") or keywords.get("negative_prompt_2")
    if manifest.guidance_embedding and (negative or "negative_prompt_embeds" in keywords):
        raise RequestError(
            "got a negative prompt with a model that has its guidance built in and knows none; leave it out"
        )
    against: list[str] | None = None
    encoded = "negative_prompt_embeds" in keywords
    if "negative_prompt" in keywords or not (encoded or manifest.conditioning.zero_empty_negative):
        against = texts_for(keywords.get("negative_prompt", ""), count, "negative_prompt")
    first = Prompts(positives=prompts, negatives=against)
    if encoders == 1:
        return (first,)
    # An empty second prompt is none, as in diffusers
    positives = texts_for(keywords.get("prompt_2") or "", len(prompts), "prompt_2")
    negatives = (
        None if against is None else texts_for(keywords.get("negative_prompt_2") or "", count, "negative_prompt_2")
    )
    other = Prompts(
        positives=[own or text for own, text in zip(positives, prompts, strict=True)],
        negatives=None
        if against is None
        else [own or text for own, text in zip(negatives or (), against, strict=True)],
    )
    return (first, *[other] * (encoders - 1))
