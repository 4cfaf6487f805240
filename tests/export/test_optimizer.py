"""Graphs are optimised as onnxscript does it, with fewer tries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript.rewriter import _matcher

from latentrt.export.tracing.optimizer import optimize


def chained() -> Any:
    """A program that rules of one operator change, and in which the one of two ends looks at two slices."""
    nodes = [
        helper.make_node("Cast", ["x"], ["same"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["same", "zero", "four", "last"], ["left"]),
        helper.make_node("Slice", ["same", "four", "eight", "last"], ["right"]),
        helper.make_node("Mul", ["left", "one"], ["times"]),
        helper.make_node("Transpose", ["right"], ["turned"], perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["back"], perm=[1, 0]),
        helper.make_node("Add", ["times", "back"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["first"]),
        helper.make_node("Relu", ["first"], ["y"]),
    ]
    constants = {"zero": [0], "four": [4], "eight": [8], "last": [-1]}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [
            *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array(1.0, np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    return torch.onnx.ONNXProgram(ir.from_proto(model), None)


def test_the_graph_is_onnxscripts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte; rules are tried where their pattern may end, and everywhere again afterwards."""
    tried: list[str] = []
    init = _matcher.SimplePatternMatcher._init_match

    def counted(matcher: Any, verbose: int) -> None:
        tried.append(str(matcher.pattern))
        init(matcher, verbose)

    monkeypatch.setattr(_matcher.SimplePatternMatcher, "_init_match", counted)
    ways: list[Callable[[Any], None]] = [
        lambda program: program.optimize(),
        optimize,
        lambda program: program.optimize(),
    ]
    written, counts = [], []
    for way in ways:
        tried.clear()
        program = chained()
        way(program)
        written.append(program.model_proto.SerializeToString(deterministic=True))
        counts.append(len(tried))
    assert written[0] == written[1] == written[2]
    operators = [node.op_type for node in onnx.load_from_string(written[1]).graph.node]
    assert operators == ["Slice", "Slice", "Add", "Relu"]
    assert 5 * counts[1] < counts[0]
    assert counts[2] == counts[0]
