"""``--lora``: LoRAs for the drawing commands."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.arguments.loras import lora_from_text
from latentrt.runtime.adapters.loaded import unknown_lora
from latentrt.runtime.call.prompts.prompt_set import PromptSet


def load_loras(pipe: Any, options: Sequence[str]) -> Mapping[str, tuple[float, float] | None]:
    """Loads the files, and says what they are; returns their weights by name.

    Raises:
        RequestError: as ``lora_from_text`` and ``Pipeline.load_lora``.
    """
    from latentrt.cli.terminal import tell

    weights = {pipe.load_lora(lora.path): lora.weights for lora in map(lora_from_text, options)}
    for lora in pipe.loras:
        kind = f", {lora.accelerator}" if lora.accelerator else ""
        words = f"; trigger words: {', '.join(lora.trigger_words)}" if lora.trigger_words else ""
        tell(f"{lora.file}: LoRA {lora.name!r}{kind}{words}")
    return weights


def loras_of_pictures(
    pipe: Any, prompts: PromptSet, weights: Mapping[str, tuple[float, float] | None]
) -> tuple[list[frozenset[tuple[str, float, float]]], dict[str, tuple[float, float]]]:
    """What each picture's prompt asks for, and what holds for all pictures: files without a weight that no prompt names
    have weight 1.

    Args:
        pipe: with the LoRAs loaded.
        prompts: the prompt set of all pictures.
        weights: by name; None where none was given.

    Raises:
        RequestError: a prompt asks for one that is not loaded.
    """
    asked = [prompts.loras_of(index) for index in range(prompts.count)]
    aliases = [lora.alias for lora in pipe.loras]
    names = {lora.alias: lora.name for lora in pipe.loras if aliases.count(lora.alias) == 1}
    names |= {lora.name: lora.name for lora in pipe.loras}
    in_prompts = set()
    for tag in (tag for tags in asked for tag in tags):
        if tag.name not in names:
            raise unknown_lora(tag.name, [lora.name for lora in pipe.loras])
        in_prompts.add(names[tag.name])
    for_all = {
        name: (1.0, 1.0) if weight is None else weight
        for name, weight in weights.items()
        if weight is not None or name not in in_prompts
    }
    sets = [frozenset((tag.name, tag.unet, tag.text) for tag in tags) for tags in asked]
    return sets, for_all
