"""A part's folder: which weights lie there, in which variants, and which of them a build reads."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.family import POSE_PART
from latentrt.export.sources.weights_file import SHARD, open_weights_file

# The stems of a part's weights: diffusers', and transformers' for safetensors and for pickles
STEMS = {
    "text_encoder": ("model", "pytorch_model"),
    "text_encoder_2": ("model", "pytorch_model"),
    "image_encoder": ("model", "pytorch_model"),
    POSE_PART: ("diffusion_pytorch_model",),
    "unet": ("diffusion_pytorch_model",),
    "vae": ("diffusion_pytorch_model",),
}


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The weights of a part in one variant (None: the plain one) and one form, whole or in shards."""

    variant: str | None
    suffix: str
    paths: tuple[Path, ...]

    @property
    def faults(self) -> list[str]:
        """Shards that are missing, and an index that is.

        Raises:
            CheckpointError: a file is damaged, something else, or would run something; it says what to do.
        """
        faults = []
        shards = [found for path in self.paths if (found := SHARD.search(path.name))]
        if shards and len(self.paths) != int(shards[0][2]):
            there = {int(shard[1]) for shard in shards}
            absent = [str(number) for number in range(1, int(shards[0][2]) + 1) if number not in there]
            faults.append(f"of {int(shards[0][2])} shards {self.paths[0].parent.name} lacks {', '.join(absent)}")
        elif shards and not any(self.paths[0].parent.glob(f"*{self.suffix}.index*.json")):
            stem = self.paths[0].name.partition("-00")[0].partition(".")[0]
            faults.append(
                f"{self.paths[0].parent.name} has shards without {stem}{self.suffix}.index.json, which lists them"
            )
        for path in self.paths:
            open_weights_file(path)
        return faults


def shards_listed(folder: Path) -> list[str]:
    """The shards that a folder's index names, by the index alone; none where there is no index that can be read."""
    for path in sorted(folder.glob("*.index*.json")):
        try:
            listed = json.loads(path.read_bytes())["weight_map"].values()
            return sorted({name for name in listed if isinstance(name, str)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return []


def weights_in(folder: Path, stems: Iterable[str], published: Iterable[Path] | None = None) -> list[WeightFiles]:
    """All weights of a part that lie in a folder, safetensors first.

    ``stems`` are what their names begin with. ``published`` are the paths of a repository's files, fetched or not; None
    where all are there.
    """
    groups: dict[tuple[str | None, str], list[Path]] = {}
    for path in files_in(folder, published):
        for stem in stems:
            # diffusers writes model.fp16-00001-of-00002, and formerly model-00001-of-00002.fp16
            pattern = rf"{stem}(?:\.([\w-]+?))?(?:{SHARD.pattern})?(?:\.([\w-]+))?(\.safetensors|\.bin)"
            found = re.fullmatch(pattern, path.name)
            if found:
                groups.setdefault((found[1] or found[4], found[5]), []).append(path)
    return [
        WeightFiles(variant=variant, suffix=suffix, paths=tuple(_whole_or_shards(paths)))
        for (variant, suffix), paths in sorted(
            groups.items(), key=lambda item: (item[0][1] != ".safetensors", str(item))
        )
    ]


def files_in(folder: Path, published: Iterable[Path] | None = None) -> list[Path]:
    """What lies in a folder, in the order of names; of a repository's what is published there."""
    if published is not None:
        return sorted(path for path in published if path.parent == folder)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _whole_or_shards(paths: list[Path]) -> list[Path]:
    """The libraries prefer the whole file where both are there."""
    whole = [path for path in paths if not SHARD.search(path.name)]
    return whole[:1] or paths


def chosen_variant(found: Mapping[str, list[WeightFiles]], wanted: str | None, folder: str) -> tuple[str | None, str]:
    """The variant that a folder's parts are read in, and why.

    Raises:
        CheckpointError: no part has the one that is wanted, or several are there without the plain one.
    """
    there = {part: {files.variant for files in rows} for part, rows in found.items() if rows}
    names = sorted({variant for variants in there.values() for variant in variants if variant is not None})
    if wanted is not None:
        if wanted not in names:
            raise CheckpointError(
                f"got variant {wanted!r}, {folder!r} has {', '.join(names) or 'none'}; "
                f"{'choose one of these' if names else 'leave --variant out'}"
            )
        return wanted, "chosen with --variant"
    lacking = [part for part, variants in there.items() if None not in variants]
    if not lacking:
        return None, "the plain weights" + (f"; {', '.join(names)} with --variant" if names else "")
    able = [name for name in names if all(name in there[part] for part in lacking)]
    if len(able) == 1:
        return able[0], "the only one that is there"
    raise CheckpointError(
        f"{folder!r} has the variants {', '.join(names)} and no plain weights of {', '.join(lacking)}; "
        "choose one with --variant"
    )


def weights_of(rows: list[WeightFiles], variant: str | None) -> WeightFiles | None:
    """A part's weights in a variant, or else the plain ones, as diffusers takes them."""
    for wanted in (variant, None):
        for files in rows:
            if files.variant == wanted:
                return files
    return None
