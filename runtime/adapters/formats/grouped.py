"""The tensors of an adapter by the modules that they are for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from latentrt.engines.errors import RequestError
from latentrt.engines.tensors.tensor_file import StoredTensor
from latentrt.runtime.adapters.formats.keys import split_keys
from latentrt.runtime.adapters.formats.modules import Module, Modules, Spelling
from latentrt.runtime.adapters.formats.other_kinds import refuse_without_tensors
from latentrt.runtime.adapters.formats.peft_config import PeftConfig
from latentrt.runtime.adapters.formats.stored import Part, StoredAdapter


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """What a file's keys say.

    Attributes:
        tensors: by module, then by their names in ``LEAVES``.
        configs: what PEFT says of each module.
        leftovers: keys that nothing of the model is called by.
        absent: for components that the model does not have, a key of each.
    """

    tensors: dict[Module, dict[str, StoredTensor]] = field(default_factory=dict)
    configs: dict[Module, PeftConfig] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def grouped_tensors(stored: StoredAdapter, modules: Modules) -> Grouped:
    """Finds the module for each tensor.

    Raises:
        RequestError: there are no tensors, those of several adapters, or several for one place.
    """
    grouped, seen = Grouped(), _Seen(stored.name)
    for part in stored.parts:
        if not part.file.tensors:
            refuse_without_tensors(part.file, stored.name)
        for key, module, leaf in _placed(part, modules, grouped, seen):
            tensors = grouped.tensors.setdefault(module, {})
            if leaf in tensors:
                seen.check()
                raise RequestError(
                    f"{stored.name!r} holds two tensors {leaf} for {module} ({seen.keys[module, leaf][:100]!r} and "
                    f"{key[:100]!r}), expected one; choose a file in one spelling"
                )
            seen.keys[module, leaf] = key
            tensors[leaf] = part.file.tensors[key]
            grouped.configs.setdefault(module, part.config_of(module.component))
    seen.check()
    return grouped


@dataclass(frozen=True)
class _Seen:
    """What a file may hold one of: a spelling of blocks, an adapter, a tensor for each place."""

    file: str
    keys: dict[tuple[Module, str], str] = field(default_factory=dict)
    spellings: dict[Spelling, str] = field(default_factory=dict)
    adapters: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Refuses more than one of each."""
        if len(self.adapters) > 1:
            names = ", ".join(repr(name[:40]) for name in sorted(self.adapters)[:5])
            raise RequestError(
                f"{self.file!r} holds {len(self.adapters)} adapters ({names}), expected one; save them one by one"
            )
        if Spelling.SGM in self.spellings and Spelling.DIFFUSERS in self.spellings:
            original, diffusers = self.spellings[Spelling.SGM], self.spellings[Spelling.DIFFUSERS]
            raise RequestError(
                f"{self.file!r} names blocks of the U-Net as in the original code ({original[:100]!r}) and as in "
                f"diffusers ({diffusers[:100]!r}), expected one of them; choose a file in one spelling"
            )


def _placed(part: Part, modules: Modules, grouped: Grouped, seen: _Seen) -> Iterator[tuple[str, Module, str]]:
    """The keys of a file with the module and the tensor that they are for; the others are noted."""
    replaced, biases = part.config.replaced, part.config.biases
    keys = split_keys(part.file.tensors, replaced, biases)
    seen.adapters.update(known.adapter for known in keys.values() if known and known.adapter)
    found = {}
    for key, known in keys.items():
        if known is None:
            grouped.leftovers.append(key)
            continue
        if known.module not in found:
            found[known.module] = modules.find(known.module, part.component)
        place = found[known.module]
        if place is None:
            grouped.leftovers.append(key)
        elif place.module is None:
            grouped.absent.setdefault(place.component, key)
        else:
            seen.spellings.setdefault(place.spelling, key)
            yield key, place.module, known.leaf
