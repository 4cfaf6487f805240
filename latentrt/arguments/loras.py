"""LoRAs as they are named on a command line and in ``latentrt.build``: a file, and how much of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.loaded import own_name
from latentrt.runtime.adapters.lora_set import Strength

FORM = "PATH[:WEIGHT[:TEXT_WEIGHT]]"


@dataclass(frozen=True, kw_only=True)
class LoraArgument:
    """A LoRA's file or folder, what it is called, and its weights: for the U-Net and for the text encoders.

    They are None where none is given, which is 1 but where prompts say otherwise.
    """

    path: Path
    name: str
    weights: tuple[float, float] | None = None

    @property
    def strength(self) -> Strength:
        """How much of it is added."""
        unet, text = self.weights or (1.0, 1.0)
        return Strength(unet=unet, text=text)


def lora_from_text(text: str) -> LoraArgument:
    """Reads ``PATH[:WEIGHT[:TEXT_WEIGHT]]``; a text weight that is left out is the weight.

    Paths may have colons: the longest beginning that exists is the path.

    Raises:
        RequestError: no such file, or weights that are no finite numbers.
    """
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        path = Path(":".join(parts[:count]))
        if parts[:count] != [""] and path.exists():
            return lora_from_weights(path, parts[count:])
    weights = 0
    while weights < min(2, len(parts) - 1) and _is_number(parts[-1 - weights]):
        weights += 1
    missing = ":".join(parts[: len(parts) - weights])
    raise RequestError(f"got LoRA {missing!r}, which does not exist, expected {FORM}; check the path")


def lora_from_weights(path: Path, weights: Sequence[Any]) -> LoraArgument:
    """A LoRA with none, one or two weights: of the U-Net, and of the text encoders.

    Raises:
        RequestError: more of them, or some that are no finite numbers.
    """
    wrong = [weight for weight in weights if not _is_number(weight)]
    if wrong or len(weights) > 2:
        got = f"weight {wrong[0]!r}" if wrong else f"{len(weights)} weights"
        raise RequestError(
            f"got {got} for LoRA {str(path)!r}, expected {FORM} with finite numbers, such as {path.name}:0.8; "
            "correct it"
        )
    numbers = [float(weight) for weight in weights]
    return LoraArgument(path=path, name=own_name(path), weights=(numbers[0], numbers[-1]) if numbers else None)


def loras_from_arguments(loras: Sequence[Any]) -> tuple[LoraArgument, ...]:
    """What a caller of ``latentrt.build`` gives: texts or paths, with weights behind a colon, or pairs and triples.

    Raises:
        RequestError: something else, no such file, weights that are no finite numbers, or two of one name.
    """
    given = [loras] if isinstance(loras, (str, os.PathLike, LoraArgument)) else loras
    if not isinstance(given, (list, tuple)):
        raise RequestError(f"got loras {loras!r}, expected a list of paths; give one such as ['style.safetensors:0.8']")
    found = tuple(map(_lora_from_argument, given))
    check_names(found)
    return found


def check_names(loras: Sequence[LoraArgument]) -> None:
    """Refuses two LoRAs of one name.

    Raises:
        RequestError: naming both files.
    """
    known: dict[str, LoraArgument] = {}
    for lora in loras:
        other = known.setdefault(lora.name, lora)
        if other is not lora:
            raise RequestError(
                f"got two LoRAs called {lora.name!r} ({str(other.path)!r} and {str(lora.path)!r}), expected each once; "
                "rename one of the files, or give one file once with the sum of the weights"
            )


def _lora_from_argument(argument: Any) -> LoraArgument:
    if isinstance(argument, LoraArgument):
        return argument
    if isinstance(argument, (str, os.PathLike)):
        return lora_from_text(os.fspath(argument))
    if isinstance(argument, (list, tuple)) and argument and isinstance(argument[0], (str, os.PathLike)):
        path = Path(argument[0])
        if not path.exists():
            raise RequestError(f"got LoRA {str(path)!r}, which does not exist; check the path")
        return lora_from_weights(path, argument[1:])
    raise RequestError(f"got LoRA {argument!r}, expected {FORM}, or a path and one or two weights; correct it")


def _is_number(weight: Any) -> bool:
    """Whether it is a finite number, or the text of one."""
    if isinstance(weight, bool):
        return False
    try:
        return isfinite(float(weight))
    except (TypeError, ValueError, OverflowError):
        return False
