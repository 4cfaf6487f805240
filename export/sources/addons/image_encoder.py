"""The image encoder of an IP-Adapter: which one it is made for, where that lies, and what its folder says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.addons.image_prompt_layout import AdapterLayout, ProjectionKind
from latentrt.export.sources.folder.folder import read_json
from latentrt.export.sources.folder.part_folders import chosen_variant, files_in, weights_in, weights_of
from latentrt.export.sources.hub.repository import Repository
from latentrt.export.sources.parts import FolderPart
from latentrt.export.sources.place import Place, listed, name_of, place_from_text
from latentrt.export.sources.vision import EXPECTED, PICTURES, picture_statistics, vision_config
from latentrt.export.sources.weights_file import open_weights_file

PART = "image_encoder"
_STEMS = ("model", "pytorch_model")
_CONFIG = "config.json"
_VIT_H = "OpenCLIP ViT-H (models/image_encoder of h94/IP-Adapter)"
_BIG_G = "OpenCLIP ViT-bigG (sdxl_models/image_encoder of h94/IP-Adapter)"
_VIT_L = "OpenAI's CLIP ViT-L (openai/clip-vit-large-patch14)"
# By the width of the vector of the whole, and of the patches
_KNOWN: Mapping[bool, Mapping[int, str]] = {
    True: {768: _VIT_L, 1024: _VIT_H, 1280: _BIG_G},
    False: {1024: _VIT_L, 1280: _VIT_H, 1664: _BIG_G},
}


@dataclass(frozen=True, kw_only=True)
class _EncoderPart(FolderPart):
    """An image encoder's folder, of which other files may lie beside it."""

    @property
    def files(self) -> Mapping[str, Path]:
        """The configs that are read, and the weights."""
        configs = [path for name in (_CONFIG, PICTURES) if (path := self.folder / name).is_file()]
        return {f"{self.recorded}/{path.name}": path for path in (*configs, *self.weights)}


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """An image encoder's part, and how pictures become what it takes.

    ``reason`` tells how it was found; ``place`` where it lies.
    """

    part: FolderPart
    place: Place
    reason: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return int(self.part.config["image_size"])

    @property
    def tokens(self) -> int:
        """Patches of a picture, and one for the whole."""
        return 1 + (self.size // int(self.part.config["patch_size"])) ** 2

    def shape(self, kind: ProjectionKind) -> tuple[int, ...]:
        """Of what it gives for one picture."""
        if kind is ProjectionKind.BASE:
            return (int(self.part.config["projection_dim"]),)
        return (self.tokens, int(self.part.config["hidden_size"]))


def needed_encoder(layout: AdapterLayout) -> str:
    """Which encoder an adapter is made for, for messages."""
    whole = layout.kind is ProjectionKind.BASE
    what = "an embedding" if whole else "patches"
    known = _KNOWN[whole].get(layout.embedded, "a CLIP model")
    return f"{known}, which gives {what} of width {layout.embedded}"


def image_encoder(given: str | None, adapter: Path, layout: AdapterLayout, source: str) -> ImageEncoder:
    """Finds an adapter's image encoder.

    Args:
        given: with ``--image-encoder``: a folder, or one on the hub; None: what lies beside the adapter is taken, if it
            is the right one.
        adapter: its file.
        layout: of it.
        source: how messages call it.

    Raises:
        CheckpointError: there is none, or it is another one than the adapter's.
    """
    text, reason = given, "given with --image-encoder"
    beside, note = adapter.parent / PART, adapter.parent / "image_encoder.txt"
    if text is None and (beside / _CONFIG).is_file():
        text, reason = str(beside), "the folder beside the adapter"
    elif text is None and note.is_file() and note.stat().st_size < 1000:
        text, reason = note.read_text("utf-8", "replace").strip(), f"named in {note.name} beside the adapter"
    needed = needed_encoder(layout)
    if not text:
        raise CheckpointError(
            f"got {source!r} without an image encoder, which is not part of its file, expected {needed}; download "
            "that folder, and give it with --image-encoder"
        )
    found = _encoder(text, reason)
    width = found.shape(layout.kind)[-1]
    if width != layout.embedded:
        raise CheckpointError(
            f"got the image encoder {text!r} ({reason}) for {source!r}, with a width of {width}, expected {needed}; "
            "give that one with --image-encoder"
        )
    return found


def _encoder(text: str, reason: str) -> ImageEncoder:
    place = place_from_text(text, _fetched, expected=f"{EXPECTED}, or a hub id with a folder")
    folder = place.path if place.path.is_dir() else place.path.parent
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else None
    weights = _weights(place, text) if place.path.is_dir() else (place.path,)
    if config is None:
        config = _config_of_file(place.path, text)
    part = _EncoderPart(
        name=PART,
        recorded=PART,
        config=vision_config(config, text),
        folder=folder,
        weights=weights,
        variant=None,
    )
    if faults := part.header_faults():
        raise CheckpointError(f"{text!r} cannot be built: {'; '.join(faults)}; give {EXPECTED}")
    mean, std = picture_statistics(read_json(folder / PICTURES) if (folder / PICTURES).is_file() else {}, text)
    return ImageEncoder(
        part=part,
        place=place,
        reason=reason,
        mean=mean,
        std=std,
    )


def _weights(place: Place, text: str) -> tuple[Path, ...]:
    """A folder's weights: the plain ones, or the only ones.

    Raises:
        CheckpointError: it has none, no config, or shards that are missing.
    """
    folder = place.path
    if not (folder / _CONFIG).is_file():
        names = listed([path.name for path in files_in(folder)])
        raise CheckpointError(
            f"got the image encoder {text!r}, which holds {names} and no {_CONFIG}, expected {EXPECTED}; give such a "
            "folder"
        )
    rows = weights_in(folder, _STEMS, place.published)
    chosen, _ = chosen_variant({"weights": rows}, None, str(folder))
    files = weights_of(rows, chosen)
    if files is None:
        raise CheckpointError(
            f"{text!r} has {_CONFIG} and no {_STEMS[0]}.safetensors or {_STEMS[1]}.bin; download the weights, too"
        )
    if files.faults:
        raise CheckpointError(f"{text!r} cannot be built: {'; '.join(files.faults)}; download what is missing")
    return files.paths


def _config_of_file(path: Path, text: str) -> dict[str, Any]:
    """The config of a file that lies alone, as ComfyUI's users have it: of the encoders that are known.

    Raises:
        CheckpointError: another file, or another encoder.
    """
    shapes = open_weights_file(path).shapes
    width = shapes.get("vision_model.embeddings.class_embedding", (0,))[0]
    patches = shapes.get("vision_model.embeddings.patch_embedding.weight", ())
    positions = shapes.get("vision_model.embeddings.position_embedding.weight", ())
    inner = shapes.get("vision_model.encoder.layers.0.mlp.fc1.weight", ())
    projected = shapes.get("visual_projection.weight", ())
    if width not in _KNOWN[False] or not all(map(len, (patches, positions, inner, projected))):
        raise CheckpointError(
            f"got the file {text!r} without {_CONFIG} beside it as an image encoder, expected {EXPECTED}; give such a "
            "folder"
        )
    layer = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")
    return {
        "hidden_size": width,
        "intermediate_size": inner[0],
        "projection_dim": projected[0],
        "num_hidden_layers": len({match[1] for name in shapes if (match := layer.match(name))}),
        "num_attention_heads": 16,  # of all three
        "patch_size": patches[-1],
        "image_size": patches[-1] * isqrt(positions[0] - 1),
        "hidden_act": "quick_gelu" if _KNOWN[False][width] == _VIT_L else "gelu",  # OpenAI's, and OpenCLIP's
    }


def _fetched(repository: Repository) -> Place:
    reference, names = repository.reference, repository.names
    below = "" if reference.path is None else f"{reference.path}/"
    inside = [name for name in names if name.startswith(below) and "/" not in name.removeprefix(below)]
    if f"{below}{_CONFIG}" not in inside:
        raise CheckpointError(
            f"got image encoder {str(reference)!r}, but {reference.repository} has no {below}{_CONFIG}; it holds "
            f"{listed(names)}; choose a folder among these"
        )
    paths = [Path(name) for name in inside]
    rows = weights_in(Path(below), _STEMS, paths)
    chosen, _ = chosen_variant({"weights": rows}, None, str(reference))
    files = weights_of(rows, chosen)
    wanted = [name for name in inside if name.removeprefix(below) in (_CONFIG, PICTURES) or ".index" in name]
    wanted += [] if files is None else [path.as_posix() for path in files.paths]
    folder = repository.fetched(wanted)
    return Place(
        path=folder / below,
        name=name_of(reference),
        revision=folder.name,
        published=tuple(folder / name for name in wanted),
    )
