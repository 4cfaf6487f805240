"""The folders in which the hub's client keeps repositories: ``models--owner--name`` with ``refs`` and ``snapshots``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.engines.errors import CheckpointError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"
MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class CachedSnapshot:
    """The files of one commit of a repository, as far as they were fetched."""

    repository: str
    commit: str
    folder: Path


def cached_snapshot(folder: Path, revision: str | None) -> CachedSnapshot | None:
    """The snapshot that a folder of the cache stands for; None where the folder is none of the cache's.

    Args:
        folder: a repository's (``models--owner--name``), its ``snapshots``, or one of these.
        revision: a branch, a tag or a commit; None takes the main branch's, or the only one.

    Raises:
        CheckpointError: the revision is not there, or of several none is the main branch's.
    """
    folder = folder.absolute()
    if _is_snapshot(folder):
        return CachedSnapshot(repository=_repository(folder.parent.parent), commit=folder.name, folder=folder)
    if folder.name == "snapshots" and _is_repository(folder.parent):
        folder = folder.parent
    if not _is_repository(folder):
        return None
    commit = _commit(folder, revision)
    return CachedSnapshot(repository=_repository(folder), commit=commit, folder=folder / "snapshots" / commit)


def snapshot_around(path: Path) -> CachedSnapshot | None:
    """The snapshot that a file or a folder lies in, if it does."""
    for folder in path.absolute().parents:
        if _is_snapshot(folder):
            return cached_snapshot(folder, None)
    return None


def repository_folder(cache: Path, repository: str) -> Path:
    """Where the cache keeps a repository."""
    return cache / f"{_PREFIX}{repository.replace('/', '--')}"


def repositories_in(folder: Path) -> list[str]:
    """The models in the root of a cache; none where the folder is no such root."""
    return sorted(_repository(path) for path in folder.glob(f"{_PREFIX}*--*") if (path / "snapshots").is_dir())


def _is_repository(folder: Path) -> bool:
    """By its name, or by the names of its commits where it was renamed."""
    if not (folder / "snapshots").is_dir():
        return False
    return folder.name.startswith(_PREFIX) or any(_COMMIT.fullmatch(commit) for commit in _commits(folder))


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots" and _is_repository(folder.parent.parent)


def _repository(folder: Path) -> str:
    """``owner/name`` of ``models--owner--name``; of a folder that was renamed its name."""
    return folder.name.removeprefix(_PREFIX).replace("--", "/")


def _commits(folder: Path) -> list[str]:
    """The commits of which there are files, without folders that were only begun."""
    return sorted(path.name for path in (folder / "snapshots").iterdir() if path.is_dir() and any(path.iterdir()))


def _refs(folder: Path) -> Mapping[str, str]:
    """The commits that branches and tags stood for when they were asked for last."""
    files = [path for path in sorted((folder / "refs").rglob("*")) if path.is_file()]
    return {path.relative_to(folder / "refs").as_posix(): path.read_text("utf-8", "replace").strip() for path in files}


def _commit(folder: Path, revision: str | None) -> str:
    commits, refs = _commits(folder), _refs(folder)
    wanted = refs.get(revision or MAIN)
    if wanted in commits:
        return str(wanted)
    if revision is not None:
        of_this_name = [commit for commit in commits if commit.startswith(revision)]
        if len(of_this_name) == 1 and len(revision) >= 7:
            return of_this_name[0]
    elif len(commits) == 1:
        return commits[0]
    if not commits:
        raise CheckpointError(
            f"{str(folder)!r} holds no snapshot, expected the files of one; download the model again with: "
            f"hf download {_repository(folder)}"
        )
    named = ", ".join(
        f"{commit} ({', '.join(names)})" if (names := [name for name, of in refs.items() if of == commit]) else commit
        for commit in commits
    )
    if revision is not None:
        raise CheckpointError(
            f"got revision {revision!r} of {_repository(folder)}, the cache has {named}; choose one of these"
        )
    raise CheckpointError(
        f"{str(folder)!r} holds the snapshots {named}, and none is the main branch's; give one, such as "
        f"{str(folder / 'snapshots' / commits[-1])!r}"
    )
