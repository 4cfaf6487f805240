"""What PEFT says about an adapter beside its tensors: ``adapter_config.json``, or the same in a safetensors header."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.formulas.leaves import LeafOptions

CONFIG_FILE = "adapter_config.json"
_KINDS = ("LORA", "LOHA", "LOKR", "IA3")
# Initialisations that take a part of the base model's weights away, so that the factors alone are not the change
_OF_RESIDUALS = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


@dataclass(frozen=True)
class PeftConfig:
    """A config's values by name; empty for a file without one."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def options(self, path: str, *, transposed: bool = False) -> LeafOptions:
        """What it says about a module.

        Args:
            path: the module's dotted name.
            transposed: whether the tensors are taken as those of the transposed weight.
        """
        if not self.values:
            return LeafOptions()
        alpha = self._of("alpha_pattern", path, self.values.get("lora_alpha", self.values.get("alpha")))
        rank = self._of("rank_pattern", path, self.values.get("r"))
        return LeafOptions(
            alpha=None if alpha is None else float(alpha),
            rank=None if rank is None else int(rank),
            rslora=bool(self.values.get("use_rslora")),
            fan_in_fan_out=transposed,
            kind=str(self.values.get("peft_type", "LORA")),
            feedforward=self._names("feedforward_modules", path),
        )

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the base model's weights are said to be (in, out)."""
        return bool(self.values.get("fan_in_fan_out"))

    @property
    def replaced(self) -> frozenset[str]:
        """The modules that were trained whole."""
        return frozenset(self.values.get("modules_to_save") or ())

    @property
    def biases(self) -> bool:
        """Whether biases were trained."""
        return self.values.get("bias") in ("all", "lora_only")

    def _of(self, pattern: str, path: str, otherwise: Any) -> Any:
        """The value of the first pattern that fits a module's name, as PEFT looks for it (utils/other.py)."""
        for key, value in (self.values.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        return otherwise

    def _names(self, entry: str, path: str) -> bool:
        """Whether a list of names, or a regular expression, means a module."""
        named = self.values.get(entry) or ()
        if isinstance(named, str):
            return re.fullmatch(named, path) is not None
        return any(path == name or path.endswith(f".{name}") for name in named)


def config_from_file(path: Path, name: str) -> PeftConfig:
    """Reads ``adapter_config.json``.

    Raises:
        RequestError: it is damaged, or of a kind of adapter that is not read.
    """
    try:
        return config_from_text(path.read_text("utf-8"), f"{path.name} of {name!r}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise RequestError(f"{path.name} of {name!r} cannot be read ({reason}); download it again") from error


def config_from_text(text: str, name: str) -> PeftConfig:
    """A config from its JSON.

    Raises:
        RequestError: it is damaged, or of a kind of adapter that is not read.
    """
    return checked_config(entries_from_text(text, name), name)


def entries_from_text(text: str, name: str) -> dict[str, Any]:
    """A table in JSON.

    Raises:
        RequestError: it is damaged.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name} is cut short or no JSON, expected PEFT's config; download it again") from error
    if not isinstance(entries, dict):
        raise RequestError(f"{name} is a {type(entries).__name__}, expected PEFT's config; download it again")
    return entries


def checked_config(values: dict[str, Any], name: str) -> PeftConfig:
    """A config whose values have the types that PEFT gives them.

    Raises:
        RequestError: some have not, or it is of a kind of adapter that is not read.
    """
    kind = values.get("peft_type", "LORA")
    if kind not in _KINDS:
        raise RequestError(
            f"{name} has peft_type {str(kind)[:40]!r}, expected one of {', '.join(_KINDS)}; merge it into its model "
            "with PEFT and build that one, or choose another file"
        )
    for entry, fits, expected in _TYPES:
        if values.get(entry) is not None and not fits(values[entry]):
            raise RequestError(
                f"{name} has {entry} {str(values[entry])[:60]!r}, expected {expected}; download it again, or correct it"
            )
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OF_RESIDUALS):
        raise RequestError(
            f"{name} has init_lora_weights {start[:40]!r}, by which the base model was changed, expected a difference "
            "from the base model alone; save it with PEFT's path_initial_model_for_weight_conversion"
        )
    return PeftConfig(values)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_pattern(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(_is_regex(key) and fits(one) for key, one in value.items())


def _is_regex(value: Any) -> bool:
    try:
        re.compile(rf"(.*\.)?({value})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return isinstance(value, str)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_TYPES = (
    ("lora_alpha", _is_number, "a number"),
    ("alpha", _is_number, "a number"),
    ("r", _is_rank, "a rank of at least 1"),
    ("alpha_pattern", lambda value: _is_pattern(value, _is_number), "numbers by names of modules"),
    ("rank_pattern", lambda value: _is_pattern(value, _is_rank), "ranks by names of modules"),
    ("use_rslora", lambda value: isinstance(value, bool), "true or false"),
    ("fan_in_fan_out", lambda value: isinstance(value, bool), "true or false"),
    ("modules_to_save", _are_names, "names of modules"),
    ("bias", lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    ("feedforward_modules", lambda value: _are_names(value) or _is_regex(value), "names of modules"),
)
