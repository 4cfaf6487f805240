"""NumPy's arrays inside a pickle, as tensors: their bytes stand in the pickle itself."""

from math import prod
from pathlib import Path
from typing import Any

from latentrt.engines.tensors.dtypes import DTYPES, StoredDtype
from latentrt.engines.tensors.stand_ins import StandIn
from latentrt.engines.tensors.tensor_file import Block, Source, StoredTensor

_BY_BITS = {dtype.bits.lstrip("<|"): dtype for dtype in DTYPES if dtype.storage and dtype.name != "bfloat16"}


class _Dtype(StandIn):
    """``numpy.dtype("f4", …)``; what follows says nothing but the byte order."""

    code = ""
    swapped = False

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code)

    def __setstate__(self, state: Any) -> None:
        self.swapped = state[1] == ">"

    @property
    def stored(self) -> StoredDtype | None:
        """The type, if it is one that is read."""
        return None if self.swapped else _BY_BITS.get(self.code.lstrip("<|="))


class _PickledArray(StoredTensor):
    """An array: empty until its state is there, which NumPy's pickles give after it was made."""

    __slots__ = ()

    def __init__(self, *_: object) -> None:
        nothing = Block(Source(Path()), 0, 0, b"")
        super().__init__(DTYPES[1], DTYPES[1].name, (0,), None, 0, nothing)

    def __setstate__(self, state: Any) -> None:
        """(version, shape, dtype, whether columns lie behind each other, bytes); objects stay an empty array."""
        _, shape, dtype, by_columns, content = state
        stored = dtype.stored if isinstance(dtype, _Dtype) else None
        whole = isinstance(shape, tuple) and all(type(number) is int and number >= 0 for number in shape)
        if stored is None or not whole:
            return
        content = content if isinstance(content, bytes) else b""  # which old pickles make by a call
        if prod(shape) * stored.size != len(content):
            return
        steps = _steps(shape[::-1])[::-1] if by_columns else None
        for name, value in (
            ("dtype", stored),
            ("dtype_name", stored.name),
            ("shape", shape),
            ("stride", steps),
            ("block", Block(self.block.source, 0, len(content), content)),
        ):
            object.__setattr__(self, name, value)


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def array_names() -> dict[str, Any]:
    """What a pickle names to rebuild an array, made anew for each pickle."""
    encoded: dict[str, bytes] = {}  # a pickle may ask for the same bytes a million times

    def encode(text: object, *_: object) -> bytes:
        if not isinstance(text, str):
            return b""
        if text not in encoded:
            encoded[text] = text.encode("latin1", "replace")
        return encoded[text]

    def reconstruct(*_: object) -> StoredTensor:
        return _PickledArray()

    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return {
        **{f"{module}._reconstruct": reconstruct for module in modules},
        "numpy.dtype": type("numpy.dtype", (_Dtype,), {}),
        "_codecs.encode": encode,
    }
