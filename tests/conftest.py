"""Bundles that many tests share, built once per session."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import latentrt
from latentrt.models import EMBEDDED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of 32×32 pixels in diffusers layout."""
    from checkpoints import save_tiny_checkpoint

    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle with two profiles: two pictures at once, and a size that is not square. Do not write to it."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny.bundle"
    latentrt.build(tiny_checkpoint, folder, profiles=["32x32x2", "48x32"])
    return folder


@pytest.fixture
def tiny_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to damage or to build over."""
    return shutil.copytree(tiny_bundle, tmp_path / "tiny.bundle")


@pytest.fixture(scope="session")
def emoji_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's bundle. Do not write to it."""
    folder = tmp_path_factory.mktemp("bundles") / "emoji.bundle"
    latentrt.build(EMBEDDED, folder)
    return folder


@pytest.fixture(scope="session")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's bundle with a second, wider profile. Do not write to it."""
    folder = tmp_path_factory.mktemp("bundles") / "wide.bundle"
    latentrt.build(EMBEDDED, folder, profiles=["64x64", "96x64"])
    return folder


@pytest.fixture(scope="session")
def masked_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a U-Net of nine input channels."""
    from checkpoints import save_tiny_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "inpaint"
    return save_tiny_checkpoint(folder, "sd1-inpaint")


@pytest.fixture(scope="session")
def masked_bundle(masked_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle. Do not write to it."""
    folder = tmp_path_factory.mktemp("bundles") / "inpaint.bundle"
    latentrt.build(masked_checkpoint, folder, profiles=["32x32", "48x32x2"])
    return folder


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of a family, by its name."""
    from checkpoints import save_tiny_checkpoint

    root = tmp_path_factory.mktemp("families")

    @cache
    def saved(family: str) -> Path:
        return save_tiny_checkpoint(root / family, family)

    return saved


@pytest.fixture(scope="session")
def family_bundle(
    family_checkpoint: Callable[[str], Path],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """A family's tiny checkpoint, built when it is first asked for. Do not write to it.

    No preview is fitted but for those of SD 1.x, which all tests share: it takes as long as the rest.
    """
    from latentrt.engines.manifest import PreviewRecord
    from latentrt.export import components

    root = tmp_path_factory.mktemp("bundles")
    preview = PreviewRecord(matrix=((0.1, 0.1, 0.1),) * 4, bias=(0.5, 0.5, 0.5), psnr=0.0)
    shared = {"sd1": "tiny_bundle", "sd1-inpaint": "masked_bundle"}

    @cache
    def built(family: str) -> Path:
        if family in shared:
            return Path(request.getfixturevalue(shared[family]))
        folder = root / f"{family}.bundle"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(components, "fit_preview", lambda *_: preview)
            latentrt.build(family_checkpoint(family), folder, profiles=["32x32x2"])
        return folder

    return built


@pytest.fixture(scope="session")
def family_pipe(family_bundle: Callable[[str], Path]) -> Iterator[Callable[[str], latentrt.Pipeline]]:
    """A family's bundle, opened; one thread is enough for models so small."""
    opened: list[latentrt.Pipeline] = []

    @cache
    def pipe(family: str) -> latentrt.Pipeline:
        opened.append(latentrt.open(family_bundle(family), threads=1))
        return opened[-1]

    yield pipe
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def tiny_pipe(tiny_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The tiny bundle, opened."""
    with latentrt.open(tiny_bundle) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def emoji_pipe(emoji_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The embedded model's bundle, opened."""
    with latentrt.open(emoji_bundle) as pipe:
        yield pipe


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs ``latentrt ARGUMENTS…`` in this process."""
    from latentrt.cli import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        written = capfd.readouterr()
        code = exit.value.code
        return Ran(status=code if isinstance(code, int) else 1, stdout=written.out, stderr=written.err)

    return run
