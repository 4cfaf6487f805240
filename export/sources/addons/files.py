"""What lies where an add-on is: its config, if it has one, and its tensors."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.addons.place import CONFIG, EXPECTED, INDEX, chosen_weights, place_of_addon
from latentrt.export.sources.folder.folder import read_json
from latentrt.export.sources.foreign.folders import class_of
from latentrt.export.sources.place import Place
from latentrt.export.sources.weights_file import SHARD, WeightsFile, open_weights_file


@dataclass(frozen=True, kw_only=True)
class AddonFiles:
    """A config, empty where there is none, and the files of weights.

    ``folder`` is where the config lies, None where there is none.
    """

    place: Place
    folder: Path | None
    config: Mapping[str, Any]
    weights: tuple[WeightsFile, ...]

    @property
    def source(self) -> str:
        """How messages call it."""
        return str(self.place.path)

    @property
    def name(self) -> str:
        """What the bundle calls it."""
        if self.place.name is not None:
            return self.place.name
        path = self.place.path.absolute()
        return path.name if path.is_dir() else path.stem

    @property
    def class_name(self) -> str | None:
        """The class that its config names."""
        return class_of(self.config) if self.config else None

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all tensors."""
        return {key: shape for file in self.weights for key, shape in file.shapes.items()}

    @property
    def file(self) -> WeightsFile:
        """The only one."""
        (file,) = self.weights
        return file


def addon_files(net: str, variant: str | None, classes: Set[str]) -> AddonFiles:
    """Finds an add-on and reads its config and the headers of its files.

    ``classes`` are those of diffusers' configs that count beside a single file.

    Raises:
        CheckpointError: it is nowhere, no file of tensors, or a whole model's folder.
    """
    place = place_of_addon(net, variant)
    path = place.path
    if path.is_dir():
        if (path / INDEX).is_file():
            inside = sorted(found.name for found in path.glob("*controlnet*") if (found / CONFIG).is_file())
            advice = f"give {str(path / inside[0])!r}" if inside else "leave --for out to build it, or give a net"
            raise CheckpointError(f"got {net!r}, a whole model's folder, expected {EXPECTED}; {advice}")
        config = read_json(path / CONFIG)
        weights = chosen_weights(path, variant, place.published)
        files = tuple(map(open_weights_file, weights))
        return AddonFiles(place=place, folder=path, config=config, weights=files)
    if variant is not None:
        raise CheckpointError(f"got --variant {variant} for the file {net!r}, which has none; leave it out")
    file = open_weights_file(path)
    shard = SHARD.search(path.name)
    if shard is not None and int(shard[2]) > 1:
        raise CheckpointError(
            f"got {str(path)!r}, one of {int(shard[2])} shards, expected all of them; give the folder "
            f"{str(path.parent)!r}"
        )
    beside = path.parent / CONFIG
    config = read_json(beside) if beside.is_file() else {}
    known = class_of(config) in classes
    return AddonFiles(
        place=place, folder=path.parent if known else None, config=config if known else {}, weights=(file,)
    )
