"""The prompts of a call: texts for every text encoder, parsed once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.options import Embeds, Options
from latentrt.runtime.call.prompts.checks import check_loras, warn_of_syntax
from latentrt.runtime.call.prompts.texts import prompts_from_keywords, texts_of_encoders
from latentrt.runtime.checks import seeds_for, whole
from latentrt.runtime.denoiser.conditions.text import TextCondition
from latentrt.runtime.denoiser.guider import POSITIVE
from latentrt.runtime.prompts.encoder import Prompts
from latentrt.runtime.prompts.parts import ONE_STEP, StepCount
from latentrt.runtime.prompts.plan import PromptPlan, is_composed, prompt_plan
from latentrt.runtime.prompts.style import (
    STYLES,
    PromptOptions,
    PromptSyntax,
    parsed_prompts,
    prompt_options_from_arguments,
)
from latentrt.runtime.prompts.syntax.tree import LoraTag, Prompt
from latentrt.runtime.prompts.textual_inversion import TextualInversions

if TYPE_CHECKING:
    from latentrt.runtime.call.prompts.regions import CallRegions
    from latentrt.runtime.pictures.crop import Crop

_SHORT_HASH = 12  # digits of an embedding's SHA-256, as in A1111


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of N pictures for each text encoder, as they were written and as they are read.

    Attributes:
        count: N.
        of_encoders: as they were written.
        options: how to read them.
        plan: the texts that every pass reads.
        trees: of every text of the plan.
        tags: the LoRAs that every prompt asks for.
        given: the sides that were encoded before, under the names in ``embeds``; they have no texts.
        templates: what was written where the prompts are what wildcards became; empty: nothing was chosen.
        seeds: those that chose, as ``Sampling`` has them.
        regions: parts of the pictures with prompts of their own, which belong to the plan; None: there are none.
    """

    count: int
    of_encoders: tuple[Prompts, ...]
    options: PromptOptions
    plan: PromptPlan
    trees: Mapping[str, Prompt]
    tags: Mapping[str, tuple[LoraTag, ...]]
    given: TextCondition | None = None
    embeds: tuple[str, ...] = ()
    templates: tuple[Prompts, ...] = ()
    seeds: int | tuple[int, ...] | None = None
    regions: "CallRegions | None" = None

    def over(self, steps: StepCount) -> "PromptSet":
        """These, read for a run of so many steps.

        Raises:
            RequestError: a text that is malformed at one of them.
        """
        plan, trees = _read(self.of_encoders, self.options, steps, self.trees, self.regions)
        return replace(self, plan=plan, trees=trees)

    def weights(self, space: LatentSpace, profile: Profile, crops: "Sequence[Crop]" = ()) -> tuple[Array, ...]:
        """How much each positive pass counts, and where: (N or 1, 1, h or 1, w or 1) float32.

        Args:
            space: of the latents.
            profile: of the pictures.
            crops: which parts of their pictures they are, where those are cropped: one for all, or one for each.

        Raises:
            RequestError: a mask in other proportions than the picture that is cropped.
        """
        return self.plan.weights if self.regions is None else self.regions.weights(self.plan, space, profile, crops)

    def check_fixed(self) -> None:
        """Refuses what embeddings cannot say.

        Raises:
            RequestError: a prompt that changes with the steps, or is composed of several.
        """
        style = STYLES[self.options.syntax]
        for text in (text for one in self.of_encoders for text in (*one.positives, *(one.negatives or ()))):
            if style.changes(text):
                raise RequestError(
                    "got a prompt that changes with the steps ([a:b:0.5] or [a|b]), expected one text for all of "
                    "them; encode each of its texts, or give the prompt itself to the call"
                )
        if is_composed(self.plan.weights):
            raise RequestError(
                "got a prompt that is composed (AND, or a weight at its end), expected one without weight; encode each "
                "of its prompts, or give the prompt itself to the call"
            )

    @property
    def written(self) -> Iterator[str]:
        """All that was written, syntax aside."""
        return (fragment.text for tree in self.trees.values() for text in tree.texts for fragment in text.fragments)

    @property
    def names_loras(self) -> bool:
        """Whether a prompt asks for a LoRA."""
        return any(self.tags.values())

    @property
    def loras(self) -> tuple[LoraTag, ...]:
        """The LoRAs that the prompts ask for.

        Raises:
            RequestError: the pictures' prompts ask for different ones.
        """
        if not self.names_loras:
            return ()
        from latentrt.runtime.prompts.syntax.lora_tags import tags_of_prompts  # loaded by those who ask

        return tags_of_prompts([self.loras_of(index) for index in range(self.count)])

    def loras_of(self, index: int) -> tuple[LoraTag, ...]:
        """The LoRAs that a picture's prompts ask for; one that the second text encoder's prompt has, too, twice."""
        texts = dict.fromkeys(one.positives[index] for one in self.of_encoders if one.positives)
        return tuple(lora for text in texts for lora in self.tags[text])

    def metadata(self, index: int) -> dict[str, Any]:
        """What a picture's metadata say of its prompts."""
        texts = _texts_of(self.of_encoders, index)
        written = _texts_of(self.templates, index) if self.templates else texts
        return {
            **texts,
            "templates": {name: text for name, text in written.items() if text and text != texts[name]},
            "clip_skip": self.options.clip_skip,
            "prompt_syntax": self.options.syntax.value,
            "embeds": self.embeds,
            "regions": () if self.regions is None else self.regions.metadata(index),
        }

    def embeddings(self, index: int, inversions: TextualInversions) -> dict[str, str]:
        """The short hashes of the textual inversions in a picture's prompts, by their triggers."""
        texts_of_trees = (text for read in self.plan.of_picture(index) for text in self.trees[read].texts)
        fragments = [fragment.text for text in texts_of_trees for fragment in text.fragments]
        return {used.trigger: used.sha256[:_SHORT_HASH] for used in inversions.used_in(fragments) if used.sha256}


def prompt_set_from_keywords(manifest: BundleManifest, prompt: Any, keywords: Options) -> PromptSet:
    """Checks and parses the prompts.

    Args:
        manifest: the bundle's.
        prompt: one text or several; None where ``prompt_embeds`` are given.
        keywords: those that were set.

    Raises:
        RequestError: none, malformed ones, texts beside their embeddings, or a keyword that the model does not take.
    """
    embeds = {name: value for name, value in keywords.items() if name in Embeds.__annotations__}
    prompts = prompts_from_keywords(prompt, keywords)
    repeats = whole(keywords.get("num_images_per_prompt", 1), "num_images_per_prompt")
    if (not prompts and prompt is not None) or repeats < 1:
        raise RequestError(f"got {len(prompts)} prompts × {repeats} pictures, expected at least 1 of each; raise it")
    given, count = None, len(prompts)
    if embeds:
        from latentrt.runtime.prompts.embeds import text_from_embeds  # texts do without it

        given = text_from_embeds(manifest, embeds, None if prompt is None else count, repeats)
        if prompt is None:
            count = given.of_pass[POSITIVE].of_step.shape[1] // repeats
    clip_skip = keywords.get("clip_skip")
    options = prompt_options_from_arguments(
        keywords.get("prompt_syntax", PromptSyntax.PLAIN),
        keywords.get("long_prompt"),
        None if clip_skip is None else whole(clip_skip, "clip_skip"),
        manifest.text_layers,
    )
    of_encoders = tuple(one.repeated(repeats) for one in texts_of_encoders(manifest, prompts, keywords, count))
    regions = None
    if "regions" in keywords:
        from latentrt.runtime.call.prompts.regions import regions_from_keywords  # loaded by those who use it

        regions = regions_from_keywords(keywords, of_encoders, repeats)
    templates: tuple[Prompts, ...] = ()
    seeds = None
    if "wildcards" in keywords:
        from latentrt.runtime.prompts.wildcards.wildcards import (  # loaded by those who use it
            resolved,
            resolver_from_argument,
        )

        templates, seeds = of_encoders, seeds_for(keywords.get("seed"), count * repeats)
        resolve = cache(resolver_from_argument(keywords["wildcards"]))
        of_encoders = resolved(templates, seeds, resolve)
        if regions is not None:
            regions = replace(regions, prompts=tuple(resolved(one, seeds, resolve) for one in regions.prompts))
    written = chain(of_encoders, *(() if regions is None else regions.prompts))
    every = dict.fromkeys(text for one in written for text in (*one.positives, *(one.negatives or ())))
    tags = {text: STYLES[options.syntax].loras(text) for text in every}
    check_loras(of_encoders, options, tags)
    if regions is not None:
        regions.check_loras(tags)
    plan, trees = _read(of_encoders, options, ONE_STEP, {}, regions)
    warn_of_syntax(tags, options, plan)
    return PromptSet(
        count=count * repeats,
        of_encoders=of_encoders,
        options=options,
        plan=plan,
        trees=trees,
        tags=tags,
        given=given,
        embeds=tuple(embeds),
        templates=templates,
        seeds=seeds,
        regions=regions,
    )


def prompt_set_without_texts(count: int) -> PromptSet:
    """That of N pictures of a model that reads no prompts."""
    of_encoders, options = (Prompts(positives=[], negatives=None),), PromptOptions()
    plan, trees = _read(of_encoders, options, ONE_STEP, {}, None)
    return PromptSet(count=count, of_encoders=of_encoders, options=options, plan=plan, trees=trees, tags={})


def _texts_of(of_encoders: Sequence[Prompts], index: int) -> dict[str, str | None]:
    """A picture's texts, as its metadata have them."""
    first, *others = of_encoders
    # A second text encoder that reads the same needs no mention
    second = None if not others or others[-1] == first else others[-1]
    return {
        "prompt": first.positives[index] if first.positives else "",
        "negative_prompt": None if first.negatives is None else first.negatives[index],
        "prompt_2": None if second is None or not second.positives else second.positives[index],
        "negative_prompt_2": None if second is None or not second.negatives else second.negatives[index],
    }


def _read(
    of_encoders: Sequence[Prompts],
    options: PromptOptions,
    steps: StepCount,
    known: Mapping[str, Prompt],
    regions: "CallRegions | None",
) -> tuple[PromptPlan, Mapping[str, Prompt]]:
    """The texts that every pass reads, and the tree of each; some may be known."""
    plan = prompt_plan(of_encoders, STYLES[options.syntax], steps, () if regions is None else regions.prompts)
    read = dict.fromkeys(text for side in plan.texts.values() for texts in side for text in texts)
    parsed = parsed_prompts((text for text in read if text not in known), options)
    return plan, {text: known[text] if text in known else parsed[text] for text in read}
