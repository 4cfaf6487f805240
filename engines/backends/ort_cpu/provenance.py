"""Finds the weights of a bundle's graph again in what ONNX Runtime compiled of it, and checks each by its value.

It keeps most initializers under their names. Of a convolution's it makes blocked ones with names of their own, and of
fp16 it makes fp32; those are looked for where the node that takes them has gone. Of matrices in eight bits that it
multiplies with numbers in floating point it makes unsigned ones in blocks.
"""

import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.ort_cpu.compiled_weights import (
    CompiledLayout,
    CompiledWeight,
    CompiledWeights,
)
from latentrt.engines.backends.ort_cpu.model import MODEL_FILE
from latentrt.engines.backends.weights_record import WEIGHTS_FILE
from latentrt.engines.graphs.editor import input_of, load_graph, weight_of
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

_BLOCKS = (4, 8, 16)  # channels in a block: by the CPU's vectors (MlasNchwcGetBlockSize)


def record_weights(onnx: Path, folder: Path, names: Collection[str]) -> None:
    """Writes where a compiled graph holds some initializers of the bundle's; nothing where onnx_ir is missing.

    Args:
        onnx: the bundle's graph.
        folder: of the compiled one.
        names: the initializers.
    """
    try:
        source, compiled = load_graph(onnx), _compiled_graph(folder)
    except ImportError:
        return
    found: dict[str, tuple[CompiledWeight, ...]] = {}
    search = _Search(compiled)
    for name in names:
        value = source.graph.initializers.get(name)
        rows = () if value is None else search.rows(value)
        if rows or (value is not None and search.multiplies(value)):
            found[name] = rows
    shared = [row.initializer for rows in found.values() for row in rows]
    once = {name: rows for name, rows in found.items() if all(shared.count(row.initializer) == 1 for row in rows)}
    record = CompiledWeights(weights=once, lost=tuple(name for name in names if name not in once))
    (folder / WEIGHTS_FILE).write_text(record.model_dump_json(exclude_defaults=True), "utf-8")


def _compiled_graph(folder: Path) -> "ir.Model":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx_ir does not know where packed weights are kept
        return load_graph(folder / MODEL_FILE)


class _Search:
    """Looks for the initializers of one compiled graph."""

    def __init__(self, compiled: "ir.Model") -> None:
        self._initializers = compiled.graph.initializers
        self._nodes = {node.name: node for node in compiled.graph}

    def rows(self, source: "ir.Value") -> tuple[CompiledWeight, ...]:
        """Every initializer that holds a source's numbers; none if one of the nodes that take it is not covered."""
        content, takers = weight_of(source), source.uses()
        for name in (source.name, f"FusedBack_{source.name}", f"{source.name}_T"):
            kept = self._initializers.get(str(name))
            # one that a node takes in another form would be left behind
            if kept is not None and len(kept.uses()) >= len(takers):
                row = _row(kept, content)
                return () if row is None else (row,)
        found = []
        for node, index in takers:
            rows = (_row(value, content) for value in self._candidates(node, index, str(source.name)))
            row = next((row for row in rows if row is not None), None)
            if row is None:
                return ()
            found.append(row)
        return tuple({row.initializer: row for row in found}.values())

    def multiplies(self, source: "ir.Value") -> bool:
        """Whether a source is the scale of a bias in 32 bits that kernels now take as it is.

        They multiply the scales of input and weight themselves, so nothing holds the product any more.
        """
        for node, index in source.uses():
            bias = self._initializers.get(str(input_of(node, 0).name)) if node.op_type == "DequantizeLinear" else None
            if index != 1 or bias is None or bias.dtype != input_of(node, 0).dtype or str(bias.dtype) != "INT32":
                return False
            if any(taker.op_type == "DequantizeLinear" for taker, _ in bias.uses()):
                return False
        return source.name not in self._initializers and bool(source.uses())

    def _candidates(self, node: Any, index: int, name: str) -> Iterator["ir.Value"]:
        """Initializers that may be what a node's input has become."""
        output = f"{node.outputs[0].name}_nchwc"
        blocked = self._nodes.get(output) or self._nodes.get(f"InsertedPrecisionFreeCast_{output}")
        if blocked is not None and index < len(blocked.inputs):
            yield input_of(blocked, index)
        stem = node.name or node.outputs[0].name
        names = [name, f"FusedBack_{name}", *(f"{stem}.{part}" for part in ("scale", "bias"))]
        yield from (self._initializers[one] for one in names if one in self._initializers)


def _row(compiled: Any, content: Array) -> CompiledWeight | None:
    """How an initializer holds some numbers; None if it does not."""
    if compiled is None or compiled.const_value is None:
        return None
    stored = weight_of(compiled)
    shape, dtype = tuple(map(int, stored.shape)), str(stored.dtype)
    if np.issubdtype(content.dtype, np.floating) != np.issubdtype(stored.dtype, np.floating):
        return None
    for layout, block in _layouts(content, shape):
        row = CompiledWeight(initializer=str(compiled.name), shape=shape, dtype=dtype, layout=layout, block=block)
        if np.array_equal(row.compiled(content), stored):
            return row
    return None


def _layouts(content: Array, shape: tuple[int, ...]) -> Iterator[tuple[CompiledLayout, int]]:
    """The layouts that would give a shape."""
    size = int(np.prod(shape))
    if content.size == size:
        yield CompiledLayout.SAME, 1
    if content.ndim == 1 and len(shape) == 1 and shape[0] > content.size:
        yield CompiledLayout.SAME, 1
        if shape[0] % content.size == 0:
            yield CompiledLayout.REPEATED, shape[0] // content.size
    if content.dtype == np.int8 and content.ndim == 2 and len(shape) == 3 and content.size == size:
        yield CompiledLayout.BYTE_BLOCKS, shape[2]
    if content.ndim == 4 and len(shape) == 4 and shape[1:] == content.shape[1:]:
        for block in _BLOCKS:
            if shape[0] % block == 0 and 0 <= shape[0] - len(content) < block:
                if content.shape[1] % block == 0:
                    yield CompiledLayout.BLOCKED, block
                yield CompiledLayout.BLOCKED_OUTPUTS, block
