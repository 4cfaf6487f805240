"""Graphs of sixteen bits with some of their nodes in fp32: islands made afterwards, of the weights as they are.

A build takes an island's weights in fp32; here they are those of the halved graph, widened. So what an island does to a
component's range is the same, and its rounding nearly so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.graphs.editor import GraphEditor, scope_of
from latentrt.engines.graphs.half import HALF_TYPES
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Precision

if TYPE_CHECKING:
    import onnx_ir as ir


def widen(model: "ir.Model", islands: Sequence[Island], precision: Precision) -> int:
    """Rewrites a graph in place; its inputs and outputs stay as they are.

    Args:
        model: the graph in sixteen bits; its values have types, and its nodes torch's scopes.
        islands: what shall be in fp32.
        precision: fp16 or bf16.

    Returns:
        How many nodes are in fp32 that were not.
    """
    return _Widening(model, islands, precision).run()


class _Widening:
    """One rewrite. ``_wide`` are the results that have become fp32."""

    def __init__(self, model: "ir.Model", islands: Sequence[Island], precision: Precision) -> None:
        import onnx_ir as ir

        self._ir, self._graph, self._islands = ir, model.graph, islands
        self._editor = GraphEditor(model.graph)
        self._narrow, self._single = ir.DataType[HALF_TYPES[precision].dtype], ir.DataType.FLOAT
        self._suffix = HALF_TYPES[precision].suffix
        self._wide: set[Any] = set()
        self._casts: dict[tuple[Any, Any], Any] = {}

    def run(self) -> int:
        """Rewrites all nodes."""
        count = 0
        for node in list(self._graph):
            values = (*node.inputs, *node.outputs)
            # What was rewritten before has casts whose results tell no type
            halved = self._is_cast_to(node, self._narrow) or any(
                value is not None and value.dtype is self._narrow for value in values
            )
            if halved and self._held(node):
                self._widen(node)
                count += 1
            elif not self._is_cast_to(node, self._single):  # that one takes fp32 as well
                for index, value in enumerate(node.inputs):
                    if value in self._wide:
                        node.replace_input_with(index, self._as(value, self._narrow))
        return count

    def _held(self, node: Any) -> bool:
        return any(island.holds(scope_of(node), node.op_type) for island in self._islands)

    def _is_cast_to(self, node: Any, dtype: Any) -> bool:
        return bool(node.op_type == "Cast" and node.attributes["to"].value == dtype)

    def _widen(self, node: Any) -> None:
        attributes, casts = node.attributes, self._is_cast_to(node, self._narrow)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is self._narrow:
                node.replace_input_with(index, self._as(value, self._single))
        if casts:
            attributes["to"] = self._ir.AttrInt64("to", int(self._single))
        elif node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes:
            numbers = np.asarray(attributes["value"].value.numpy(), np.float32)
            attributes["value"] = self._ir.AttrTensor("value", self._ir.tensor(numbers))
        for value in node.outputs:
            if casts or value.dtype is self._narrow:
                value.dtype = self._single
                self._wide.add(value)

    def _as(self, value: Any, kind: Any) -> Any:
        """A value in a type, by a cast that is made once."""
        if (value, kind) not in self._casts:
            name = f"{value.name}{self._suffix if kind is self._narrow else '.single'}"
            cast = self._editor.after(value).add("Cast", value, to=kind, name=name)
            cast.dtype = kind
            self._casts[value, kind] = cast
        return self._casts[value, kind]
