"""The reader of tensor files: the same numbers as torch, one tensor at a time, and no claim believed."""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentrt.engines.tensors.dtypes import DTYPES
from latentrt.engines.tensors.tensor_file import Format, TensorFileError, open_tensor_file


def of_every_type() -> dict[str, torch.Tensor]:
    """A tensor of each type: all bytes there are, and an odd number of them before it."""
    tensors: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        numbers = torch.arange(16 * dtype.size * 8, dtype=torch.int64).to(torch.uint8)
        kind = getattr(torch, dtype.name)
        tensors[dtype.name] = (numbers > 100) if kind == torch.bool else numbers.view(kind).reshape(2, -1)
    return {"odd": torch.ones(3, dtype=torch.uint8), **tensors, "empty": torch.zeros(0, 4), "one": torch.tensor(7.0)}


def save_zip(tensors: Any, path: Path) -> None:
    """torch's archive."""
    torch.save(tensors, path)


def save_stream(tensors: Any, path: Path) -> None:
    """torch's older stream."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def packed(path: Path) -> None:
    """An archive that someone has packed again, compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def save_packed(tensors: Any, path: Path) -> None:
    """The same archive, compressed."""
    torch.save(tensors, path)
    packed(path)


@pytest.mark.parametrize("save", [save_file, save_zip, save_stream, save_packed])
def test_every_type_in_every_form(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    """Bits as torch has them; values exactly torch's in float32 where NumPy lacks the type."""
    tensors = of_every_type()
    save(tensors, tmp_path / "tensors")
    file = open_tensor_file(tmp_path / "tensors")
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        stored = file.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        assert stored.dtype_name == str(tensor.dtype).removeprefix("torch.")
        assert stored.bits().tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        wide = tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
        np.testing.assert_array_equal(stored.array(), (tensor.float() if wide else tensor).numpy())


@pytest.mark.parametrize("save", [save_zip, save_stream])
def test_tensors_that_share_a_storage(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    """Transposed, cut out, with steps, and repeated."""
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"t": whole.T, "cut": whole[1:3, 2:], "steps": whole[::2, ::3], "whole": whole, "row": whole[3]}
    save({"state_dict": {**views, "more": {"a": torch.nn.Parameter(whole[0])}}, "step": 3, "lr": 0.1}, tmp_path / "v")
    file = open_tensor_file(tmp_path / "v")
    for name, tensor in views.items():
        np.testing.assert_array_equal(file.tensors[name].array(), tensor.numpy())
    np.testing.assert_array_equal(file.tensors["more.a"].array(), whole[0].numpy())
    assert file.numbers == {"step": 3}
    assert file.tree["lr"] == 0.1


def test_what_safetensors_says_beside_the_tensors(tmp_path: Path) -> None:
    """The form by the content, and the header's texts."""
    save_file({"a": torch.ones(2)}, tmp_path / "a.ckpt", metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    file = open_tensor_file(tmp_path / "a.ckpt")
    assert file.format is Format.SAFETENSORS
    assert file.metadata == {"ss_base_model_version": "sdxl_base_v1-0"}


def test_writing_to_a_tensor_changes_no_file(tmp_path: Path) -> None:
    """Pages are copied when they are written to."""
    save_file({"a": torch.zeros(1000)}, tmp_path / "a")
    open_tensor_file(tmp_path / "a").tensors["a"].bits()[:] = 1.0
    assert not open_tensor_file(tmp_path / "a").tensors["a"].array().any()


def test_many_tensors_take_no_memory_and_few_files(tmp_path: Path) -> None:
    """Three thousand tensors, all held at once: they are in the file's one mapping."""
    save_file({f"lora.{index}": torch.ones(64, 64) for index in range(3000)}, tmp_path / "lora")
    tracemalloc.start()
    arrays = [tensor.array() for tensor in open_tensor_file(tmp_path / "lora").tensors.values()]
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(array.nbytes for array in arrays) == 3000 * 64 * 64 * 4
    assert taken < 12 * 2**20


def header(entries: Any, data: int = 8) -> bytes:
    """A file of safetensors with a header of one's own."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(shape: Any = (2,), begin: Any = 0, end: Any = 8, dtype: Any = "F32") -> dict[str, Any]:
    """A tensor in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "no table": header([1, 2]).replace(b"[", b"{", 1),
    "longer than the file": (2**40).to_bytes(8, "little") + b'{"a": 1}',
    "a number for a tensor": header({"a": 1}),
    "no place": header({"a": {"dtype": "F32", "shape": [2]}}),
    "a negative shape": header({"a": entry((-2, -1))}),
    "a shape of texts": header({"a": entry(("2",))}),
    "a huge shape": header({"a": entry((2**62, 2**62))}),
    "too few bytes": header({"a": entry((3,))}),
    "beyond the end": header({"a": entry((4,), 0, 16)}),
    "backwards": header({"a": entry((2,), 8, 0)}),
    "overlapping": header({"a": entry(), "b": entry()}),
    "with a hole": header({"a": entry((1,), 0, 4), "b": entry((1,), 8, 12)}, 12),
    "twice the same name": header(json.dumps({"a": entry(), "b": entry()}).replace("b", "a").encode()),
    "more bytes than tensors": header({"a": entry()}, 9),
    "nested": header(b'{"a":' + b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(lie: str, tmp_path: Path) -> None:
    """Refused before anything is read or made room for."""
    (tmp_path / "lie").write_bytes(LIES[lie])
    with pytest.raises(TensorFileError, match=r"'lie' is cut short or damaged .*; download it again"):
        open_tensor_file(tmp_path / "lie", "lie")


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": {"b": "c"}}, {"a": None}, ["a"], "a"])
def test_metadata_that_are_no_texts(metadata: Any, tmp_path: Path) -> None:
    """Are refused as such, as the format's own reader does; the file is whole."""
    (tmp_path / "odd").write_bytes(header({"__metadata__": metadata, "a": entry()}))
    with pytest.raises(TensorFileError, match=r"'odd' has __metadata__ that are no texts.*; write its tensors again"):
        open_tensor_file(tmp_path / "odd", "odd")


def test_a_header_longer_than_allowed(tmp_path: Path) -> None:
    """The file is whole; nothing of it is read. It is all hole."""
    with (tmp_path / "long").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b"{")
        file.truncate(100_000_100)
    with pytest.raises(TensorFileError, match=r"'long' has a header of 100\.0 MB, expected at most 100 MB.*in several"):
        open_tensor_file(tmp_path / "long", "long")


def test_a_type_that_is_not_read_says_so_when_it_is_asked_for(tmp_path: Path) -> None:
    """Beside it, others are read."""
    (tmp_path / "new").write_bytes(header({"a": entry(dtype="F4", shape=(16,)), "b": entry((1,), 8, 12)}, 12))
    tensors = open_tensor_file(tmp_path / "new").tensors
    assert tensors["b"].array().tolist() == [0.0]
    with pytest.raises(TensorFileError, match="holds F4 numbers, expected"):
        tensors["a"].array()


def archive(change: Callable[[dict[str, bytes]], None], pack: int = zipfile.ZIP_STORED) -> bytes:
    """torch's archive with other members."""
    file = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pack) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "pack", "reason"),
    [
        ("data/0", bytes(15), zipfile.ZIP_STORED, "a storage that is cut short"),
        ("data/0", bytes(65 * 2**20), zipfile.ZIP_DEFLATED, "a compressed storage of 65 MB"),
        ("data.pkl", bytes(65 * 2**20), zipfile.ZIP_DEFLATED, "far more than the names"),
        ("byteorder", b"big", zipfile.ZIP_STORED, "big-endian"),
        ("more/data.pkl", b"", zipfile.ZIP_STORED, "2 entries data.pkl"),
    ],
)
def test_archives_that_lie(name: str, content: bytes, pack: int, reason: str, tmp_path: Path) -> None:
    """Storages that are short, bombs, and what is ambiguous."""

    def change(members: dict[str, bytes]) -> None:
        folder = next(iter(members)).partition("/")[0]
        members[f"{folder}/{name}"] = content

    (tmp_path / "a.pt").write_bytes(archive(change, pack))
    with pytest.raises(TensorFileError, match=reason):
        open_tensor_file(tmp_path / "a.pt")


def test_what_is_no_file_of_tensors(tmp_path: Path) -> None:
    """Missing, a folder, empty, a text."""
    (tmp_path / "text").write_text("hello, this is no tensor")
    (tmp_path / "empty").touch()
    for name, reason in (
        ("none", "cannot be read"),
        (".", "cannot be read"),
        ("text", "neither"),
        ("empty", "neither"),
    ):
        with pytest.raises(TensorFileError, match=reason):
            open_tensor_file(tmp_path / name)
