"""The LoRAs that are loaded into a pipeline."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.accelerators import Accelerator, accelerator_in
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.formats.files import adapter_from_path
from latentrt.runtime.adapters.formats.model_weights import AdaptedModel, model_weights_of
from latentrt.runtime.checks import texts

if TYPE_CHECKING:
    from latentrt.engines.bundle.bundle import Bundle

# What savers call every file alike; the folder's name tells more
_COMMON_NAMES = ("pytorch_lora_weights", "adapter_model", "lora", "model")
_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_TABLE = "embeddings.token_embedding.weight"  # beside the graph of a text encoder
_IN_TAGS = "<>:="  # what a tag of A1111's cannot hold in a name


@dataclass(frozen=True, kw_only=True)
class LoadedLora:
    """A LoRA in a pipeline.

    Attributes:
        name: what calls and prompts name it by.
        file: its file's or folder's name.
        short_hash: A1111's short hash of it.
        accelerator: how to draw with it in few steps, such as "LCM-LoRA"; None where it is none, as far as its name and
            its metadata tell.
        trigger_words: what its trainer says belongs in a prompt; the words that all captions of a training folder had.
        metadata: what its trainer wrote into the file.
    """

    name: str
    file: str
    short_hash: str
    accelerator: str | None
    trigger_words: tuple[str, ...]
    metadata: Mapping[str, str] = field(repr=False)
    adapter: Adapter = field(repr=False)
    acceleration: Accelerator | None = field(repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of a call that an accelerator needs: sampler, steps and guidance; none for others."""
        return {} if self.acceleration is None else self.acceleration.settings()

    @property
    def alias(self) -> str | None:
        """The name that its trainer gave it, under which A1111 knows it, too."""
        return self.metadata.get("ss_output_name")


@dataclass(frozen=True)
class LoadedLoras:
    """All that are loaded into a pipeline, by name. Never changes; loading makes another one.

    ``model`` is the model that they are for.
    """

    model: AdaptedModel
    by_name: Mapping[str, LoadedLora] = field(default_factory=dict)

    def named(self, name: Any) -> LoadedLora:
        """One by its name, or else by the name that its trainer gave it, where that is one's alone.

        Raises:
            RequestError: none of that name is loaded.
        """
        if isinstance(name, str):
            if name in self.by_name:
                return self.by_name[name]
            same = [lora for lora in self.by_name.values() if lora.alias == name]
            if len(same) == 1:
                return same[0]
        raise unknown_lora(name, tuple(self.by_name))

    def with_loaded(self, path: Any, name: Any) -> "tuple[LoadedLoras, LoadedLora]":
        """These and the one in a file or folder; see ``Pipeline.load_lora``.

        Raises:
            RequestError: a name that is taken or that is none, or as ``adapter_from_path``.
        """
        if not isinstance(path, (str, os.PathLike)) or not str(path):
            raise RequestError(f"got {path!r}, expected the path of a LoRA's file or folder; give one")
        path = Path(path)
        chosen = own_name(path) if name is None else _checked_name(name)
        if chosen in self.by_name:
            raise RequestError(
                f"LoRA {chosen!r} is loaded already, from {self.by_name[chosen].file!r}, expected another name; give "
                "one, rename the file, or unload the other first"
            )
        adapter = adapter_from_path(path, chosen, self.model.weights, self.model.base)
        _check_within_graphs(adapter)
        acceleration = accelerator_of(path, adapter.metadata, chosen)
        lora = LoadedLora(
            name=chosen,
            file=adapter.file,
            short_hash=adapter.short_hash,
            accelerator=None if acceleration is None else acceleration.label.partition(" ")[2],
            trigger_words=trigger_words(adapter.metadata),
            metadata=adapter.metadata,
            adapter=adapter,
            acceleration=acceleration,
        )
        return LoadedLoras(self.model, {**self.by_name, chosen: lora}), lora

    def without(self, names: str | Sequence[str]) -> "LoadedLoras":
        """These but for some.

        Raises:
            RequestError: one that is not loaded.
        """
        gone = texts(names, "name")
        for name in gone:
            if name not in self.by_name:
                raise unknown_lora(name, tuple(self.by_name))
        return LoadedLoras(self.model, {name: lora for name, lora in self.by_name.items() if name not in gone})


def no_loras(bundle: "Bundle") -> LoadedLoras:
    """What a pipeline has loaded at first.

    Raises:
        BundleError: the bundle's record of weights is missing, cut short or altered.
    """
    return LoadedLoras(model_weights_of(bundle))


def unknown_lora(name: Any, known: Sequence[str]) -> RequestError:
    """The refusal of a LoRA that is not loaded."""
    if not known:
        return RequestError(
            f"got LoRA {name!r}, expected one that is loaded, and none is; load it with load_lora, or --lora PATH"
        )
    from difflib import get_close_matches  # loaded by mistakes

    close = get_close_matches(str(name), known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "choose one of these, or load it with load_lora"
    return RequestError(f"got LoRA {name!r}, expected one that is loaded ({', '.join(map(repr, known))}); {hint}")


def _check_within_graphs(adapter: Adapter) -> None:
    """Refuses what no engine holds.

    Raises:
        RequestError: changed token embeddings.
    """
    tables = [name for part in adapter.parts.values() for name in part if name.endswith(_TABLE)]
    if tables:
        raise RequestError(
            f"{adapter.file!r} changes token embeddings ({tables[0]}), which a call cannot do; fuse it into a bundle "
            "with latentrt build --lora"
        )


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or set(name) & {*_IN_TAGS, *"\n\r"}:
        raise RequestError(f"got name {name!r} for a LoRA, expected a text without {' '.join(_IN_TAGS)}; give one")
    return texts(name.strip(), "name")[0]


def own_name(path: Path) -> str:
    """The file's name without its suffix, or its folder's or repository's where savers call all files the same."""
    path = path.absolute()
    name, folder = (path.name, path) if path.is_dir() else (path.stem, path.parent)
    if name.lower() in _COMMON_NAMES:
        name = folder.name
    if _SNAPSHOT.fullmatch(name) and len(folder.parents) > 1:  # in the hub's cache
        name = folder.parents[1].name.rpartition("--")[2]
    return "".join("_" if one in _IN_TAGS or not one.isprintable() else one for one in name).strip() or "lora"


def accelerator_of(path: Path, metadata: Mapping[str, str], name: str) -> Accelerator | None:
    """The accelerator that a file is, by what its trainer and its users call it; None where nothing tells."""
    told = (metadata.get(key, "") for key in ("modelspec.title", "ss_output_name"))
    return accelerator_in([*told, path.stem, own_name(path), name])


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What a header says belongs in a prompt.

    Either what the trainer wrote down (``modelspec.trigger_phrase``), or, of the tags that kohya counts, those of every
    caption in a training folder.
    """
    phrase = metadata.get("modelspec.trigger_phrase", "")
    words = [word.strip() for word in phrase.split(",") if word.strip()]
    return tuple(dict.fromkeys(words or _tags_of_all(metadata)))


def _tags_of_all(metadata: Mapping[str, str]) -> list[str]:
    try:
        counts, folders = (json.loads(metadata.get(key, "{}")) for key in ("ss_tag_frequency", "ss_dataset_dirs"))
        return [
            tag.strip()
            for folder, tags in counts.items()
            for tag, count in tags.items()
            if count == folders.get(folder, {}).get("img_count") and tag.strip()
        ]
    except (ValueError, AttributeError, RecursionError):  # not what kohya writes
        return []
