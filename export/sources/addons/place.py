"""Where an add-on lies: a folder with its config, a single file, or the hub, from which its files are fetched."""

from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.folder.part_folders import chosen_variant, files_in, weights_in, weights_of
from latentrt.export.sources.hub.repository import Repository
from latentrt.export.sources.place import Place, listed, name_of, place_from_text

EXPECTED = "a ControlNet, a T2I-Adapter or an IP-Adapter for Stable Diffusion 1.x, 2.x or XL"
WEIGHTS = (".safetensors", ".pth", ".bin", ".ckpt", ".pt")
STEMS = ("diffusion_pytorch_model",)
CONFIG = "config.json"
INDEX = "model_index.json"


def place_of_addon(net: str, variant: str | None) -> Place:
    """Finds an add-on: its folder with a config, or its file.

    Args:
        net: a path; a hub id ``owner/name[@revision]``, with a folder or a file in it after a slash; an address of one.
        variant: which weights of a folder.

    Raises:
        CheckpointError: it is nowhere, cannot be fetched, or could be several things.
    """
    place = place_from_text(
        net,
        lambda repository: _fetched(repository, variant),
        expected="a folder or a file of a control net, a T2I-Adapter or an IP-Adapter, or a hub id such as owner/name",
    )
    path = place.path
    if not path.is_dir() or place.published is not None or (path / INDEX).is_file():
        return place
    if (path / CONFIG).is_file() and (weights_in(path, STEMS) or not any(map(_is_weights, files_in(path)))):
        return place  # some pages count downloads by a config beside a file
    file = _only_file(str(place.path), files_in(place.path))
    return Place(path=file, name=place.name, revision=place.revision)


def chosen_weights(folder: Path, variant: str | None, published: tuple[Path, ...] | None = None) -> tuple[Path, ...]:
    """A folder's weights in a variant, whole or in shards; safetensors go first.

    Raises:
        CheckpointError: it has none, none of this variant, or shards that are missing.
    """
    rows = weights_in(folder, STEMS, published)
    chosen, _ = chosen_variant({"weights": rows}, variant, str(folder))
    files = weights_of(rows, chosen)
    if files is None:
        there = [path.name for path in files_in(folder, published)]
        raise CheckpointError(
            f"{str(folder)!r} has {CONFIG} and no {STEMS[0]}.safetensors or .bin (it holds {listed(there)}); "
            "download the weights, too"
        )
    if published is None and (faults := files.faults):
        raise CheckpointError(f"{str(folder)!r} cannot be built: {'; '.join(faults)}; download what is missing")
    return files.paths


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in WEIGHTS


def _only_file(called: str, files: list[Path]) -> Path:
    """The one file of weights among some; of a name with two endings, ``.safetensors`` goes first.

    Raises:
        CheckpointError: there is none, or several.
    """
    weights = [path for path in files if _is_weights(path)]
    by_stem = {path.stem: path for path in sorted(weights, key=lambda path: path.suffix.lower() == ".safetensors")}
    if len(by_stem) == 1:
        return next(iter(by_stem.values()))
    if not by_stem:
        raise CheckpointError(
            f"{called!r} holds {listed([path.name for path in files])}, expected {EXPECTED}: {CONFIG} with its "
            "weights, or one file of weights; give such a folder or a file"
        )
    names = sorted(path.name for path in by_stem.values())
    raise CheckpointError(
        f"{called!r} holds the files {listed(names)}, expected one net; give one of them, such as {called}/{names[0]}"
    )


def _fetched(repository: Repository, variant: str | None) -> Place:
    reference, names = repository.reference, repository.names
    below = "" if reference.path is None else f"{reference.path}/"
    if reference.path in names:
        beside = f"{reference.path.rpartition('/')[0]}/{CONFIG}".lstrip("/")
        folder = repository.fetched([name for name in names if name in (reference.path, beside)])
        return Place(path=folder / reference.path, name=name_of(reference), revision=folder.name)
    inside = [name for name in names if name.startswith(below)]
    if not inside:
        raise CheckpointError(
            f"got {str(reference)!r}, but {reference.repository} has no {reference.path or 'files'}; it holds "
            f"{listed(names)}; choose among these"
        )
    settings = [f"{below}{name}" for name in (CONFIG, INDEX) if f"{below}{name}" in names]
    root = repository.fetched(settings) if settings else None
    folder = (root or Path()) / below
    published = tuple((root or Path()) / name for name in inside)
    if settings and f"{below}{INDEX}" not in settings and weights_in(folder, STEMS, published):
        wanted = chosen_weights(folder, variant, published)
    elif f"{below}{INDEX}" in settings:
        return Place(path=folder, name=name_of(reference), revision=folder.name, published=published)
    else:
        wanted = (_only_file(str(reference), files_in(folder, published)),)
    start = root or Path()
    fetched = repository.fetched(
        [path.relative_to(start).as_posix() for path in wanted], None if root is None else root.name
    )
    if len(wanted) == 1 and not weights_in(folder, STEMS, published):
        return Place(path=fetched / wanted[0].relative_to(start), name=name_of(reference), revision=fetched.name)
    return Place(
        path=fetched / below,
        name=name_of(reference),
        revision=fetched.name,
        published=tuple(fetched / name for name in inside),
    )
