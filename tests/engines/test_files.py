"""Files and folders that are written whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from latentrt.engines import files
from latentrt.engines.errors import BusyError, OutputError
from latentrt.engines.files import check_writable, locked, recover_directory, staged_directory, write_file


@pytest.fixture(params=["exchange", "two renames"])
def destination(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an old file, on systems with and without an exchange of folders."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    folder = tmp_path / "a.bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_staged_folder_takes_the_place_of_the_old_one(destination: Path) -> None:
    """Nothing of the old one is left, nor beside it."""
    with staged_directory(destination) as staging:
        (staging / "new").write_text("new")
        assert names(destination) == ["old"]
    assert names(destination) == ["new"]
    assert names(destination.parent) == ["a.bundle"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("a fault"), KeyboardInterrupt()])
def test_a_failure_inside_leaves_the_old_folder(destination: Path, error: BaseException) -> None:
    """Whatever the failure; an error of the disk is told as such."""
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), staged_directory(destination) as staging:  # noqa: PT012
        (staging / "new").write_text("new")
        raise error
    assert names(destination) == ["old"]
    assert names(destination.parent) == ["a.bundle"]


def test_leftovers_of_a_killed_writer_are_cleared(destination: Path) -> None:
    """Both folders that one can leave."""
    for suffix in ("building", "retired"):
        (destination.parent / f".a.bundle.{suffix}").mkdir()
        (destination.parent / f".a.bundle.{suffix}" / "junk").write_text("junk")
    with staged_directory(destination) as staging:
        assert names(staging) == []
        (staging / "new").write_text("new")
    assert names(destination.parent) == ["a.bundle"]


def test_death_between_the_two_renames_is_undone(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that was moved aside comes back when it is next wanted."""
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    renames = []
    rename = os.rename

    def die_at_second(one: Path, other: Path) -> None:
        renames.append(one)
        if len(renames) == 2:
            raise KeyboardInterrupt
        rename(one, other)

    monkeypatch.setattr(os, "rename", die_at_second)
    with pytest.raises(KeyboardInterrupt), staged_directory(destination):
        pass
    monkeypatch.setattr(os, "rename", rename)
    assert not destination.exists()
    recover_directory(destination)
    assert names(destination) == ["old"]
    assert names(destination.parent) == ["a.bundle"]


def test_a_lock_admits_one(tmp_path: Path) -> None:
    """The second is refused at once; after the first, the next is admitted, and no lock file stays."""
    with locked(tmp_path / "a.bundle"), pytest.raises(BusyError, match="another build"), locked(tmp_path / "a.bundle"):
        pass
    with locked(tmp_path / "a.bundle"):
        pass
    assert names(tmp_path) == []


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """By whoever has patience."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / "a.bundle"):
            held.set()
            over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    with pytest.raises(BusyError), locked(tmp_path / "a.bundle", patience=0.01):
        pass
    threading.Timer(0.05, over.set).start()
    with locked(tmp_path / "a.bundle", patience=60.0):
        assert over.is_set()
    holder.join()


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    """With the permissions of a new file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_file(path, lambda temporary: temporary.write_text("new") and None)
    assert path.read_text() == "new"
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert names(tmp_path) == ["a.txt", "plain"]


@pytest.mark.parametrize("name", ["file/x", "missing/x", "folder", "n" * 300])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """Found out beforehand, and when writing."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for attempt in (check_writable, lambda path: write_file(path, Path.touch)):
        with pytest.raises(OutputError, match="cannot write"):
            attempt(tmp_path / name)
    assert names(tmp_path) == ["file", "folder"]
