"""Tensors from the files that ``torch.save`` writes, without torch and without running anything in them.

Both layouts are read: the zip archive (since torch 1.6) with ``data.pkl`` and one member per storage, and the
older stream of pickles with the storages behind. Of a pickle's globals only those are known that rebuild plain
containers and tensors; any other name is refused before it is looked up.
"""

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

LARGEST = 64 * 2**20  # bytes; an embedding of 75 vectors of width 1280 has 0.4 MB
_MOST_OPCODES = 200_000  # in one pickle; an embedding's has some hundred
_MOST_NUMBERS = 2**20  # in all tensors together, and entries of containers
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older layout (torch/serialization.py)
_BFLOAT16 = "bfloat16"
_DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _RefusedError(Exception):
    """A file asks for something that is no tensor or plain container."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where a tensor's numbers lie: a dtype and a key."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that is still to be cut out of its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, content: bytes) -> Array:
        """The numbers, (…) float32 where the file has bfloat16."""
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        outside = 0 not in self.shape and last >= self.storage.size
        if min((self.offset, *self.shape, *self.stride)) < 0 or outside or prod(self.shape) > self.storage.size:
            raise _RefusedError(f"a tensor {self.shape} that its storage does not hold")
        numbers = array_from_bytes(content, self.storage.dtype)
        if len(numbers) < self.storage.size:
            raise _RefusedError("a storage that is cut short")
        steps = [step * numbers.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps).copy()


def array_from_bytes(content: bytes, dtype: str) -> Array:
    """Raw numbers as an array (n,); bfloat16, the upper half of a float32, as float32."""
    if dtype == _BFLOAT16:
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, dtype)


def _rebuild_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not all(type(n) is int for n in numbers) or len(shape) != len(stride):
        raise _RefusedError("a tensor that is malformed")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Looks nothing up but the globals above, and collects the storages that are named."""

    def __init__(self, file: BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """One of the few known globals."""
        if (module, name) not in _GLOBALS:
            raise _RefusedError(f"{module}.{name}")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", type, key, location, size, …)."""
        kind, dtype, key, _, size, *_ = pid
        if kind != "storage" or dtype not in _DTYPES.values() or type(size) is not int:
            raise _RefusedError(f"a storage {str(pid)[:60]}")
        storage = _Storage(dtype, str(key), size)
        self.storages.setdefault(storage.key, storage)
        return storage


def _unpickled(file: BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of a file, and the storages that it names.

    Its length and its memo numbers are checked first: Python makes room for as many as they say.
    """
    begin = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        number = int(argument or 0) if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, number) > _MOST_OPCODES:
            raise _RefusedError("far more than an embedding")
    file.seek(begin)
    unpickler = _Unpickler(file, encoding="utf-8")
    return unpickler.load(), unpickler.storages


def load_torch_file(content: bytes, name: str) -> Any:
    """What ``torch.save`` was given: containers, numbers, texts, and arrays in the place of tensors.

    Args:
        content: the file.
        name: its name, for messages.

    Raises:
        RequestError: the file is cut short or no torch file, or holds anything else; it is named.
    """
    try:
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(BytesIO(content)) as archive:
                return _from_archive(archive)
        if not content.startswith(b"\x80"):
            raise ValueError("it is neither a zip archive nor a pickle")
        return _from_stream(BytesIO(content))
    except _RefusedError as error:
        raise RequestError(
            f"{name!r} holds {error}, expected tensors and plain containers only; "
            "save it as safetensors, or take a file from its author"
        ) from error
    except RecursionError as error:
        raise RequestError(f"{name!r} is nested too deep, expected an embedding file; download it again") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise RequestError(
            f"{name!r} is cut short or no torch file ({reason}), expected what torch.save writes; download it again"
        ) from error


def _from_archive(archive: zipfile.ZipFile) -> Any:
    pickles = [entry for entry in archive.namelist() if entry.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise _RefusedError(f"{len(pickles)} entries data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
        raise _RefusedError("more than 64 MB")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise _RefusedError("numbers in big-endian order")
    tree, _ = _unpickled(BytesIO(archive.read(pickles[0])))
    return _resolved(tree, lambda key: archive.read(f"{folder}data/{key}"))


def _from_stream(file: BytesIO) -> Any:
    magic, _protocol, system = (_unpickled(file)[0] for _ in range(3))
    if magic != _LEGACY_MAGIC:
        raise ValueError("it begins with another number")
    if system["little_endian"] is not True:
        raise _RefusedError("numbers in big-endian order")
    tree, declared = _unpickled(file)
    keys, _ = _unpickled(file)
    contents: dict[str, bytes] = {}
    for key in map(str, keys):
        if key not in declared:
            raise _RefusedError(f"a storage {key[:20]!r} that no tensor uses")
        count, dtype = int.from_bytes(file.read(8), "little"), declared[key].dtype
        contents[key] = file.read(count * (2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize))
    return _resolved(tree, contents.__getitem__)


def _resolved(tree: Any, content: Callable[[str], bytes]) -> Any:
    """The tree with arrays for tensors. Each storage is read once, and a tree that grows is given up."""
    left, read = _MOST_NUMBERS, cache(content)

    def resolved(node: Any) -> Any:
        nonlocal left
        left -= max(1, prod(node.shape)) if isinstance(node, _Tensor) else 1
        if left < 0:
            raise _RefusedError("far more than an embedding")
        if isinstance(node, _Tensor):
            return node.array(read(node.storage.key))
        if isinstance(node, dict):
            return {key: resolved(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [resolved(value) for value in node]
        return node

    return resolved(tree)
