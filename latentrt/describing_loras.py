"""What a LoRA's file says of itself, without a model."""

from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.formats.bases import base_in_metadata
from latentrt.runtime.adapters.formats.keys import split_keys
from latentrt.runtime.adapters.formats.other_kinds import kind_of_keys
from latentrt.runtime.adapters.formats.stored import open_adapter
from latentrt.runtime.adapters.formulas.leaves import MAGNITUDES, WEIGHT_KINDS
from latentrt.runtime.adapters.loaded import accelerator_of, own_name, trigger_words


def describe_lora(path: Path) -> dict[str, Any]:
    """A LoRA as plain data: kinds of formulas, modules, the base model that its trainer names, hashes, metadata.

    Raises:
        RequestError: the file is missing, damaged, or no LoRA's.
    """
    stored = open_adapter(path)
    keys = [key for part in stored.parts for key in part.file.tensors]
    known = [key for key in split_keys(keys).values() if key is not None]
    if not known:
        kind, advice = kind_of_keys(keys) or (f"a file of {len(keys)} tensors that are no LoRA's", "name another")
        raise RequestError(f"got {str(path)!r}, {kind}, expected a bundle, a picture or a LoRA; {advice}")
    leaves = {key.leaf for key in known}
    kinds = [kind.name for kind in WEIGHT_KINDS if kind.leaves & leaves]
    base, metadata = base_in_metadata(stored.metadata), dict(stored.metadata)
    accelerator = accelerator_of(path, metadata, "")
    sha256, short_hash = stored.digests()
    return {
        "file": stored.name,
        "name": own_name(path),
        "kinds": [*kinds, *(["DoRA"] if leaves & {*MAGNITUDES} else [])],
        "modules": len({key.module for key in known}),
        "base": None if base is None else base.name,
        "accelerator": None if accelerator is None else accelerator.label.partition(" ")[2],
        "advice": None if accelerator is None else accelerator.advice(),
        "trigger_words": list(trigger_words(metadata)),
        "short_hash": short_hash,
        "sha256": sha256,
        "metadata": metadata,
    }
