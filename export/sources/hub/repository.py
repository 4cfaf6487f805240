"""What a repository on the hub holds, and how its files come here: from the hub, or offline from its cache."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.hub.cache import MAIN, cached_snapshot, repositories_in, repository_folder
from latentrt.export.sources.hub.reference import WEIGHTS, HubReference


@dataclass(frozen=True, kw_only=True)
class Repository:
    """The names of all files of a repository at one commit.

    ``cached`` is the folder with all of them that can be had, where the hub gives no answer.
    """

    reference: HubReference
    names: tuple[str, ...]
    cached: Path | None = None

    def fetched(self, names: Iterable[str], commit: str | None = None) -> Path:
        """The folder of the snapshot, with some of its files there; it has the name of its commit.

        Args:
            names: of these files.
            commit: the commit of a call before; None takes the reference's revision.

        Raises:
            CheckpointError: they could not be fetched, or not without a licence accepted.
        """
        if self.cached is not None:
            return self.cached
        from huggingface_hub import snapshot_download

        patterns = [escape(name) for name in names]
        try:
            folder = snapshot_download(
                self.reference.repository, revision=commit or self.reference.revision, allow_patterns=patterns
            )
        except Exception as error:  # as below; and what goes wrong in the middle of a file
            raise _refusal(self.reference, error) from error
        return Path(folder)


def repository_of_reference(reference: HubReference) -> Repository:
    """Asks the hub what a repository holds; where it cannot be reached, what of it the cache holds.

    Raises:
        CheckpointError: there is no such repository or revision, or the hub cannot be reached and the cache lacks it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        hub, revision = HfApi(), reference.revision or MAIN
        info = hub.model_info(reference.repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        names = [file.rfilename for file in info.siblings or ()]
        names = names or hub.list_repo_files(reference.repository, revision=revision)  # of a mirror that says less
    except (HFValidationError, RevisionNotFoundError) as error:
        raise _refusal(reference, error) from error
    except Exception as error:  # the client lets through errors of its own, of httpx, of the system
        cached = _cached(reference)
        if cached is None:
            raise _refusal(reference, error) from error
        if not _offline():
            warnings.warn(
                f"the hub gives no answer about {reference.repository!r} ({type(error).__name__}); what its cache "
                "holds is built",
                stacklevel=2,
            )
        return cached
    return Repository(reference=reference, names=tuple(sorted(names)))


def _cached(reference: HubReference) -> Repository | None:
    folder = repository_folder(_cache(), reference.repository)
    if not folder.is_dir():
        return None
    snapshot = cached_snapshot(folder, reference.revision)
    if snapshot is None:
        return None
    files = (path for path in sorted(snapshot.folder.rglob("*")) if path.is_file())
    return Repository(
        reference=reference,
        names=tuple(path.relative_to(snapshot.folder).as_posix() for path in files),
        cached=snapshot.folder,
    )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _refusal(reference: HubReference, error: Exception) -> CheckpointError:
    """What went wrong, and what helps."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository = reference.repository
    got = f"got model {str(reference)!r}"
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"the hub refuses {repository!r} without its licence accepted; accept it on its page and log in with: "
            "hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"{got}, but {repository} has no revision {reference.revision!r}; choose a branch, a tag or a commit that "
            "its page lists"
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{got}, which is no file or folder here and no repository that the hub shows; check the name, or log in "
            "with hf auth login if it is private"
        )
    if isinstance(error, HFValidationError):
        return CheckpointError(
            f"{got}, which is no file or folder here and no name that a repository can have; check the name"
        )
    if _offline():
        there = repositories_in(_cache()) if _cache().is_dir() else []
        return CheckpointError(
            f"{got}, which is no file or folder here and not in the hub's cache {str(_cache())!r} "
            f"({', '.join(there[:10]) or 'it is empty'}), and HF_HUB_OFFLINE forbids a connection; unset it, or fetch "
            f"the model on a machine with a connection: {_command(reference)}"
        )
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return CheckpointError(
            f"{got}, which could not be written to the hub's cache {str(_cache())!r} ({error.strerror}); free some "
            "space, or set HF_HOME to another place"
        )
    return CheckpointError(
        f"{got}, which is no file or folder here and could not be fetched from the hub ({type(error).__name__}); check "
        "the name and the connection and try again, or give a local folder"
    )


def _command(reference: HubReference) -> str:
    """The command that fetches a repository, or a file of it, into the cache."""
    one = reference.path if reference.path is not None and reference.path.endswith(WEIGHTS) else None
    revision = f"--revision {reference.revision}" if reference.revision is not None else None
    return " ".join(filter(None, ("hf download", reference.repository, one, revision)))
