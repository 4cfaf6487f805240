"""``--lora PATH[:WEIGHT[:TEXT_WEIGHT]]``: LoRAs for the drawing commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.loaded import unknown_lora
from latentrt.runtime.call.prompt_set import PromptSet


@dataclass(frozen=True, kw_only=True)
class LoraOption:
    """A file, and its weights: for the U-Net and for the text encoders; None where none is given."""

    path: Path
    weights: tuple[float, float] | None


def lora_option(text: str) -> LoraOption:
    """Reads an option; the names of files may have colons, too.

    Raises:
        RequestError: weights that are no numbers, or too many.
    """
    parts = text.split(":")
    for end in range(len(parts), 0, -1):
        path = Path(":".join(parts[:end]))
        if path.exists():
            return LoraOption(path=path, weights=_weights(text, parts[end:]))
    end = len(parts)
    while end > max(len(parts) - 2, 1) and _is_number(parts[end - 1]):
        end -= 1
    return LoraOption(path=Path(":".join(parts[:end])), weights=None)  # which is not there, as loading says


def _weights(text: str, parts: Sequence[str]) -> tuple[float, float] | None:
    if len(parts) > 2 or not all(map(_is_number, parts)):
        raise RequestError(
            f"got --lora {text!r}, expected PATH, PATH:WEIGHT or PATH:WEIGHT:TEXT_WEIGHT, such as "
            "style.safetensors:0.8; correct it"
        )
    numbers = [float(part) for part in parts]
    return (numbers[0], numbers[-1]) if numbers else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def load_loras(pipe: Any, options: Sequence[str]) -> Mapping[str, tuple[float, float] | None]:
    """Loads the files, and says what they are; returns their weights by name.

    Raises:
        RequestError: as ``lora_option`` and ``Pipeline.load_lora``.
    """
    from latentrt.cli.terminal import tell

    weights = {pipe.load_lora(option.path): option.weights for option in map(lora_option, options)}
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
    names = {lora.alias: lora.name for lora in pipe.loras}
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
