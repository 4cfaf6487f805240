"""A module's parameters followed into its graph: kept apart while it is optimised, found again where it was written.

Torch's exporter names an initializer after its parameter. Optimising would lose that: it folds the transposes of
linears into constants of other names, stores equal weights once and drops what adds zeros. So transposes are folded
here, and the optimiser takes the weights for inputs, which it leaves alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from latentrt.engines.bundle.records.named_weights import UNUSED, Layout, StoredWeight, WeightRecord
from latentrt.engines.errors import CheckpointError
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.precision import Precision

_TRANSPOSED = ".T"
_HALF = HALF_TYPES[Precision.FP16].suffix


class _Initializer(NamedTuple):
    """Which parameter an initializer was, and how it holds it."""

    parameter: str
    layout: Layout


class GraphWeights:
    """The initializers that hold a module's floating-point parameters, in a graph that is not optimised yet."""

    def __init__(self, graph: Any, module: torch.nn.Module) -> None:
        """Finds them, and folds their transposes.

        Args:
            graph: an ``onnx_ir.Graph`` as traced.
            module: what it was traced from.
        """
        self._graph = graph
        self._parameters = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        self._initializers: dict[str, _Initializer] = {}
        for name in self._parameters:
            value = graph.initializers.get(name)
            if value is None:
                continue
            self._fold_transposes(name, value)
            if value.uses():
                self._initializers[name] = _Initializer(name, Layout.TORCH)

    def _fold_transposes(self, parameter: str, value: Any) -> None:
        """Replaces transposes of a matrix by one initializer; its numbers are turned around as they are written."""
        transposes = [use.node for use in value.uses() if len(value.shape) == 2 and _turns(use.node)]
        if not transposes:
            return
        transposed = _transposed(value, f"{parameter}{_TRANSPOSED}")
        self._graph.register_initializer(transposed)
        self._initializers[transposed.name] = _Initializer(parameter, Layout.TRANSPOSED)
        for node in transposes:
            node.outputs[0].replace_all_uses_with(transposed)
            self._graph.remove(node, safe=True)

    @contextmanager
    def kept_apart(self) -> Iterator[None]:
        """A context in which the graph can be optimised: no weight is folded, merged with another or dropped."""
        values = [self._graph.initializers[name] for name in self._initializers]
        self._graph.inputs.extend(values)
        yield
        del self._graph.inputs[-len(values) :]

    @property
    def _written(self) -> dict[str, _Initializer]:
        """The initializers that are left, with their twins in fp16."""
        named = {name + end: origin for name, origin in self._initializers.items() for end in ("", _HALF)}
        return {name: origin for name, origin in named.items() if name in self._graph.initializers}

    @property
    def initializers(self) -> Sequence[str]:
        """The names of all initializers that hold a parameter now."""
        return tuple(self._written)

    def records(self, folder: Path) -> dict[str, WeightRecord]:
        """Where every parameter lies in the files that were written, each compared with the module's number by number.

        Args:
            folder: where the graph's external data is, to which the initializers' values point.

        Returns:
            By the names of the module, in its order; files relative to ``folder``.

        Raises:
            CheckpointError: a parameter that takes part and is stored nowhere, or is stored as something else.
        """
        places: dict[int, list[StoredWeight]] = {}  # tied parameters are one and the same tensor
        for name, origin in self._written.items():
            external = self._graph.initializers[name].const_value
            place = StoredWeight(
                initializer=name,
                file=str(external.location),
                offset=int(external.offset or 0),
                shape=tuple(map(int, external.shape)),
                dtype=str(external.dtype.numpy()),
                layout=origin.layout,
            )
            self._verify(folder, place, origin.parameter)
            places.setdefault(self._parameters[origin.parameter].data_ptr(), []).append(place)
        written = self._written
        lost = [
            origin
            for name, origin in self._initializers.items()
            if name not in written and f"{name}{_HALF}" not in written
        ]
        if lost:
            raise CheckpointError(
                f"the weight {lost[0].parameter} ({lost[0].layout}) is in no initializer of its graph; report it"
            )
        records = {}
        for name, tensor in self._parameters.items():
            stored = tuple(places.get(tensor.data_ptr(), ()))
            records[name] = WeightRecord(shape=tuple(tensor.shape), places=stored, reason=None if stored else UNUSED)
        return records

    def _verify(self, folder: Path, place: StoredWeight, parameter: str) -> None:
        count = prod(place.shape)
        stored = np.fromfile(folder / place.file, place.dtype, count, offset=place.offset).reshape(place.shape)
        if not np.array_equal(stored, place.stored(self._parameters[parameter].detach().numpy())):
            raise CheckpointError(
                f"{place.initializer} does not hold the weight {parameter} ({place.layout}, {place.dtype}); report it"
            )


def _turns(node: Any) -> bool:
    """Whether a node turns a matrix around: the tracer also writes transposes that leave it."""
    if node.op_type != "Transpose":
        return False
    permutation = node.attributes.get("perm")
    return permutation is None or list(permutation.value) == [1, 0]


def _transposed(value: Any, name: str) -> Any:
    """A matrix's transpose as a value of its own that takes no memory until it is written."""
    import onnx_ir as ir

    tensor, shape = value.const_value, ir.Shape(tuple(reversed(value.const_value.shape)))
    lazy = ir.LazyTensor(lambda: ir.Tensor(tensor.numpy().T, name=name), dtype=tensor.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=value.type, shape=shape, const_value=lazy)


def bundle_records(
    records: Mapping[str, WeightRecord], folder: str, prefixes: Mapping[str, str]
) -> dict[str, WeightRecord]:
    """The records of a module as those of its checkpoint's part.

    Args:
        records: by the module's names, with files relative to ``folder``.
        folder: where the component's graph is in the bundle.
        prefixes: what names begin with in the module, to what they begin with in the part.
    """

    def named(name: str) -> str:
        begin = next((begin for begin in prefixes if name.startswith(begin)), "")
        return prefixes.get(begin, "") + name.removeprefix(begin)

    return {
        named(name): row.model_copy(
            update={
                "places": tuple(place.model_copy(update={"file": f"{folder}/{place.file}"}) for place in row.places)
            }
        )
        for name, row in records.items()
    }


def table_record(shape: tuple[int, ...], file: str, offset: int) -> WeightRecord:
    """A float32 weight that lies outside of the graph, ``offset`` bytes into a file of the bundle."""
    place = StoredWeight(initializer=None, file=file, offset=offset, shape=shape, dtype="float32", layout=Layout.TORCH)
    return WeightRecord(shape=shape, places=(place,))
