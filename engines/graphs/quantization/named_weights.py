"""Weights by name in a graph that was quantized: which are as they were, and why the others are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.weights import (
    ComponentWeights,
    NamedWeights,
    QuantizedWeight,
    StoredWeight,
    WeightRecord,
)
from latentrt.engines.graphs.editor import load_graph, save_graph, weight_of
from latentrt.engines.graphs.half import HALF

_ROUNDED = "the graph holds it in eight bits"
_SMOOTHED = "its channels were scaled for the rounding of others (SmoothQuant)"


def weights_after_quantization(source: ComponentWeights, source_graph: Path, graph: Path, root: Path) -> NamedWeights:
    """The record of an int8 graph. Whatever is said to be there is the source's weight, number by number.

    Small weights move out of the graph to the end of its weights file, so that all are mapped alike.

    Args:
        source: the weights that were quantized.
        source_graph: the graph that held them.
        graph: the one that was made of it, its weights beside it; it is written again.
        root: the bundle that ``graph`` is in.
    """
    model = load_graph(graph)
    rows = _Rows(
        source=source,
        folder=str(graph.parent.relative_to(root)),
        path=graph.with_name(f"{graph.name}.data"),
        before=load_graph(source_graph).graph.initializers,
        now=model.graph.initializers,
    )
    named = NamedWeights(weights={name: rows.row(name, row) for name, row in source.named.weights.items()})
    save_graph(model, graph)
    return named


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The initializers of both graphs, and the weights file of the new one."""

    source: ComponentWeights
    folder: str
    path: Path
    before: Any
    now: Any

    def row(self, name: str, row: WeightRecord) -> WeightRecord:
        """What became of one weight."""
        initializers = [place.initializer for place in row.places if place.initializer is not None]
        if not initializers:  # not of the graph
            return row
        rounded = [self.now[f"{one}_quantized"] for one in initializers if f"{one}_quantized" in self.now]
        if rounded:
            scale = next(node.inputs[1].name for node, _ in rounded[0].uses() if node.op_type == "DequantizeLinear")
            quantized = QuantizedWeight(initializer=rounded[0].name, scale=scale)
            return WeightRecord(shape=row.shape, reason=_ROUNDED, quantized=quantized)
        places = self._places(name, row.places)
        if places is None:
            return WeightRecord(shape=row.shape, reason=_SMOOTHED)
        return WeightRecord(shape=row.shape, places=tuple(places))

    def _places(self, name: str, places: Sequence[StoredWeight]) -> list[StoredWeight] | None:
        """Where a weight is now; None if it was changed, or if not all nodes take it that did."""
        weight, found = self.source.array(name), {}
        for place in places:
            for initializer in (f"{place.initializer}", f"{place.initializer}{HALF}"):
                value = self.now.get(initializer)
                if value is None or not value.uses():
                    continue
                now = place.model_copy(
                    update={"initializer": initializer, "dtype": str(value.const_value.dtype.numpy())}
                )
                if not np.array_equal(weight_of(value), now.stored(weight)):
                    return None
                found[initializer] = (now, value)
        before = sum(len(self.before[place.initializer].uses()) for place in places)
        if not found or sum(len(value.uses()) for _, value in found.values()) != before:
            return None
        return [self._outside(now, value) for now, value in found.values()]

    def _outside(self, place: StoredWeight, value: Any) -> StoredWeight:
        """The place of a weight in the file beside the graph, to which it is moved if it is not there."""
        import onnx_ir as ir

        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            content, offset = tensor.tobytes(), self.path.stat().st_size if self.path.exists() else 0
            with self.path.open("ab") as file:
                file.write(content)
            tensor = ir.ExternalTensor(
                self.path.name,
                offset,
                len(content),
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=self.path.parent,
            )
            value.const_value = tensor
        return place.model_copy(update={"file": f"{self.folder}/{tensor.location}", "offset": int(tensor.offset or 0)})
