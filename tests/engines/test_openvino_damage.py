"""Blobs that were cut, altered or made elsewhere are refused, before OpenVINO reads them."""

import json
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openvino_engines import compiled, component_of, drawn_inputs
from shared import filled_once, write_sealed

from latentrt.engines.backends.openvino import backend
from latentrt.engines.backends.openvino.open_graph import _released
from latentrt.engines.backends.openvino.records import BLOB_FILE, GRAPHS_FILE, GraphsRecord, read_graphs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.store import compiled_folder, stored_engine, target_identity

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def hint_bundle(tiny_net: Path, shared: Path) -> Path:
    """A control net, whose smallest component has an engine for openvino. Do not write to it."""

    def build(folder: Path) -> None:
        shutil.copytree(tiny_net, folder)
        compiled(component_of(folder, "hint"))

    return filled_once(shared / "openvino-hint.bundle", build)


@pytest.fixture
def copied(hint_bundle: Path, tmp_path: Path) -> Path:
    """To damage."""
    return shutil.copytree(hint_bundle, tmp_path / "hint.bundle")


def folder_of(bundle: Path) -> Path:
    return compiled_folder(component_of(bundle, "hint"), Backend.OPENVINO)


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def turned(path: Path, place: int, byte: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[place] = content[place] ^ 1 if byte is None else byte
    path.write_bytes(content)


def within_graph(folder: Path) -> int:
    return read_graphs(folder).graphs[0].start


def an_offset(folder: Path) -> int:
    """A digit of where a constant is, which OpenVINO would follow wherever it leads."""
    content = (folder / BLOB_FILE).read_bytes()
    return content.index(b' offset="', within_graph(folder)) + len(b' offset="')


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": lambda folder: (folder / BLOB_FILE).write_bytes((folder / BLOB_FILE).read_bytes()[:5000]),
    "empty": lambda folder: (folder / BLOB_FILE).write_bytes(b""),
    "no blob": lambda folder: (folder / BLOB_FILE).unlink(),
    "a byte of the machine": lambda folder: turned(folder / BLOB_FILE, 20),
    "a byte of the header": lambda folder: turned(folder / BLOB_FILE, read_graphs(folder).header),
    "a byte of a graph": lambda folder: turned(folder / BLOB_FILE, within_graph(folder) + 40, 0),
    "an offset": lambda folder: turned(folder / BLOB_FILE, an_offset(folder), ord("9")),
    "no graphs": lambda folder: (folder / GRAPHS_FILE).unlink(),
    "graphs that are no JSON": lambda folder: (folder / GRAPHS_FILE).write_text("{"),
    "another header": lambda folder: change(folder / GRAPHS_FILE, header=-5),
    "other constants": lambda folder: change(folder / GRAPHS_FILE, constants=2**40),
    "no graph": lambda folder: change(folder / GRAPHS_FILE, graphs=[]),
    "a graph elsewhere": lambda folder: _graph(folder, start=64),
    "a graph before the file": lambda folder: _graph(folder, start=-64),
    "a longer graph": lambda folder: _graph(folder, size=2**40),
    "a negative size": lambda folder: _graph(folder, size=-1),
}


def _graph(folder: Path, **changes: int) -> None:
    record = json.loads((folder / GRAPHS_FILE).read_text())
    change(folder / GRAPHS_FILE, graphs=[{**one, **changes} for one in record["graphs"]])


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_refused_by_its_digest_and_without_one(copied: Path, damage: str) -> None:
    """Small files have digests; the graphs of large ones have some of their own."""
    part, folder = component_of(copied, "hint"), folder_of(copied)
    DAMAGES[damage](folder)
    compiler = COMPILERS[Backend.OPENVINO]
    identity = target_identity(part, compiler, *compiler.targets(()))
    with pytest.raises(BundleError, match=r"build the bundle again"):
        stored_engine(copied, identity, largest_hashed=compiler.largest_hashed)
    with pytest.raises(EngineError, match=r"build the bundle again|run latentrt build on the bundle"):
        compiler.open(part, folder, threads=1)


def test_another_file_of_the_same_form_is_refused(copied: Path, tiny_net: Path) -> None:
    """Its record fits it; the graphs are not those that were recorded."""
    part, folder = component_of(copied, "hint"), folder_of(copied)
    record = read_graphs(folder)
    first, *others = record.graphs
    swapped = [first.model_copy(update={"start": others[0].start}), *others]
    text = GraphsRecord(**{**record.model_dump(), "graphs": [one.model_dump() for one in swapped]}).model_dump_json()
    (folder / GRAPHS_FILE).write_text(text)
    with pytest.raises(EngineError, match=r"graph was altered; build the bundle again"):
        COMPILERS[Backend.OPENVINO].open(part, folder, threads=1)


def test_building_mends_it(copied: Path) -> None:
    """What is whole stays as it is."""
    part, folder = component_of(copied, "hint"), folder_of(copied)
    turned(folder / BLOB_FILE, an_offset(folder))
    compiled(part)
    model = COMPILERS[Backend.OPENVINO].open(part, folder, threads=1)
    shapes = Shapes(profile=part.manifest.profiles[0])
    assert model.engine(shapes).run(drawn_inputs(model.engine(shapes), 1))
    before = (folder / BLOB_FILE).stat().st_mtime_ns
    compiled(part)
    assert (folder / BLOB_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("this_machine", "linux riscv64 RVV", r"compiled for another machine.*expected 'linux riscv64 RVV'"),
        ("version", "2099.1", r"compiled by OpenVINO 20.*, installed is 2099\.1"),
    ],
)
def test_engines_from_elsewhere(
    copied: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """The refusal says from where and gives the command that helps."""
    monkeypatch.setattr(backend, name, lambda: value)
    with pytest.raises(EngineError, match=rf"{words}.*latentrt build {copied} --backend openvino"):
        folder_of(copied)


def test_what_was_written_for_another_key_is_refused(copied: Path) -> None:
    """A folder that was renamed."""
    folder = folder_of(copied)
    manifest = json.loads((folder / "engine.json").read_text())
    manifest["files"] = {k: v.model_dump() for k, v in record_files(folder, [BLOB_FILE, GRAPHS_FILE]).items()}
    write_sealed(folder / "engine.json", {**manifest, "key": "0" * 32})
    with pytest.raises(BundleError, match="another key"):
        stored_engine(
            copied,
            target_identity(
                component_of(copied, "hint"), COMPILERS[Backend.OPENVINO], *COMPILERS[Backend.OPENVINO].targets(())
            ),
        )


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system has no such call")
def test_the_header_outlives_the_pages_that_are_given_back(tmp_path: Path) -> None:
    """Also where OpenVINO comes to read it long after the first pages were released."""
    path, page = tmp_path / "pages", mmap.PAGESIZE
    path.write_bytes(b"." * 4 * page)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[10], mapped[2 * page], mapped[3 * page + 2] = b"hcg"
        with _released(mapped, page - 1, 3 * page + 1):
            pass
        assert bytes(mapped[place] for place in (10, 2 * page, 3 * page + 2)) == b"h.g"
        with _released(mapped, 3 * page, 3 * page + 1):  # no whole page of constants
            pass
        assert mapped[10] == ord("h")
