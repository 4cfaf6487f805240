"""Attention in fp8: what is rounded, what is computed of it, and what TensorRT-RTX makes of that."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.editor import load_graph, serialized, weight_of
from latentrt.engines.graphs.half import halve_file
from latentrt.engines.graphs.quantization.attention import (
    multiply_rounded,
    quantizable_attentions,
    rounded_attention,
)
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.graphs.quantization.observe import Observations, ObservingEngine
from latentrt.engines.graphs.quantization.ranges import choose_inputs
from latentrt.engines.spec import Array, EngineSpec, TensorSpec

HEADS, WIDTH, LENGTH, TOKENS = 2, 16, 64, 77
CHANNELS = HEADS * WIDTH


def attention_graph(path: Path) -> OnnxWeights:
    """A cross-attention as the exporter lays it out: linear layers around it, heads moved to the front and back."""
    rng = np.random.default_rng(0)
    sources = {"q": "x", "k": "states", "v": "states"}
    weights = {name: rng.normal(size=(CHANNELS, CHANNELS)) / CHANNELS**0.5 for name in (*sources, "o")}
    sizes = {"same": [0], "all": [-1], "heads": [HEADS], "width": [WIDTH], "flat": [0, 0, CHANNELS]}
    nodes = [helper.make_node("Concat", ["same", "all", "heads", "width"], ["apart"], name="apart", axis=0)]
    for name, source in sources.items():
        nodes += [
            helper.make_node("MatMul", [source, f"w{name}"], [f"{name}.flat"], name=f"linear.{name}"),
            helper.make_node("Reshape", [f"{name}.flat", "apart"], [f"{name}.apart"], name=f"{name}.split"),
            helper.make_node("Transpose", [f"{name}.apart"], [name], name=f"{name}.moved", perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("Attention", ["q", "k", "v"], ["attended"], name="attention"),
        helper.make_node("Transpose", ["attended"], ["back"], name="back", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "flat"], ["joined"], name="joined"),
        helper.make_node("MatMul", ["joined", "wo"], ["out"], name="linear.o"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            value("x", TensorProto.FLOAT, [2, LENGTH, CHANNELS]),
            value("states", TensorProto.FLOAT, [2, TOKENS, CHANNELS]),
        ],
        [value("out", TensorProto.FLOAT, [2, LENGTH, CHANNELS])],
        [
            *(numpy_helper.from_array(array.astype(np.float32), f"w{name}") for name, array in weights.items()),
            *(numpy_helper.from_array(np.array(size, np.int64), name) for name, size in sizes.items()),
        ],
        value_info=[
            value(name, TensorProto.FLOAT, None)
            for name in (
                *"qkv",
                "attended",
                "back",
                "joined",
                *(f"{n}.{at}" for n in "qkv" for at in ("flat", "apart")),
            )
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx.data")
    return OnnxWeights(path)


class Written:
    """The graph in fp8, halved as for a GPU, with inputs and what they give in fp32."""

    def __init__(self, folder: Path) -> None:
        weights = attention_graph(folder / "model.onnx")
        rng = np.random.default_rng(1)
        self.inputs = {
            "x": rng.normal(size=(2, LENGTH, CHANNELS)).astype(np.float32),
            "states": rng.normal(size=(2, TOKENS, CHANNELS)).astype(np.float32),
        }
        (self.attention,) = quantizable_attentions(weights)
        kind = np.dtype(np.float32)
        spec = EngineSpec(
            inputs={name: TensorSpec(shape=array.shape, dtype=kind) for name, array in self.inputs.items()},
            outputs={"out": TensorSpec(shape=(2, LENGTH, CHANNELS), dtype=kind)},
            batches=(2,),
        )
        seen, nodes = Observations(), weights.quantizable()
        with ObservingEngine(weights, nodes, spec, seen, (), self.attention.inputs) as engine:
            self.exact = engine.run(self.inputs)["out"]
        self.rounded = rounded_attention(self.attention, seen)
        choices = dict(choose_inputs(weights, nodes, seen, Recipe.E4M3))
        self.path = folder / "fp8" / "model.onnx"
        write_quantized(weights, nodes, choices, {}, Recipe.E4M3, self.path.parent, [self.rounded])
        halve_file(self.path, ())

    def run(self, model: Any) -> Array:
        """What a graph made of it gives."""
        return np.asarray(OnnxWeights(self.path).session(model).run(["out"], self.inputs)[0])

    def multiplied(self) -> Any:
        """The graph with products in the place of the operator."""
        model = load_graph(self.path)
        assert multiply_rounded(model) == 1
        return model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Written once."""
    return Written(tmp_path_factory.mktemp("attention"))


def test_what_is_rounded(written: Written) -> None:
    """Queries, keys and values before their heads are moved, over the ranges that were seen; queries are scaled."""
    assert written.attention.inputs == ("q.flat", "k.flat", "v.flat")
    assert written.attention.scale == WIDTH**-0.5
    flat = written.inputs["states"] @ weight_of(
        OnnxWeights(written.path.parents[1] / "model.onnx").model.graph.initializers["wv"]
    )
    assert written.rounded.ranges[2].highest == pytest.approx(float(flat.max()), rel=1e-5)
    graph = load_graph(written.path).graph
    (operator,) = (node for node in graph if node.op_type == "Attention")
    assert operator.attributes["scale"].value == 1.0  # where control nets and image prompts look for it
    kinds = [node.op_type for node in graph]
    assert kinds.count("QuantizeLinear") == 6  # of two linear layers' inputs, of queries, keys, values, of the result


def test_it_is_computed_as_products_of_rounded_numbers(written: Written) -> None:
    """Nearly as before, and with the softmax rounded a little farther off than by the operator."""
    operator, products = written.run(load_graph(written.path)), written.run(written.multiplied())
    norm = np.linalg.norm(written.exact)
    by_operator, by_products = (float(np.linalg.norm(one - written.exact) / norm) for one in (operator, products))
    assert 0.01 < by_operator < by_products < 0.1


def test_what_is_not_rounded_stays_an_operator(written: Written) -> None:
    """Engines in other precisions are compiled of it."""
    model = load_graph(written.path.parents[1] / "model.onnx")
    assert multiply_rounded(model) == 0
    assert any(node.op_type == "Attention" for node in model.graph)


@pytest.mark.parametrize("gpu", ["SM89", "SM120"])
def test_tensorrt_makes_one_kernel_of_it_that_takes_fp8(written: Written, gpu: str) -> None:
    """The builder lists its kernels: attention is one of them, and so is each linear layer in fp8."""
    trt = pytest.importorskip("tensorrt_rtx")
    told: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]  # the module is known at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            told.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    path = written.path.with_name("products.onnx")
    assert parser.parse(serialized(written.multiplied()), path=str(path))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, gpu), 0)
    assert builder.build_serialized_network(network, config) is not None
    layers = next(message for message in told if message.startswith("Layers:")).split("\nName: ")
    taken = {layer.split(",")[0]: re.findall(r"Datatype: (\w+)", layer.partition("Constants")[0]) for layer in layers}
    (attention,) = (types for name, types in taken.items() if "mha" in name)
    assert attention == ["FP8"] * 3
    assert sum(types == ["FP8"] for name, types in taken.items() if "linear" in name) >= 2
