"""Finds the weights of a bundle's graph again in what OpenVINO compiled of it, each by its value."""

from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from latentrt.engines.backends.openvino.blob import Constant
from latentrt.engines.backends.openvino.compiled_weights import (
    WEIGHTS_FILE,
    CompiledForm,
    CompiledWeight,
    CompiledWeights,
    in_form,
)
from latentrt.engines.spec import Array

_SIXTEEN_BITS = ("bfloat16", "float16")


def record_weights(
    onnx: Path, names: Collection[str], constants: Sequence[Constant], blob: Path, first: int, folder: Path
) -> None:
    """Writes where the graphs of a component hold some initializers of the bundle's; nothing where onnx_ir is missing.

    Args:
        onnx: the bundle's graph.
        names: the initializers.
        constants: of all graphs.
        blob: the file that holds them.
        first: where in it the first constant is.
        folder: where to write.
    """
    try:
        from latentrt.engines.graphs.editor import load_graph, weight_of

        initializers = load_graph(onnx).graph.initializers
    except ImportError:
        return
    held = _by_content(constants, blob, first)
    found: dict[str, tuple[CompiledWeight, ...]] = {}
    for name in names:
        value = initializers.get(name)
        if value is not None:
            found[name] = _places(name, weight_of(value), held)
    offsets = [row.offset for rows in found.values() for row in rows]
    once = {name: rows for name, rows in found.items() if rows and all(offsets.count(row.offset) == 1 for row in rows)}
    record = CompiledWeights(weights=once, lost=tuple(name for name in names if name not in once))
    (folder / WEIGHTS_FILE).write_text(record.model_dump_json(exclude_defaults=True), "utf-8")


def _by_content(constants: Sequence[Constant], blob: Path, first: int) -> dict[bytes, list[Constant]]:
    held: dict[bytes, list[Constant]] = {}
    with blob.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped, memoryview(mapped) as content:
        for constant in constants:
            with content[first + constant.offset :][: constant.size] as numbers:
                held.setdefault(sha256(numbers).digest(), []).append(constant)
    return held


def _places(name: str, content: Array, held: dict[bytes, list[Constant]]) -> tuple[CompiledWeight, ...]:
    """Every constant that holds an initializer: of several with the same numbers, those that have its name."""
    for form in _forms(content):
        constants = held.get(sha256(_bits(content, form)).digest(), [])
        offsets = {constant.offset for constant in constants}
        if len(offsets) > 1:
            offsets = {constant.offset for constant in constants if constant.name == name}
        if offsets:
            return tuple(CompiledWeight(offset=offset, form=form) for offset in sorted(offsets))
    return ()


def _forms(content: Array) -> Iterator[CompiledForm]:
    yield CompiledForm.SAME
    if content.ndim == 2:
        yield CompiledForm.TRANSPOSED
    if str(content.dtype) in _SIXTEEN_BITS:
        yield CompiledForm.FLOAT32


def _bits(content: Array, form: CompiledForm) -> memoryview:
    """In a form, the bytes."""
    known = content.view(np.uint16) if str(content.dtype) == "bfloat16" else content
    return in_form(known, form).data.cast("B")
