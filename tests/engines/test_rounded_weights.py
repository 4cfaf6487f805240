"""Weights in eight bits: read as they were, and rounded again bit for bit as ONNX Runtime's quantizer rounds them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.named_weights import read_named_weights, write_named_weights
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.graphs.editor import load_graph, save_with_weights, weight_of
from latentrt.engines.graphs.half import halve_file
from latentrt.engines.graphs.islands import islands_of
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.named_weights import weights_after_quantization
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.ranges import InputChoice
from latentrt.engines.graphs.quantization.recipe import Range
from latentrt.engines.precision import Precision
from latentrt.engines.spec import Array

_BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
_WIDENED = "mid_block.resnets.0.conv2"
# Kept in floating point, though quantizable: one that is smoothed and one that is not
_FLOATING = (f"unet.{_BLOCK}.attn2.to_q", "unet.conv_in")


@dataclass(frozen=True, kw_only=True)
class Int8:
    """A graph in int8 and its weights by name."""

    root: Path
    weights: ComponentWeights

    def initializers(self) -> dict[str, Array]:
        """All that the graph holds; of fp8 the bits."""
        graph = load_graph(self.root / "int8" / "model.onnx").graph
        held = {str(name): weight_of(value) for name, value in graph.initializers.items()}
        return {
            name: array.view(np.uint8) if str(array.dtype).startswith("float8") else array
            for name, array in held.items()
        }


def quantized(graph: OnnxWeights, source: ComponentWeights, recipe: Recipe, root: Path) -> Int8:
    """A U-Net's graph in int8 with ranges and divisors that need no calibration."""
    nodes = graph.quantizable()
    random = np.random.default_rng(0)
    inputs: dict[str, InputChoice] = {}
    for node in nodes:
        divisor = None if node.operator == "Conv" else random.uniform(0.3, 3.0, node.inputs).astype(np.float32)
        inputs.setdefault(
            node.input, InputChoice(range=Range(lowest=-3.0, highest=4.0), divisor=divisor, alpha=0.5, error=0.0)
        )
    chosen: list[QuantizableNode] = [node for node in nodes if node.path not in _FLOATING]
    outputs = {
        node.output: Range(lowest=-5.0, highest=5.0) for node in chosen if node.operator in recipe.quantizes_outputs
    }
    write_quantized(graph, chosen, inputs, outputs, recipe, root / "int8")
    if recipe.symmetric:
        halve_file(root / "int8" / "model.onnx", islands_of("sd1", "unet"))
    model, lost = root / "int8" / "model.onnx", root / "weights" / "unet.remainders"
    named = weights_after_quantization(source, graph.path, model, root, inputs, recipe, lost)
    write_named_weights(root / "weights" / "unet.json", named)
    named = read_named_weights(root / "weights" / "unet.json")
    files = {str(path.relative_to(root)): path for path in (model.with_name("model.onnx.data"), lost)}
    return Int8(root=root, weights=ComponentWeights("unet", named, files, "weights/unet.remainders"))


@pytest.fixture(scope="module")
def source(tiny_bundle: Path) -> ComponentWeights:
    """The tiny U-Net's weights in fp32."""
    return open_bundle(tiny_bundle).weights("unet")


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path) -> OnnxWeights:
    """Its graph."""
    return OnnxWeights(Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet").onnx)


# The first rounds as U8S8 does, to other numbers; the second writes what E4M3 writes, in int8
SELDOM = (Recipe.U8S8_REDUCED, Recipe.S8S8)


@pytest.fixture(
    scope="module",
    params=[pytest.param(recipe, marks=pytest.mark.slow if recipe in SELDOM else ()) for recipe in Recipe],
)
def int8(
    request: pytest.FixtureRequest,
    graph: OnnxWeights,
    source: ComponentWeights,
    tmp_path_factory: pytest.TempPathFactory,
) -> Int8:
    """The tiny U-Net in int8 by a recipe."""
    return quantized(graph, source, request.param, tmp_path_factory.mktemp(request.param))


def _other(new: Array, old: Array) -> Array:
    """What a weight becomes, whatever it was."""
    assert new.shape == old.shape
    return new


def _sum(delta: Array, old: Array) -> Array:
    """A weight and what is added to it."""
    return delta + old


def changes(weights: dict[str, Callable[[Array], Array]]) -> Changes:
    return Changes(key="test", weights=weights)


def test_every_weight_is_read_as_it_was(int8: Int8, source: ComponentWeights) -> None:
    """Of eight bits within 1/506 of the distance between two numbers; smoothing is undone; nothing is out of reach."""
    weights, kinds = int8.weights, {"rounded": 0, "smoothed": 0, "bias": 0}
    assert weights.named.weights.keys() == source.named.weights.keys()
    for name, row in weights.named.weights.items():
        exact, read = source.array(name), weights.array(name)
        assert row.reason is None
        assert read.shape == exact.shape
        matrices = [matrix for matrix in weights.rounded(name).values() if matrix.weight == name]
        kinds["rounded"] += len(matrices)
        kinds["bias"] += len(weights.rounded(name)) - len(matrices)
        kinds["smoothed"] += any(place.smoothing for place in row.places)
        half = any(place.dtype == "float16" for place in row.places)
        bound = np.abs(exact) * (2e-3 if half else 1e-6) + (1e-7 if half else 0.0)
        for matrix in matrices:
            shape = [1] * len(matrix.shape)
            shape[matrix.axis] = -1
            exact, read = weights.smoothed(matrix, exact), weights.smoothed(matrix, read)
            distance = weights.steps(matrix).reshape(shape)
            if matrix.precision is Precision.FP8:  # of numbers with three bits of mantissa
                distance = np.maximum(distance * 2.0**-9, np.abs(exact) / 7.5)
            bound = distance / np.float32(505.0) + np.abs(exact) * 1e-6
        assert (np.abs(read - exact) <= bound).all(), name
    biases = any(matrix.biases for matrix in weights.named.rounded.values())
    assert kinds["rounded"] > 20
    assert kinds["smoothed"] > 5
    assert (kinds["bias"] > 10) == biases


def test_what_is_not_changed_rounds_as_before(int8: Int8) -> None:
    """A weight that is read and put back has the same eight bits."""
    held, names = int8.initializers(), int8.weights.named.weights
    for name in names:
        for initializer, content in changed_initializers(int8.weights, changes({name: lambda old: old})):
            assert content.dtype == held[initializer].dtype
            if content.dtype.itemsize == 1:
                np.testing.assert_array_equal(content, held[initializer])
            elif content.dtype == np.int32:
                assert np.abs(content.astype(np.int64) - held[initializer]).max() <= 1 + np.abs(content).max() * 1e-6
            else:
                np.testing.assert_allclose(content, held[initializer], rtol=2e-3, atol=1e-7)


# All kinds of weights at once, by the size of what is added to each
CHANGED = {
    f"{_BLOCK}.attn1.to_q.weight": 0.1,  # MatMul
    f"{_BLOCK}.attn2.to_q.weight": 0.1,  # smoothed, in floating point
    f"{_BLOCK}.norm1.weight": 0.1,  # smoothed with what takes it
    f"{_BLOCK}.norm3.bias": 0.1,
    "time_embedding.linear_1.weight": 0.1,  # Gemm, whose bias is in 32 bits
    "time_embedding.linear_2.bias": 0.1,
    "mid_block.resnets.0.conv1.weight": 0.1,
    "mid_block.resnets.0.conv1.bias": 0.1,
    f"{_WIDENED}.bias": 1e6,  # too large for 32 bits with the weight's steps
    "mid_block.resnets.1.conv1.weight": 0.1,
    "mid_block.resnets.1.conv1.bias": 1e6,
    "conv_in.weight": 0.1,  # in floating point
    "conv_in.bias": 0.1,
}


def test_changed_weights_are_rounded_bit_for_bit(
    int8: Int8, graph: OnnxWeights, source: ComponentWeights, tmp_path: Path
) -> None:
    """As ONNX Runtime's quantizer rounds a graph that has them, scales and biases among them; nothing else differs.

    What is added to the weights that the bundle knows comes out the same nearly everywhere.
    """
    recipe = next(recipe for recipe in Recipe if int8.root.name.startswith(f"{recipe}0"))
    random = np.random.default_rng(1)
    deltas, new = {}, {}
    for name, scale in CHANGED.items():
        added = random.normal(0.0, min(scale, 1e3) if recipe.symmetric else scale, source.shape(name))  # fp16's range
        deltas[name] = np.asarray(added, np.float32)
        new[name] = source.array(name) + deltas[name]
    model = graph.copy()
    for name, weight in new.items():
        for place, numbers in source.placed(name, weight):
            model.graph.initializers[str(place.initializer)].const_value = ir.tensor(numbers)
    (tmp_path / "changed").mkdir()
    save_with_weights(model, tmp_path / "changed" / "model.onnx")
    expected = quantized(OnnxWeights(tmp_path / "changed" / "model.onnx"), source, recipe, tmp_path).initializers()
    held = int8.initializers()
    changed = dict(changed_initializers(int8.weights, changes({name: partial(_other, new[name]) for name in new})))
    for initializer, numbers in expected.items():
        mine = changed.get(initializer, held[initializer])
        if initializer == f"unet.{_WIDENED}.weight_quantized":  # with other steps, but from what the bundle holds
            assert np.mean(mine != numbers) < 1e-3
            assert np.abs(mine.astype(int) - numbers).max() <= 1
        else:
            np.testing.assert_array_equal(mine, numbers, err_msg=initializer)
    assert changed.keys() <= expected.keys()
    differ = {initializer for initializer, numbers in changed.items() if not np.array_equal(numbers, held[initializer])}
    assert len(differ) == (len(CHANGED) + 4 if recipe.symmetric else 24)
    live = changed_initializers(int8.weights, changes({name: partial(_sum, deltas[name]) for name in deltas}))
    for initializer, mine in live:
        if mine.dtype.itemsize == 1:
            assert np.mean(mine != expected[initializer]) < (3e-3 if mine.dtype == np.int8 else 6e-3)
        if mine.dtype == np.int8:
            assert np.abs(mine.astype(int) - expected[initializer]).max() <= 1
        elif mine.dtype.itemsize > 1:
            least = {"int32": 1.0, "float16": 5e-4, "float32": 1e-6}[str(mine.dtype)]
            np.testing.assert_allclose(mine, expected[initializer], rtol=1e-3, atol=least)
