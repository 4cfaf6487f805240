"""The graph editor: what is added, rewired and removed, over weights that stay where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from latentrt.engines.graphs.editor import (
    GraphEditor,
    computed_weight,
    input_of,
    load_graph,
    save_graph,
    save_with_weights,
    scope_of,
    serialized,
    weight_of,
)

WEIGHT = np.random.default_rng(0).standard_normal((32, 32), np.float32)
X = np.random.default_rng(1).standard_normal((3, 32), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """relu(x · w) · w, with w on disk."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"], name="first"),
            helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
            helper.make_node("MatMul", ["active", "w"], ["y"], name="second"),
        ],
        "net",
        [value("x", 1, ["n", 32])],
        [value("y", 1, ["n", 32])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    save_with_weights(ir.from_proto(model), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def ran(path: Path, **inputs: Any) -> Any:
    """What ONNX Runtime makes of a file."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X, **inputs})


def test_inputs_with_neutral_defaults(path: Path) -> None:
    """A residual behind a node and a branch beside it; left out, the result is bit-equal, over the same weights."""
    (before,) = ran(path)
    written = (path.with_name("model.onnx.data").stat().st_mtime_ns, path.with_name("model.onnx.data").stat().st_size)
    model = load_graph(path)
    editor = GraphEditor(model.graph)
    active = editor.values()["active"]
    residual = editor.input("residual", ir.DataType.FLOAT, ["residuals", "channels"], np.zeros((1, 1), np.float32))
    scale = editor.input("scale", ir.DataType.FLOAT, [None], np.zeros(1, np.float32))
    place = editor.after(active, "control")
    branch = place.add("Mul", active, scale)
    added = place.add("Add", place.add("Add", active, residual), branch)
    takes = [node for node, _ in active.uses() if node.op_type != "MatMul"]
    editor.rewire(active, added, but=takes)
    variant = path.with_name("variant.onnx")
    save_graph(model, variant)
    assert [node.op_type for node in model.graph] == ["MatMul", "Relu", "Mul", "Add", "Add", "MatMul"]
    assert np.array_equal(ran(variant)[0], before)
    moved = np.random.default_rng(2).standard_normal((3, 32), np.float32)
    (after,) = ran(variant, residual=moved, scale=np.array([0.5], np.float32))
    expected = (1.5 * np.maximum(X @ WEIGHT, 0) + moved) @ WEIGHT
    assert np.allclose(after, expected, rtol=1e-4, atol=1e-4)
    assert (
        path.with_name("model.onnx.data").stat().st_mtime_ns,
        path.with_name("model.onnx.data").stat().st_size,
    ) == written
    assert variant.stat().st_size < 3000


def test_a_graph_is_not_parted_from_its_weights(path: Path, tmp_path: Path) -> None:
    """Another folder is refused; a weights file of its own goes anywhere, and over the one that is read."""
    model, (before,) = load_graph(path), ran(path)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="expected the same folder"):
        save_graph(model, tmp_path / "other" / "model.onnx")
    save_with_weights(model, tmp_path / "other" / "model.onnx")
    assert np.array_equal(ran(tmp_path / "other" / "model.onnx")[0], before)
    save_with_weights(load_graph(path), path)
    assert np.array_equal(ran(path)[0], before)


def test_weights_are_not_loaded(path: Path) -> None:
    """An edited graph is a few bytes; a weight is mapped when it is asked for, and none of it stays open."""
    model = load_graph(path)
    weight = model.graph.initializers["w"]
    assert isinstance(weight_of(weight), np.memmap)
    assert np.array_equal(weight_of(weight), WEIGHT)
    assert len(serialized(model)) < 1000
    with pytest.raises(ValueError, match="'y', which is computed, expected a weight"):
        weight_of(model.graph.outputs[0])


def test_computed_weights_are_written(path: Path) -> None:
    """Each time anew, in the type asked for."""
    model = load_graph(path)
    editor, calls = GraphEditor(model.graph), []
    weight = model.graph.initializers["w"]

    def halved() -> Any:
        calls.append(1)
        return weight_of(weight).astype(np.float16)

    twin = editor.weight("w.fp16", computed_weight("w.fp16", weight.const_value, halved, ir.DataType.FLOAT16))
    assert not calls
    again = ir.from_proto(ir.to_proto(model)).graph.initializers["w.fp16"]
    assert twin.dtype == again.dtype == ir.DataType.FLOAT16
    assert np.array_equal(weight_of(again), WEIGHT.astype(np.float16))


def test_equal_constants_are_stored_once(path: Path) -> None:
    """By type, shape and numbers; names that the graph has are not taken again."""
    graph = load_graph(path).graph
    first, second = GraphEditor(graph), GraphEditor(graph)
    assert first.constant([1, 2]) is first.constant(np.array([1, 2]))
    assert len({first.constant(one) for one in ([1, 2], [[1, 2]], np.float32(1), np.float64(1), 1)}) == 5
    assert second.constant([1, 2]).name not in {first.constant([1, 2]).name, ""}
    assert len(graph.initializers) == 7


def test_replacing_and_pruning(path: Path) -> None:
    """A result keeps its name; what nothing needs goes, node by node, and so do weights."""
    model = load_graph(path)
    editor = GraphEditor(model.graph)
    last = model.graph[2]
    x = model.graph.inputs[0]
    editor.replace(last, editor.before(last).add("Neg", x, name="negated"))
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    editor.prune()
    assert [node.op_type for node in model.graph] == ["Neg"]
    assert not model.graph.initializers
    save_graph(model, path)
    assert np.array_equal(ran(path)[0], -X)


def test_pruning_keeps_what_is_used(path: Path) -> None:
    """In whatever order the nodes stand."""
    model = load_graph(path)
    editor = GraphEditor(model.graph)
    idle = editor.after(model.graph[0].outputs[0])
    idle.add("Abs", idle.add("Exp", model.graph[0].outputs[0], name="exp"), name="abs")
    model.graph.remove(node := model.graph[1])
    model.graph.insert_before(model.graph[0], node)
    assert [one.op_type for one in model.graph] == ["Exp", "MatMul", "Abs", "Relu", "MatMul"]
    editor.prune()
    assert [one.op_type for one in model.graph] == ["MatMul", "Relu", "MatMul"]


def test_branches(path: Path) -> None:
    """An If whose branches take tensors and constants of the graph around them."""
    model = load_graph(path)
    editor = GraphEditor(model.graph)
    relu = model.graph[1]
    switch = editor.input("off", ir.DataType.BOOL, [])
    plain, doubled = editor.branch("plain"), editor.branch("doubled")
    same = plain.add_like(relu, *relu.inputs)
    twice = doubled.add("Mul", input_of(relu, 0), doubled.constant(np.float32(2)))
    chosen = editor.before(relu, "choice").add(
        "If",
        switch,
        then_branch=plain.subgraph(same, ir.DataType.FLOAT),
        else_branch=doubled.subgraph(twice, ir.DataType.FLOAT),
    )
    editor.replace(relu, chosen)
    (before,) = ran(path)
    save_graph(model, path)
    assert np.array_equal(ran(path, off=np.array(True))[0], before)
    assert np.allclose(ran(path, off=np.array(False))[0], 2 * X @ WEIGHT @ WEIGHT, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected those of a branch"):
        editor.before(model.graph[0]).subgraph(same, ir.DataType.FLOAT)


def test_the_module_of_a_node(path: Path) -> None:
    """As torch's exporter tells it, or nothing."""
    node = load_graph(path).graph[0]
    assert scope_of(node) == ""
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'unet', 'unet.conv_in', 'conv2d']"
    assert scope_of(node) == "unet.conv_in"
    with pytest.raises(ValueError, match="got no input 0 for node 'empty'"):
        input_of(ir.Node("", "Dropout", [None], name="empty"), 0)
