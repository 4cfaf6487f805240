"""The header of safetensors: names, types, shapes and places, each checked (github.com/huggingface/safetensors)."""

import json
from math import prod
from pathlib import Path
from typing import Any

from latentrt.engines.tensors.dtypes import DTYPES
from latentrt.engines.tensors.tensor_file import Block, DamagedError, Source, StoredTensor, UnreadableError

_LENGTH_BYTES = 8  # the header's length, then the header as JSON, then the numbers
_LONGEST_HEADER = 100_000_000  # bytes, as in the format's own reader
_DTYPES = {dtype.safetensors: dtype for dtype in DTYPES}


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors by name in the header's order, and the metadata.

    Raises:
        DamagedError, ValueError: the header is none, or does not fit the file.
        UnreadableError: the file is whole, and the format does not allow it.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        begin = _LENGTH_BYTES + length
        if begin > size:
            raise DamagedError(f"{size} bytes, of which the header alone takes {length}")
        if length > _LONGEST_HEADER:
            raise UnreadableError(
                f"has a header of {length / 1e6:.1f} MB, expected at most {_LONGEST_HEADER // 10**6} MB, as the format "
                "allows; write its tensors again with safetensors, in several files or without the metadata"
            )
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise DamagedError("its header is no table")
    metadata = header.pop("__metadata__", {})
    odd = [key for key, value in metadata.items() if not isinstance(value, str)] if isinstance(metadata, dict) else [""]
    if odd:
        raise UnreadableError(
            f"has __metadata__ that are no texts{f' ({odd[0][:40]})' if odd[0] else ''}, expected texts alone, as the "
            "format demands; write its tensors again with safetensors.torch.save_file and metadata of texts"
        )
    source = Source(path)
    tensors = {name: _tensor(name, entry, source, begin) for name, entry in header.items()}
    end = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].block.offset, item[1].block.size)):
        if tensor.block.offset != end:
            raise DamagedError(f"{name[:60]!r} does not begin where the tensor before it ends")
        end += tensor.block.size
    if end != size:
        raise DamagedError(f"{size} bytes instead of {end}")
    return tensors, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise DamagedError("a name stands in its header twice")
    return table


def _tensor(name: str, entry: Any, source: Source, data: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedError(f"{name[:60]!r} has no type, shape and place") from error
    if not (isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= 64):
        raise DamagedError(f"{name[:60]!r} has no type and shape")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or begin > end:
        raise DamagedError(f"{name[:60]!r} has the shape {shape} at {begin} to {end}"[:200])
    known = _DTYPES.get(dtype)
    if known is not None and prod(shape) * known.size != end - begin:
        raise DamagedError(f"{name[:60]!r} is {dtype} {shape} in {end - begin} bytes"[:200])
    block = Block(source, data + begin, end - begin)
    return StoredTensor(known, known.name if known else dtype, tuple(shape), None, 0, block)
