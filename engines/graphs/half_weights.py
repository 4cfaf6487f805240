"""A component's fp32 graph written again in sixteen bits, with the record of where its weights are then."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentrt.engines.bundle.records.named_weights import NamedWeights, StoredWeight, WeightRecord
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.errors import CheckpointError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.half import HALF_TYPES, halve
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype

_INSIDE = 256  # bytes of a constant that stays in the graph, where shapes are inferred from it


class Halved(NamedTuple):
    """Where every weight is, and how many nodes each island keeps in fp32, by its reason."""

    weights: NamedWeights
    islands: dict[str, int]


def write_halved(
    source: ComponentWeights,
    source_graph: Path,
    graph: Path,
    root: Path,
    islands: tuple[Island, ...],
    precision: Precision,
) -> Halved:
    """Writes a graph with its weights beside it; each is read, converted, written and compared alone.

    Args:
        source: the weights of the fp32 graph, by name.
        source_graph: it.
        graph: where to write; its folder exists.
        root: the bundle that this is in.
        islands: what stays in fp32.
        precision: fp16 or bf16.

    Raises:
        CheckpointError: weights that the precision cannot hold, or that are found nowhere in the graph.
    """
    import onnx_ir as ir

    model = load_graph(source_graph)
    kept = halve(model, islands, precision)
    named = {name: (name, name + HALF_TYPES[precision].suffix) for name in source.initializers}
    outside = {twin for twins in named.values() for twin in twins}
    tensors = {
        str(value.name): value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and (value.name in outside or value.const_value.nbytes > _INSIDE)
    }
    data = f"{graph.name}.data"
    external = ir.external_data.convert_tensors_to_external(list(tensors.values()), graph.parent, data)
    written = dict(zip(tensors, external, strict=True))
    for name, tensor in written.items():
        model.graph.initializers[name].const_value = tensor
    ir.save(model, graph)
    where = _Written(str(graph.parent.relative_to(root)), graph.parent, written)
    rows = {
        name: row.model_copy(update={"places": tuple(_places(source, row, named, where))})
        for name, row in source.named.weights.items()
    }
    return Halved(NamedWeights(weights=rows), kept)


class _Written(NamedTuple):
    """What lies in the new weights file: the folder's name in the bundle, the folder, and onnx_ir's tensors by name."""

    name: str
    folder: Path
    tensors: Mapping[str, Any]


def _places(
    source: ComponentWeights, row: WeightRecord, named: Mapping[str, tuple[str, ...]], where: _Written
) -> Iterator[StoredWeight]:
    """Where the new bundle holds a weight: its twins in the graph, and tables that no graph has as they were.

    Raises:
        CheckpointError: the graph does not hold it, or holds other numbers.
    """
    for place in row.places:
        twins = [twin for twin in named.get(place.initializer or "", ()) if twin in where.tensors]
        if place.initializer is None:
            yield place
            continue
        new = [_place(place, twin, where) for twin in twins]
        old = source.stored(place)
        if not new or not all(_holds(one, old, where) for one in new):
            raise CheckpointError(
                f"the {source.component} graph in sixteen bits does not hold the weight {place.initializer}; report it"
            )
        yield from new


def _place(place: StoredWeight, twin: str, where: _Written) -> StoredWeight:
    tensor = where.tensors[twin]
    return place.model_copy(
        update={
            "initializer": twin,
            "file": f"{where.name}/{tensor.location}",
            "offset": int(tensor.offset or 0),
            "dtype": str(tensor.dtype.numpy()),
        }
    )


def _holds(place: StoredWeight, numbers: Array, where: _Written) -> bool:
    """Whether a place holds some numbers, rounded to its type."""
    dtype = stored_dtype(place.dtype)
    path = where.folder / Path(place.file).name
    stored = np.fromfile(path, dtype.bits, numbers.size, offset=place.offset)
    return np.array_equal(stored.reshape(numbers.shape), dtype.bits_of(numbers))
