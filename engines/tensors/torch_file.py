"""What ``torch.save`` writes, without torch and without running anything in it.

Both layouts are read: the zip archive (since torch 1.6) with ``data.pkl`` and one member per storage, and the older
stream of pickles with the storages behind. Of a pickle's globals only those are known that rebuild plain containers,
tensors and arrays. Nothing else is ever looked up: it is refused, or becomes an empty stand-in
(``engines/tensors/stand_ins.py``).
"""

import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from latentrt.engines.tensors.dtypes import DTYPES, StoredDtype
from latentrt.engines.tensors.pickled_arrays import array_names
from latentrt.engines.tensors.stand_ins import StandIn, stand_in
from latentrt.engines.tensors.tensor_file import (
    Block,
    DamagedError,
    ForeignContentError,
    Format,
    Source,
    StoredTensor,
)

_LARGEST_PICKLE = 64 * 2**20  # bytes; a checkpoint's has some hundred bytes for a tensor
_LARGEST_PACKED = 64 * 2**20  # bytes of a storage that was compressed, which torch does to none
_MOST_OPCODES = 4_000_000  # in one pickle
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older layout (torch/serialization.py)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # before a member of an archive: lengths of its name and of what follows
_STORAGES = {dtype.storage: dtype for dtype in DTYPES if dtype.storage}
_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_UNTYPED = "untyped"
_MOST_AXES = 64


@dataclass(frozen=True, slots=True)
class _Storage:
    """What a pickle says of a storage: its numbers' type (None: bytes), its key, and how many numbers it has."""

    dtype: StoredDtype | None
    key: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (1 if self.dtype is None else self.dtype.size)

    def __setstate__(self, state: object) -> None:
        """A pickle changes nothing of it."""


def read_torch_file(path: Path, form: Format) -> Any:
    """What ``torch.save`` was given: containers, numbers, texts, and StoredTensors in the place of tensors.

    Raises:
        ForeignContentError: it holds anything else.
        Exception: it is cut short or damaged, or no such file.
    """
    if form is Format.TORCH_ZIP:
        with zipfile.ZipFile(path) as archive:
            return _from_archive(archive, path)
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            raise DamagedError("it is neither a zip archive nor a pickle")
        file.seek(0)
        return _from_stream(file, path)


class _Parameters(dict[str, Any]):
    """What torch.nn.ParameterDict holds, by its names."""

    def __setstate__(self, state: Any) -> None:
        """A module's attributes; the values that are no tensors are not among its parameters."""
        held = state.get("_parameters")
        self.update(held if isinstance(held, dict) else {})


class _Unpickler(pickle.Unpickler):
    """Looks nothing up but what a file of tensors needs, and collects the storages that are named.

    What a pickle may call is made anew for each: it could change it.
    """

    def __init__(self, file: BinaryIO, blocks: Callable[[str], Block] | None) -> None:
        """Takes where storages lie, by their keys; None where that comes later, and tensors are left out."""
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}
        self._blocks = blocks

        def tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor | None:
            return self._tensor(storage, getattr(storage, "dtype", None), offset, shape, stride)

        def untyped_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> StoredTensor | None:
            return self._tensor(storage, _BY_NAME.get(str(more[2])), offset, shape, stride)

        self._names: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_tensor_v3": untyped_tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": lambda rebuild, _, arguments, *__: rebuild(*arguments),
            "torch.nn.modules.container.ParameterDict": type("ParameterDict", (_Parameters,), {}),
            "collections.defaultdict": lambda *_: {},
            "torch.Size": tuple,
            "torch.storage.UntypedStorage": _UNTYPED,
            **{f"torch.{storage}": dtype.name for storage, dtype in _STORAGES.items()},
            **{f"torch.cuda.{storage}": dtype.name for storage, dtype in _STORAGES.items()},
            **{f"torch.{name}": name for name in _BY_NAME},
            **array_names(),
        }

    def find_class(self, module: str, name: str) -> Any:
        """One of the few known names, or a stand-in."""
        full = f"{module}.{name}"
        if full not in self._names:
            self._names[full] = stand_in(module, name)
        return self._names[full]

    def persistent_load(self, pid: Any) -> Any:
        """A storage ("storage", type, key, location, count, …), or a module's class ("module", class, file, source)."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # what find_class made of its name; the older layout has its source beside it
        kind, dtype, key, _, count, *view = pid
        known = isinstance(dtype, str) and (dtype == _UNTYPED or dtype in _BY_NAME)
        if kind != "storage" or not known or type(count) is not int or count < 0 or any(view):
            raise ForeignContentError(f"a storage {str(pid)[:60]}")
        storage = _Storage(_BY_NAME.get(dtype), str(key), count)
        self.storages.setdefault(storage.key, storage)
        return storage

    def _tensor(
        self, storage: Any, dtype: StoredDtype | None, offset: Any, shape: Any, stride: Any
    ) -> StoredTensor | None:
        numbers = (offset, *shape, *stride)
        whole = all(type(number) is int for number in numbers) and len(shape) == len(stride) <= _MOST_AXES
        if not isinstance(storage, _Storage) or dtype is None or not whole:
            raise ForeignContentError("a tensor that is malformed")
        count = storage.size // dtype.size
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min(numbers) < 0 or (0 not in shape and last >= count) or prod(shape) > count:
            raise ForeignContentError(f"a tensor {tuple(shape)} that its storage does not hold"[:200])
        if self._blocks is None:
            return None
        block = self._blocks(storage.key)
        if block.size < storage.size:
            raise DamagedError("a storage that is cut short")
        return StoredTensor(dtype, dtype.name, tuple(shape), tuple(stride), offset, block)


def _unpickled(file: BinaryIO, blocks: Callable[[str], Block] | None = None) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of a file, and the storages that it names.

    Its length and its memo numbers are checked first: Python makes room for as many as they say.
    """
    begin = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        number = int(argument or 0) if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, number) > _MOST_OPCODES:
            raise ForeignContentError("far more than the names of tensors")
    file.seek(begin)
    unpickler = _Unpickler(file, blocks)
    content = unpickler.load()
    if isinstance(content, StandIn):
        raise ForeignContentError(type(content).__name__)
    return content, unpickler.storages


def _from_archive(archive: zipfile.ZipFile, path: Path) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ForeignContentError(f"{len(pickles)} entries data.pkl")
    if len(set(names)) < len(names):
        raise DamagedError("an entry stands in it twice")
    folder, source = pickles[0].removesuffix("data.pkl"), Source(path)
    if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:
        raise ForeignContentError("far more than the names of tensors")
    if f"{folder}byteorder" in names and archive.open(f"{folder}byteorder").read(7) != b"little":
        raise ForeignContentError("numbers in big-endian order")
    pickled = BytesIO(archive.read(pickles[0]))
    return _unpickled(pickled, cache(lambda key: _member(archive, f"{folder}data/{key}", source)))[0]


def _member(archive: zipfile.ZipFile, name: str, source: Source) -> Block:
    """Where a member of an archive lies; one that is compressed is unpacked."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        if entry.file_size > _LARGEST_PACKED:
            raise ForeignContentError(f"a compressed storage of {entry.file_size >> 20} MB")
        content = archive.read(name)
        return Block(source, 0, len(content), content)
    with source.path.open("rb") as file:
        file.seek(entry.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        end = file.seek(0, 2)
    offset = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if magic != b"PK\x03\x04" or entry.flag_bits & 1 or offset + entry.file_size > end:
        raise DamagedError(f"its entry {name[:60]} is not where it should be")
    return Block(source, offset, entry.file_size)


def _from_stream(file: BinaryIO, path: Path) -> Any:
    if _unpickled(file)[0] != _LEGACY_MAGIC:
        raise ForeignContentError("a pickle that torch.save did not write")
    _protocol, system = (_unpickled(file)[0] for _ in range(2))
    if system["little_endian"] is not True:
        raise ForeignContentError("numbers in big-endian order")
    begin = file.tell()
    _, storages = _unpickled(file)
    keys, _ = _unpickled(file)
    source, size = Source(path), path.stat().st_size
    blocks: dict[str, Block] = {}
    for key in map(str, keys):
        if key not in storages:
            raise ForeignContentError(f"a storage {key[:20]!r} that no tensor uses")
        count, dtype = int.from_bytes(file.read(8), "little"), storages[key].dtype
        blocks[key] = Block(source, file.tell(), count * (1 if dtype is None else dtype.size))
        if file.seek(blocks[key].size, 1) > size:
            raise DamagedError("a storage that is cut short")
    file.seek(begin)
    return _unpickled(file, blocks.__getitem__)[0]  # again, now that it is known where the storages lie
