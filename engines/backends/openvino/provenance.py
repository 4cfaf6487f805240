"""Finds the weights of a bundle's graph again in what OpenVINO compiled of it.

Of most constants OpenVINO tells the initializers that they were made of; biases of matrix products have lost their
names, or have that of the matrix, and are found by their numbers. Either way a weight counts as found only if every
graph of the component holds just its numbers, and no other weight's in the same place: a LoRA must not miss a graph,
nor change two weights.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentrt.engines.backends.openvino.blob import Constant
from latentrt.engines.backends.openvino.compiled_weights import (
    CompiledForm,
    CompiledWeight,
    CompiledWeights,
    in_form,
)
from latentrt.engines.backends.weights_record import WEIGHTS_FILE
from latentrt.engines.spec import Array

_SIXTEEN_BITS = ("bfloat16", "float16")


class _Weight(NamedTuple):
    """What an initializer may have become, by the digest of its numbers; ``plain``: these are all the same."""

    forms: Mapping[bytes, CompiledForm]
    plain: bool


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
    weights = {name: _weight(weight_of(initializers[name])) for name in names if name in initializers}
    found = _found(weights, constants, _digests(constants, blob, first))
    record = CompiledWeights(weights=found, lost=tuple(name for name in names if name not in found))
    (folder / WEIGHTS_FILE).write_text(record.model_dump_json(exclude_defaults=True), "utf-8")


def _digests(constants: Iterable[Constant], blob: Path, first: int) -> dict[int, bytes]:
    """Of the numbers at each offset."""
    digests: dict[int, bytes] = {}
    with blob.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped, memoryview(mapped) as content:
        for constant in constants:
            if constant.offset not in digests:
                with content[first + constant.offset :][: constant.size] as numbers:
                    digests[constant.offset] = sha256(numbers).digest()
    return digests


def _found(
    weights: Mapping[str, _Weight], constants: Iterable[Constant], digests: Mapping[int, bytes]
) -> dict[str, tuple[CompiledWeight, ...]]:
    graphs: dict[int, list[Constant]] = defaultdict(list)
    for constant in constants:
        graphs[constant.graph].append(constant)
    rows: dict[str, set[CompiledWeight]] = {name: set() for name in weights}
    for own in graphs.values():
        places = _in_graph(weights, own, digests)
        rows = {name: held | places[name] for name, held in rows.items() if name in places}
    return {name: tuple(sorted(held, key=lambda row: row.offset)) for name, held in rows.items() if held}


def _in_graph(
    weights: Mapping[str, _Weight], constants: Iterable[Constant], digests: Mapping[int, bytes]
) -> dict[str, set[CompiledWeight]]:
    """Where one graph holds them; those that are not there, or not alone, are left out."""
    named: dict[str, list[Constant]] = defaultdict(list)
    nameless: dict[bytes, list[Constant]] = defaultdict(list)
    owners: dict[bytes, str] = {digest: name for name, one in weights.items() if not one.plain for digest in one.forms}
    for constant in constants:
        digest, origins = digests[constant.offset], constant.origins
        # A fused matrix product's bias has the name of its matrix
        anothers = len(origins) == 1 and owners.get(digest, *origins) not in origins
        for origin in () if anothers else origins:
            named[origin].append(constant)
        if anothers or not origins:
            nameless[digest].append(constant)
    sought = Counter(digest for name, weight in weights.items() if name not in named for digest in weight.forms)
    places = {}
    for name, weight in weights.items():
        # Biases of matrix products are nameless, and so could be a second copy of a weight that has its name elsewhere
        alike = [constant for digest in weight.forms for constant in nameless.get(digest, ())]
        if name in named:
            apart = weight.plain or not alike
        else:
            apart = not weight.plain and len(alike) == 1 and all(sought[digest] == 1 for digest in weight.forms)
        held = named.get(name, alike)
        if apart and all(len(one.origins) < 2 and digests[one.offset] in weight.forms for one in held):
            places[name] = {CompiledWeight(offset=one.offset, form=weight.forms[digests[one.offset]]) for one in held}
    return places


def _weight(content: Array) -> _Weight:
    """Without a form, where it is a matrix that is its own transpose: how it lies does not show."""
    forms = [(sha256(_bits(content, form)).digest(), form) for form in _possible(content)]
    known = dict(forms) if len(dict(forms)) == len(forms) else {}
    return _Weight(known, plain=bool((content == content.flat[0]).all()))


def _possible(content: Array) -> Iterator[CompiledForm]:
    yield CompiledForm.SAME
    if content.ndim == 2 and min(content.shape) > 1:
        yield CompiledForm.TRANSPOSED
    if str(content.dtype) in _SIXTEEN_BITS:
        yield CompiledForm.FLOAT32


def _bits(content: Array, form: CompiledForm) -> memoryview:
    """In a form, the bytes."""
    known = content.view(np.uint16) if str(content.dtype) == "bfloat16" else content
    return in_form(known, form).data.cast("B")
