"""The tensors of a component's graph that are compared, and graphs that give them as results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentrt.engines.graphs.editor import GraphEditor, scope_of

if TYPE_CHECKING:
    import onnx_ir as ir

_SHOWN = ".shown"
_COUNT = ".count"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A floating-point result of a node.

    Attributes:
        tensor: its name.
        node: the node's name.
        operator: the node's ONNX operator.
        module: the dotted path of the torch module that the node came from.
        sources: the node's inputs that are such results themselves, or inputs of the graph.
        weights: the node's initializers.
        narrow: whether it is in sixteen bits.
    """

    tensor: str
    node: str
    operator: str
    module: str
    sources: tuple[str, ...]
    weights: tuple[str, ...]
    narrow: bool


def marks_of(model: "ir.Model") -> list[Mark]:
    """Every floating-point result of a graph, in the order in which it is computed.

    A node that the graph names no module of, such as a cast between two precisions, has that of what it takes.
    """
    import onnx_ir as ir

    graph = model.graph
    modules: dict[str, str] = {}
    marks = []
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        module = scope_of(node) or next((modules[str(one.name)] for one in inputs if one.name in modules), "")
        weights = tuple(str(one.name) for one in inputs if one.name in graph.initializers)
        sources = tuple(str(one.name) for one in inputs if one.name not in graph.initializers and _is_float(one))
        for value in node.outputs:
            modules[str(value.name)] = module
            if _is_float(value):
                marks.append(
                    Mark(
                        tensor=str(value.name),
                        node=str(node.name),
                        operator=node.op_type,
                        module=module,
                        sources=sources,
                        weights=weights,
                        narrow=value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
                    )
                )
    return marks


def show(model: "ir.Model", tensors: Iterable[str], ending: str = "") -> dict[str, str]:
    """Makes tensors results of a graph, in float32; in place.

    Args:
        model: the graph.
        tensors: their names; each that is not there is left out.
        ending: what stands behind the name of a tensor that is to be taken in the place of it, where there is one.

    Returns:
        What each result is called, by the tensor's name.
    """
    import onnx_ir as ir

    editor, single = GraphEditor(model.graph), ir.DataType.FLOAT
    values, results = editor.values(), {str(value.name) for value in model.graph.outputs}
    names = {}
    for tensor in tensors:
        value = values.get(f"{tensor}{ending}") or values.get(tensor)
        if value is None:
            continue
        if value.dtype is not None and value.dtype is not single:
            value = editor.after(value).add("Cast", value, to=single, name=f"{tensor}{_SHOWN}")
        if value.name not in results:
            editor.output(value, single)
        names[tensor] = str(value.name)
    return names


def count_elements(model: "ir.Model", tensors: Sequence[str]) -> dict[str, str]:
    """Makes the numbers of elements of tensors the only results of a graph, in place; their names by the tensors'."""
    import onnx_ir as ir

    editor = GraphEditor(model.graph)
    values = editor.values()
    names = {tensor: f"{tensor}{_COUNT}" for tensor in tensors if tensor in values}
    model.graph.outputs.clear()
    for tensor, name in names.items():
        editor.output(editor.after(values[tensor]).add("Size", values[tensor], name=name), ir.DataType.INT64)
    return names


def _is_float(value: "ir.Value") -> bool:
    """Whether a value is in floating point; graphs in eight bits do not tell it of what they dequantize."""
    import onnx_ir as ir

    maker = value.producer()
    if value.dtype is None and maker is not None and maker.op_type == "DequantizeLinear":
        return not any(one is not None and one.const_value is not None for one in maker.inputs[:1])
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
