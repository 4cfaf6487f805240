"""ONNX graphs, edited while their weights stay on the disk.

Graphs are onnx_ir's: there a value knows the node that makes it and those that take it, a rename reaches all of them,
weights are read when they are asked for, and torch's exporter hands over the same. In onnx's own messages all of that
would have to be kept beside the graph. Both packages come with latentrt[export], and are imported when a graph is
edited and not before: engines that were compiled open without them.
"""

import ast
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
_EXTERNAL_FROM = 1024  # bytes


def load_graph(path: Path) -> "ir.Model":
    """Reads a graph; its weights stay in the file beside it.

    Raises:
        ImportError: onnx or onnx_ir is missing.
    """
    import onnx_ir as ir

    return ir.load(path)


def save_graph(model: "ir.Model", path: Path) -> None:
    """Writes a graph over the weights file that it was loaded with; what was added is in the graph itself.

    Raises:
        ValueError: its weights lie in another folder.
    """
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).resolve().parent != path.resolve().parent:
            raise ValueError(
                f"got {str(path)!r} for a graph whose weights are in {tensor.path!r}, expected the same folder; "
                "write the graph there"
            )
    ir.save(model, path)


def save_with_weights(model: "ir.Model", path: Path) -> None:
    """Writes a graph and a weights file of its own, ``<name>.data``; weights are read, or made, one at a time.

    Either may be the file that the graph was loaded from.
    """
    import onnx_ir as ir

    with TemporaryDirectory(dir=path.parent) as folder:
        ir.save(model, Path(folder) / path.name, external_data=f"{path.name}.data", size_threshold_bytes=_EXTERNAL_FROM)
        for written in Path(folder).iterdir():
            written.replace(path.with_name(written.name))


def serialized(model: "ir.Model") -> bytes:
    """A graph as a file would hold it; weights on disk stay there, and are named by their places."""
    import onnx_ir as ir

    return bytes(ir.to_proto(model).SerializeToString())


def weight_of(value: "ir.Value") -> Array:
    """The numbers of a weight; from a file they are mapped, for as long as the array lives.

    onnx_ir's own mapping would stay: one open file per weight.
    """
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None:
        raise ValueError(f"got {value.name!r}, which is computed, expected a weight")
    if isinstance(tensor, ir.ExternalTensor):
        shape = tuple(tensor.shape.numpy())
        return np.memmap(tensor.path, dtype=tensor.dtype.numpy(), mode="r", offset=tensor.offset or 0, shape=shape)
    return np.asarray(tensor.numpy())


def computed_weight(name: str, like: Any, compute: Callable[[], Array], dtype: "ir.DataType | None" = None) -> Any:
    """A weight that is computed each time it is read or written, and not kept.

    Args:
        name: of the weight.
        like: the ``onnx_ir`` tensor that it is made of, whose shape it has.
        compute: gives its numbers.
        dtype: their type, where it is not the tensor's.

    Returns:
        A tensor of ``onnx_ir``.
    """
    import onnx_ir as ir

    return ir.LazyTensor(
        lambda: ir.tensor(compute(), name=name), dtype=dtype or like.dtype, shape=like.shape, name=name
    )


def input_of(node: "ir.Node", index: int) -> "ir.Value":
    """What a node takes at a place that its operator does not leave open."""
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"got no input {index} for node {node.name!r} ({node.op_type}), expected one")
    return value


def dtype_of(value: "ir.Value") -> "ir.DataType":
    """The type of a floating-point value's numbers; graphs in eight bits do not tell it of what they dequantize."""
    import onnx_ir as ir

    maker = value.producer()
    if value.dtype is None and maker is not None and maker.op_type == "DequantizeLinear":
        return input_of(maker, 1).dtype or ir.DataType.FLOAT
    return value.dtype or ir.DataType.FLOAT


def scope_of(node: "ir.Node") -> str:
    """The dotted path of the torch module that a node came from; empty where the graph does not say."""
    scopes = node.metadata_props.get(SCOPES)
    modules = [] if scopes is None else [path for path in ast.literal_eval(scopes)[:-1] if path]
    return modules[-1] if modules else ""


class GraphEditor:
    """Adds to a graph, rewires it, and removes what is needed no more."""

    def __init__(self, graph: "ir.Graph") -> None:
        """Takes a graph, which is changed in place."""
        self.graph = graph
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def values(self) -> dict[str, "ir.Value"]:
        """Inputs, weights and results of nodes by name."""
        made = [value for node in self.graph for value in node.outputs]
        known = [*self.graph.inputs, *self.graph.initializers.values(), *made]
        return {value.name: value for value in known if value.name}

    def before(self, node: "ir.Node", stem: str = "") -> "Insertion":
        """Nodes that are added stand before another; they are named after the stem where they get no names."""
        return Insertion(self, stem, lambda new: self.graph.insert_before(node, new))

    def after(self, value: "ir.Value", stem: str = "") -> "Insertion":
        """Nodes that are added stand right behind the one that makes a value; of an input, before all others."""
        last = value.producer()
        if last is None and len(self.graph):
            return self.before(self.graph[0], stem)

        def insert(new: "ir.Node") -> None:
            nonlocal last
            if last is None:
                self.graph.append(new)
            else:
                self.graph.insert_after(last, new)
            last = new

        return Insertion(self, stem, insert)

    def branch(self, stem: str) -> "Insertion":
        """Nodes that are added make up a graph of their own, for an If: ``subgraph`` gives it."""
        import onnx_ir as ir

        graph = ir.Graph([], [], nodes=[], name=stem)
        return Insertion(self, stem, graph.append, graph)

    def constant(self, numbers: Any) -> "ir.Value":
        """A small weight; equal ones are stored once."""
        import onnx_ir as ir

        array = np.asarray(numbers)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name, count = "", len(self._constants)
            while not name or name in self.graph.initializers:
                name, count = f"latentrt.constant.{count}", count + 1
            self._constants[key] = self.weight(name, ir.tensor(array, name=name))
        return self._constants[key]

    def weight(self, name: str, tensor: Any) -> "ir.Value":
        """A new weight of that name: an array, or one of onnx_ir's tensors."""
        import onnx_ir as ir

        tensor = ir.tensor(tensor, name=name) if isinstance(tensor, np.ndarray) else tensor
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def input(
        self, name: str, dtype: "ir.DataType", shape: Sequence[int | str | None], default: Array | None = None
    ) -> "ir.Value":
        """A new input of the graph.

        Args:
            name: it.
            dtype: of its numbers.
            shape: numbers, names of dimensions, or None for what may be anything.
            default: what it is where a caller does not give it. ONNX Runtime holds it against the shape: a dimension
                that it has only one of, to broadcast, must be a name or None there.
        """
        import onnx_ir as ir

        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        if default is not None:
            value.const_value = ir.tensor(default, name=name)
            self.graph.register_initializer(value)
        return value

    def input_of_weight(self, value: "ir.Value") -> None:
        """Makes a weight an input of the graph, under its name: whoever runs it gives the numbers."""
        del self.graph.initializers[str(value.name)]
        value.const_value = None
        self.graph.inputs.append(value)

    def output(self, value: "ir.Value", dtype: "ir.DataType") -> None:
        """Makes a value a result of the graph, too."""
        value.dtype = dtype
        self.graph.outputs.append(value)

    def rewire(self, old: "ir.Value", new: "ir.Value", *, but: Collection["ir.Node"] = ()) -> None:
        """Hands every node that takes a value another instead, some nodes excepted."""
        for node, index in old.uses():
            if node not in but:
                node.replace_input_with(index, new)

    def give(self, new: "ir.Value", old: "ir.Value") -> None:
        """Returns a value as a result of the graph, under the name of the one that was it."""
        name, shape = old.name, old.shape
        old.name, new.name, new.shape = f"{name}.before", name, shape
        for index, value in enumerate(self.graph.outputs):
            if value is old:
                self.graph.outputs[index] = new

    def replace(self, node: "ir.Node", value: "ir.Value") -> None:
        """Puts a value in the place of a node's one result, under its name and type; the node goes."""
        (old,) = node.outputs
        value.type = old.type
        self.rewire(old, value)
        self.give(value, old)
        self.graph.remove(node, safe=True)

    def prune(self) -> None:
        """Removes nodes and weights that no result depends on; inputs stay."""

        def idle(node: "ir.Node") -> bool:
            return not any(value.uses() or value.is_graph_output() for value in node.outputs)

        unneeded = dict.fromkeys(node for node in self.graph if idle(node))
        while unneeded:
            node, _ = unneeded.popitem()
            makers = [value.producer() for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            unneeded |= dict.fromkeys(maker for maker in makers if maker is not None and idle(maker))
        outside = {*self.graph.inputs, *self.graph.outputs}
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and value not in outside:
                del self.graph.initializers[name]


class Insertion:
    """Nodes on their way into one place of a graph. A node has the name of what it makes."""

    def __init__(
        self, editor: GraphEditor, stem: str, insert: Callable[["ir.Node"], None], graph: "ir.Graph | None" = None
    ) -> None:
        """Takes what puts a node there, and the branch that they make up, if they do."""
        self._editor, self._stem, self._insert, self._graph = editor, stem, insert, graph
        self._count = 0

    def constant(self, numbers: Any) -> "ir.Value":
        """A small weight of the whole graph; equal ones are stored once."""
        return self._editor.constant(numbers)

    def add(
        self,
        operator: str,
        *inputs: "ir.Value | None",
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> "ir.Value":
        """A node of one result, which is returned.

        Args:
            operator: its type.
            inputs: what it takes; None leaves one out.
            name: its own and its result's; without one they are numbered.
            domain: of the operator; the graph imports it.
            attributes: plain values, graphs, or those of another node.
        """
        name = f"{self._stem}.{operator}.{self._count}" if name is None else name
        (result,) = self._added(operator, inputs, name, [name], domain, attributes)
        return result

    def split(self, value: "ir.Value", sizes: Sequence[int], axis: int) -> list["ir.Value"]:
        """A value in pieces of these sizes along an axis."""
        name = f"{self._stem}.Split.{self._count}"
        pieces = [f"{name}.{index}" for index in range(len(sizes))]
        return self._added("Split", (value, self.constant(sizes)), name, pieces, "", {"axis": axis})

    def _added(
        self,
        operator: str,
        inputs: Sequence["ir.Value | None"],
        name: str,
        results: Sequence[str],
        domain: str,
        attributes: dict[str, Any],
    ) -> list["ir.Value"]:
        import onnx_ir as ir

        self._count += 1
        values = [ir.Value(name=result) for result in results]
        node = ir.Node(
            domain, operator, inputs, ir.convenience.convert_attributes(attributes), outputs=values, name=name
        )
        self._insert(node)
        if domain:
            self._editor.graph.opset_imports.setdefault(domain, 1)
        return values

    def add_like(self, node: "ir.Node", *inputs: "ir.Value | None") -> "ir.Value":
        """A node of another's operator and attributes that takes something else."""
        attributes: Any = node.attributes
        return self.add(node.op_type, *inputs, domain=node.domain, **attributes)

    def subgraph(self, result: "ir.Value", dtype: "ir.DataType") -> "ir.Graph":
        """The branch that was added, which gives a value."""
        if self._graph is None:
            raise ValueError("got nodes of the graph itself, expected those of a branch; begin them with branch()")
        result.dtype = dtype
        self._graph.outputs.append(result)
        return self._graph
