"""Where a model lies: a path here, a folder of the hub's cache, or the hub, from which its files are fetched."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.folder.folder import LAYOUT, UNET_EMA, files_to_read, single_file_in
from latentrt.export.sources.folder.part_folders import STEMS
from latentrt.export.sources.folder.pipeline_parts import POSE_FOLDERS
from latentrt.export.sources.hub.cache import cached_snapshot, repositories_in, snapshot_around
from latentrt.export.sources.hub.reference import HubReference, reference_from_text
from latentrt.export.sources.hub.repository import Repository, repository_of_reference
from latentrt.export.sources.partial_model import Choices
from latentrt.models import EMBEDDED, EMBEDDED_VIDEO

# Of a repository's files those that say how to read the others, all of them small
_SETTINGS = (".json", ".txt")
_SETTING_FOLDERS = ("scheduler", "tokenizer", "tokenizer_2", UNET_EMA, *POSE_FOLDERS)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder or a file with a model.

    ``name`` and ``revision`` are what the hub calls it, None for what is no repository's. ``published`` are the paths
    of all files of a repository, those among them that were not fetched, too; None where all lie in the folder.
    """

    path: Path
    name: str | None = None
    revision: str | None = None
    published: tuple[Path, ...] | None = None


def place_of_model(model: str, choices: Choices, parts: Set[str]) -> Place:
    """Finds a model; of one on the hub, the files are fetched that a build reads.

    Args:
        model: a path; a hub id ``owner/name[@revision]``, with a folder or a file in it after a slash; the address of
            one of these on the hub; a repository's folder in the hub's cache, also with ``@revision``.
        choices: what the user says about it, of which ``variant`` and ``ema`` decide what is fetched.
        parts: the parts whose weights are wanted.

    Raises:
        CheckpointError: it is nowhere, cannot be fetched, or could be several things.
    """
    place = place_from_text(
        model,
        lambda repository: _fetched(repository, choices, parts),
        expected=f"a diffusers folder, a checkpoint file, a hub id such as owner/name, {EMBEDDED} or {EMBEDDED_VIDEO}",
    )
    return _alone(place) if place.published is None else place


def place_from_text(text: str, fetched: Callable[[Repository], Place], *, expected: str) -> Place:
    """Finds what the user named: a path, a place on the hub, or one in its cache.

    Args:
        text: as ``place_of_model`` takes it.
        fetched: fetches what a build reads of a repository.
        expected: what the text should be, for messages.

    Raises:
        CheckpointError: it is nowhere, cannot be fetched, or could be several things.
    """
    path = Path(text)
    if not path.exists():
        start, at, revision = text.rpartition("@")
        if at and Path(start).is_dir():
            snapshot = cached_snapshot(Path(start), revision)
            if snapshot is not None:
                return Place(path=snapshot.folder, name=snapshot.repository, revision=snapshot.commit)
        if path.is_symlink():
            raise CheckpointError(
                f"got {text!r}, a link to {str(path.readlink())!r}, which is not there; download the model again"
            )
        reference = reference_from_text(text)
        if reference is None:
            raise CheckpointError(f"got model {text!r}, expected {expected}; check the path")
        return fetched(repository_of_reference(reference))
    snapshot = cached_snapshot(path, None) if path.is_dir() else None
    if snapshot is not None:
        return Place(path=snapshot.folder, name=snapshot.repository, revision=snapshot.commit)
    around = snapshot_around(path)
    if around is not None:
        inside = path.absolute().relative_to(around.folder).as_posix()
        return Place(path=path, name=f"{around.repository}/{inside}", revision=around.commit)
    cached = repositories_in(path) if path.is_dir() else []
    if cached:
        raise CheckpointError(
            f"{str(path)!r} is the hub's cache of {', '.join(cached)}, expected one model; give its id, such as "
            f"{cached[0]}"
        )
    return Place(path=path)


def _alone(place: Place) -> Place:
    """Of a folder that holds nothing but a single file, the file."""
    file = single_file_in(place.path) if place.path.is_dir() else None
    return place if file is None else Place(path=file, name=place.name, revision=place.revision)


def _fetched(repository: Repository, choices: Choices, parts: Set[str]) -> Place:
    reference, names = repository.reference, repository.names
    below = "" if reference.path is None else f"{reference.path}/"
    if reference.path in names:
        beside = f"{reference.path.rpartition('/')[0]}/config.json".lstrip("/")  # of a part's own weights
        folder = repository.fetched([name for name in names if name in (reference.path, beside)])
        return Place(path=folder / reference.path, name=name_of(reference), revision=folder.name)
    inside = [name for name in names if name.startswith(below)]
    if not inside:
        raise CheckpointError(
            f"got model {str(reference)!r}, but {reference.repository} has no {reference.path or 'files'}; it holds "
            f"{listed(names)}; choose among these"
        )
    settings = [name for name in inside if _is_setting(name.removeprefix(below), parts)]
    root = repository.fetched(settings) if settings else None
    folder = root or Path()
    published = tuple(folder / name for name in inside)
    file = single_file_in(folder / below, published, called=str(reference))
    if file is not None:
        wanted: Sequence[Path] = [file]
    elif root is None or not any(f"{below}{mark}" in names for mark in LAYOUT):
        deeper = [name.rpartition("/")[0] for name in inside if name.endswith("/model_index.json")]
        deeper += [name for name in inside if name.endswith((".safetensors", ".ckpt"))]
        advice = f"give a model in it, such as {reference.repository}/{deeper[0]}" if deeper else "choose another"
        raise CheckpointError(
            f"got model {str(reference)!r}, which holds {listed(inside)}, expected a diffusers folder or one file of "
            f"weights; {advice}"
        )
    else:
        wanted = files_to_read(folder / below, choices, parts, published, called=str(reference))
    chosen = [path.relative_to(folder).as_posix() for path in wanted]
    if chosen:
        root = repository.fetched(chosen, None if root is None else root.name)
    assert root is not None
    path = root / below if file is None else root / chosen[0]
    here = tuple(root / name for name in inside) if file is None else None
    return Place(path=path, name=name_of(reference), revision=root.name, published=here)


def listed(names: Sequence[str]) -> str:
    """The first of some files' names, for messages."""
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "nothing"


def name_of(reference: HubReference) -> str:
    """What a repository, or what lies in one, is called."""
    return reference.repository if reference.path is None else f"{reference.repository}/{reference.path}"


def _is_setting(name: str, parts: Set[str]) -> bool:
    folder, _, file = name.rpartition("/")
    if not folder:
        return file in ("model_index.json", "config.json")
    whole = parts != {"vae"}  # otherwise nothing else is looked at
    needed = folder in parts or (whole and (folder in _SETTING_FOLDERS or (folder in STEMS and file == "config.json")))
    return file.endswith(_SETTINGS) and needed
