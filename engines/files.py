"""Files that are written whole or not at all, and their digests."""

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from latentrt.engines.errors import BusyError, LatentrtError, OutputError

STAGED = (".building", ".retired")
"""How the names of folders end that lie beside a destination only while it is replaced: the new one, and the old."""

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EFBIG: "the file would be larger than the system allows; raise the limit or write elsewhere",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission is denied; choose another place or change its permissions",
    errno.EPERM: "permission is denied; choose another place or change its permissions",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The error a user reads when ``path`` could not be written."""
    reason = _DISK_ERRORS.get(error.errno or 0, f"{error.strerror or error}; choose another place")
    return OutputError(f"cannot write {str(path)!r}: {reason}")


def user_cache() -> Path:
    """The user's folder for what is cheap to lose and costs time to make again."""
    root = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "latentrt"


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path`` and renames it there when it is complete.

    Raises:
        OutputError: the file could not be written; what stood at ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        temporary.touch(exist_ok=False)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_files(paths: Iterable[Path]) -> None:
    """Waits until files and their names are on the disk, where a loss of power leaves them.

    Raises:
        OutputError: one cannot be written out.
    """
    paths = list(paths)
    for path in paths:
        try:
            _sync(path, os.O_RDWR)
        except OSError as error:
            raise output_error(path, error) from error
    for folder in dict.fromkeys(path.parent for path in paths):
        with contextlib.suppress(OSError):  # not every system opens folders
            _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def check_writable(path: Path) -> None:
    """Finds out whether ``write_file`` could write here, before the work that would be lost otherwise.

    Raises:
        OutputError: as ``write_file``.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise output_error(path, error) from error


@contextlib.contextmanager
def locked(destination: Path, writer: str = "build", *, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock that every writer of ``destination`` takes; it goes away with the process.

    Args:
        destination: a file or folder, which need not be there.
        writer: what messages call the process that holds the lock.
        patience: how long to wait for it, in seconds.

    Raises:
        BusyError: another process holds it.
        OutputError: the lock cannot be created.
    """
    path = destination.parent / f".{destination.name}.lock"
    import filelock  # not needed to draw

    lock = filelock.FileLock(path, timeout=patience)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise BusyError(
            f"another {writer} is writing {str(destination)!r}; wait until it has ended, or choose another folder"
        ) from error
    except OSError as error:
        raise output_error(destination, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """An empty folder beside ``destination`` that takes its place in one rename if the block succeeds.

    Whatever happens inside, a reader finds at ``destination`` either the old folder whole or the new one
    whole. The caller holds ``locked(destination)``, so leftovers of a killed process can be cleared.

    Raises:
        OutputError: the disk is full, read-only or out of reach.
    """
    staging, retired = (destination.parent / f".{destination.name}{suffix}" for suffix in STAGED)
    try:
        _restore(destination, retired)
        for leftover in (staging, retired):
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if not destination.exists():
            os.rename(staging, destination)
        elif not _exchange(staging, destination):
            # Two renames; recover_directory undoes the first if the process dies between them.
            os.rename(destination, retired)
            os.rename(staging, destination)
    except LatentrtError:
        raise
    except OSError as error:
        raise output_error(destination, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if destination.exists():
            shutil.rmtree(retired, ignore_errors=True)


def recover_directory(destination: Path) -> None:
    """Puts back the folder that a killed writer had moved aside, where its successor never arrived.

    Does nothing while a writer is at work: its second rename is about to come.
    """
    retired = destination.parent / f".{destination.name}{STAGED[1]}"
    if retired.exists() and not destination.exists():
        with contextlib.suppress(BusyError, OSError), locked(destination):
            _restore(destination, retired)


def _restore(destination: Path, retired: Path) -> None:
    if retired.exists() and not destination.exists():
        os.rename(retired, destination)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one system call where the platform has it; False where it has not."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(library.renamex_np(bytes(one), bytes(other), 2) == 0)  # RENAME_SWAP
        if sys.platform == "linux":
            at_fdcwd, rename_exchange = -100, 2  # fcntl.h, linux/fs.h
            return bool(library.renameat2(at_fdcwd, bytes(one), at_fdcwd, bytes(other), rename_exchange) == 0)
    except (OSError, AttributeError, TypeError):
        pass
    return False
