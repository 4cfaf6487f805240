"""The wheel holds what the checkout holds, and the type checkers' links resolve."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
FOLDERS = {
    "latentrt": "latentrt",
    "benchmarks": "latentrt/benchmarks",
    "engines": "latentrt/engines",
    "export": "latentrt/export",
    "models": "latentrt/models",
    "runtime": "latentrt/runtime",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(HOUSE / name)  # so that the build leaves nothing in the checkout
    build = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / done.stdout.split()[-1])


@pytest.mark.parametrize("folder", FOLDERS)
def test_wheel_holds_every_module(wheel: zipfile.ZipFile, folder: str) -> None:
    """Each Python file of the folder, and nothing of the tests."""
    modules = {f"{FOLDERS[folder]}/{path.relative_to(HOUSE / folder)}" for path in (HOUSE / folder).rglob("*.py")}
    assert modules
    assert modules <= set(wheel.namelist())


def test_wheel_holds_the_embedded_models_and_the_data(wheel: zipfile.ZipFile) -> None:
    """Weights, configs and tokenizer byte for byte; the probe photograph; the page; the typing marker; the licences."""
    data = [path for path in (HOUSE / "models").glob("emoji*/**/*") if path.is_file()]
    clip = HOUSE / "export" / "sources" / "single_file" / "clip"
    data += [clip / "merges.txt.gz", clip / "LICENSE"]
    clip = HOUSE / "export" / "sources" / "single_file" / "clip"
    data += [clip / "merges.txt.gz", clip / "LICENSE"]
    page = HOUSE / "runtime" / "serving" / "http" / "page"
    data += [path for path in page.iterdir() if path.is_file()]
    for path in data:
        top, _, rest = str(path.relative_to(HOUSE)).partition("/")
        assert wheel.read(f"{FOLDERS[top]}/{rest}") == path.read_bytes(), path
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, examples or caches."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"latentrt"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".pyc")]


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    """``latentrt`` is ``latentrt.cli.app:main``."""
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "latentrt = latentrt.cli.app:main" in wheel.read(entry).decode()


def test_links_for_type_checkers_are_relative_and_resolve() -> None:
    """``typings/latentrt`` shows type checkers the package as it is installed."""
    links = {path.name: path for path in (HOUSE / "typings" / "latentrt").iterdir()}
    assert set(FOLDERS) - {"latentrt"} <= set(links)
    for path in links.values():
        assert path.is_symlink()
        assert not os.path.isabs(os.readlink(path))
        assert path.resolve(strict=True).is_relative_to(HOUSE)
    modules = {path.stem for path in (HOUSE / "latentrt").glob("*.py")} - {"__main__"}
    packages = {path.parent.name for path in (HOUSE / "latentrt").glob("*/__init__.py")}
    assert modules | packages <= {Path(name).stem for name in links}, "all that the face holds has its link"
