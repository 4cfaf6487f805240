"""The graphs that are made of a compiled one: it keeps features, goes on from one of them, or makes whole steps.

They are cut from what ONNX Runtime compiled, and not compiled themselves: so they compute what the whole graph does, to
the last bit, over the same file of packed weights. Each is a small file beside the engine's graph: of the one that
keeps features there is but what it has more.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.backends.ort_cpu.cached import shallow_file
from latentrt.engines.backends.ort_cpu.model import KEEPING_FILE, MODEL_FILE, STEP_FILE
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.deep_cache import branch_count, deep_feature
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.variants.denoise_step import add_denoise_step
from latentrt.engines.graphs.variants.joins import joins

if TYPE_CHECKING:
    import onnx


def write_cached_graphs(component: Component, folder: Path) -> None:
    """Writes the graphs of a compiled U-Net beside it; nothing where onnx is missing.

    Raises:
        EngineError: the compiled graph has lost a node that joins planes.
    """
    try:
        import onnx

        source = load_graph(component.onnx)
    except ImportError:
        return
    ordered = [str(node.name) for node in reversed(joins(source.graph, component.structure))]
    names = ordered[: branch_count(component.structure)]
    compiled = onnx.load(folder / MODEL_FILE, load_external_data=False)
    for branch, name in enumerate(names):
        shallow = onnx.ModelProto.FromString(compiled.SerializeToString())
        _cut(shallow.graph, name, deep_feature(branch))
        onnx.save(shallow, folder / shallow_file(branch))
    keeping = onnx.ModelProto(graph=_keeping(compiled.graph, names))
    (folder / KEEPING_FILE).write_bytes(keeping.SerializeToString())
    if component.makes_steps:
        add_denoise_step(compiled.graph)
        onnx.save(compiled, folder / STEP_FILE)


def _keeping(graph: "onnx.GraphProto", names: Sequence[str]) -> "onnx.GraphProto":
    """What a graph lacks that returns what the nodes of these names take first."""
    from onnx import GraphProto, helper

    added = GraphProto()
    for branch, name in enumerate(names):
        node, feature = _join(graph, name), deep_feature(branch)
        added.node.append(helper.make_node("Identity", [node.input[0]], [feature], name=feature))
        added.output.append(_declared(graph, node, feature))
    return added


def _cut(graph: "onnx.GraphProto", name: str, feature: str) -> None:
    """Makes what a node takes first an input, and removes all that no result depends on any more."""
    node = _join(graph, name)
    graph.input.append(_declared(graph, node, feature))
    node.input[0] = feature
    needed = _needed(graph, [value.name for value in graph.output])
    _keep_only(graph.node, [one for one in graph.node if not needed.isdisjoint(one.output)])
    for values in (graph.input, graph.initializer, graph.value_info):
        _keep_only(values, [one for one in values if one.name in needed])


def _join(graph: "onnx.GraphProto", name: str) -> "onnx.NodeProto":
    found = next((node for node in graph.node if node.name == name and node.op_type == "Concat"), None)
    if found is None:
        raise EngineError(
            f"got a compiled U-Net without the node {name!r} that joins two planes, expected it for deep_cache; report "
            "the version of onnxruntime"
        )
    return found


def _declared(graph: "onnx.GraphProto", join: "onnx.NodeProto", feature: str) -> "onnx.ValueInfoProto":
    """A feature by name, of the type that its node joins."""
    from onnx import TensorProto, helper

    of_join = {*join.input, *join.output}
    told = (one.type.tensor_type.elem_type for one in graph.value_info if one.name in of_join)
    return helper.make_tensor_value_info(feature, next(told, TensorProto.FLOAT), [None] * 4)


def _needed(graph: "onnx.GraphProto", results: Iterable[str]) -> set[str]:
    """The values that results depend on, themselves included."""
    makers = {output: node for node in graph.node for output in node.output}
    needed, wanted = set[str](), list(results)
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += _taken(makers[name]) if name in makers else ()
    return needed


def _taken(node: "onnx.NodeProto") -> Iterator[str]:
    """What a node takes, and the branches of an If with it."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _taken(inner)


def _keep_only(values: Any, kept: Sequence[Any]) -> None:
    kept = [type(one).FromString(one.SerializeToString()) for one in kept]
    del values[:]
    values.extend(kept)
