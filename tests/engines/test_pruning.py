"""2:4 from the inside: which weights stay, by which criterion, in which layers."""

from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.sparsity import Criterion
from latentrt.engines.changes import Changes
from latentrt.engines.graphs.multiplications import multiplications
from latentrt.engines.graphs.quantization.nodes import OnnxWeights, QuantizableNode
from latentrt.engines.graphs.quantization.observe import Observations, Observed, ObservingEngine
from latentrt.engines.pruning.layers import PrunableLayer, best_pruned, input_norms, prunable_layers, pruned_by
from latentrt.engines.pruning.two_of_four import is_two_of_four, two_of_four
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array


def linear(inputs: int, outputs: int) -> PrunableLayer:
    """A product with a matrix that is stored as (inputs, outputs)."""
    node = QuantizableNode(
        path="to_q",
        name="m",
        operator="MatMul",
        input="x",
        weight="w",
        output="y",
        shape=(inputs, outputs),
        channels=1,
    )
    return PrunableLayer(node=node, weight="to_q.weight")


def seen(samples: Array) -> Observed:
    """An input of which these rows or windows were sampled."""
    return Observed(samples=[samples])


@pytest.mark.parametrize("shape", [(3, 8), (5, 12, 3, 3), (2, 4, 3, 1, 1)])
def test_the_two_most_important_of_four_stay(shape: tuple[int, ...]) -> None:
    """Of every four inputs in a row, for each output and place of the window; compared with sorting each four."""
    importance = np.random.default_rng(0).random(shape)
    stays = two_of_four(importance)
    rows = np.moveaxis(importance, 1, -1).reshape(-1, 4)
    expected = np.argsort(np.argsort(-rows)) < 2
    assert np.array_equal(np.moveaxis(stays, 1, -1).reshape(-1, 4), expected)
    assert is_two_of_four(np.where(stays, importance, 0.0))
    assert not is_two_of_four(importance)


def test_equals_lose_nothing_twice() -> None:
    """Of equal weights the first stay, and never more than two; zeros are no weights."""
    assert two_of_four(np.ones((1, 4))).tolist() == [[True, True, False, False]]
    assert two_of_four(np.array([[0.0, 0.0, 0.0, 1.0]])).sum() == 2
    assert is_two_of_four(np.array([[0.0, 5.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0]]))
    assert not is_two_of_four(np.array([[3.0, 5.0, 0.0, 1.0]]))
    assert not is_two_of_four(np.zeros((1, 6)))
    assert is_two_of_four(np.array([[1.0, 0.0, 0.0, 1.0]]).T, axis=0)


def test_loud_inputs_keep_their_small_weights() -> None:
    """By Wanda, where magnitude alone would lose them; its error is what the samples' results say."""
    samples = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32) * np.float32([10, 10, 0.1, 0.1])
    weight = np.array([[0.2, -0.3, 1.0, -1.1]], np.float32)
    how = best_pruned(linear(4, 1), weight, seen(samples))
    assert how.criterion is Criterion.WANDA
    assert np.array_equal(how(weight), np.float32([[0.2, -0.3, 0.0, 0.0]]))
    assert not np.signbit(how(weight)[0, 3])
    exact, left = samples @ weight.T, samples @ how(weight).T
    assert how.error == pytest.approx(float(np.square(left - exact).sum() / np.square(exact).sum()), rel=1e-5)
    assert how.error < 0.01
    assert np.allclose(how.norms, np.sqrt(np.mean(np.square(samples), axis=0)), rtol=1e-5)


def test_magnitude_where_it_loses_less() -> None:
    """Inputs that cancel each other are loud one by one, and nothing together."""
    drawn = np.random.default_rng(2).normal(size=(64, 3)).astype(np.float32)
    samples = np.stack([3.0 * drawn[:, 0], -3.0 * drawn[:, 0], drawn[:, 1], drawn[:, 2]], axis=1)
    weight = np.array([[0.5, 0.5, 1.0, 1.0]], np.float32)
    how = best_pruned(linear(4, 1), weight, seen(samples))
    assert how.criterion is Criterion.MAGNITUDE
    assert how(weight).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert how.error == pytest.approx(0.0, abs=1e-12)


def test_norms_of_windows() -> None:
    """Over samples and places."""
    windows = np.random.default_rng(3).normal(size=(5, 4, 3, 3)).astype(np.float32)
    assert np.allclose(input_norms(windows), np.sqrt(np.mean(np.square(windows), axis=(0, 2, 3))), rtol=1e-5)
    weight = np.ones((2, 4, 3, 3), np.float32)
    norms = np.array([1.0, 4.0, 3.0, 2.0], np.float32)
    assert pruned_by(weight, norms)[:, :, 0, 0].tolist() == [[0.0, 1.0, 1.0, 0.0]] * 2


class Unet:
    """A tiny bundle's U-Net, and a call of it."""

    def __init__(self, root: Path) -> None:
        self.bundle: Bundle = open_bundle(root)
        self.component = Component(root=root, manifest=self.bundle.manifest, name="unet")
        self.graph, self.weights = OnnxWeights(self.component.onnx), self.bundle.weights("unet")
        profile = self.bundle.manifest.profiles[0]
        self.spec = self.component.spec_of_any_batch(Shapes(profile=profile))
        probes = (probe for probe in self.bundle.probes("unet") if probe.profile == profile)
        self.inputs = next(p.inputs for p in probes if self.bundle.manifest.chunks("unet", p.inputs) == 1)

    def observed(self) -> Observations:
        observations = Observations()
        with ObservingEngine(self.graph, self.graph.quantizable(), self.spec, observations) as engine:
            engine.run(self.inputs)
        return observations


def test_layers_by_the_names_of_their_weights(tiny_bundle: Path) -> None:
    """Each weight is that of its module; pruning it changes just that initializer, to 2:4 along its inputs."""
    unet = Unet(tiny_bundle)
    layers = list(prunable_layers(unet.graph, unet.weights))
    assert len(layers) > 50
    assert all(layer.path.endswith(layer.weight.removesuffix(".weight")) for layer in layers)
    assert all(layer.node.inputs % 4 == 0 for layer in layers)
    for layer in (next(one for one in layers if one.node.operator == kind) for kind in ("Conv", "MatMul", "Gemm")):
        norms = np.ones(layer.node.inputs, np.float32)
        changes = Changes(key="pruned", weights={layer.weight: lambda weight, n=norms: pruned_by(weight, n)})
        ((name, content),) = changed_initializers(unet.weights, changes)
        assert name == layer.node.weight
        assert is_two_of_four(content, axis=1 - layer.node.channels)
        exact = unet.graph.array(layer.node.weight)
        assert np.array_equal(content[content != 0], exact[content != 0])


def test_multiplications(tiny_bundle: Path) -> None:
    """A convolution's and a product's, from the shapes of one call."""
    unet = Unet(tiny_bundle)
    nodes = unet.graph.quantizable()
    counts = multiplications(unet.graph, nodes, unet.inputs)
    rows, _, height, width = unet.inputs["sample"].shape
    first = next(node for node in nodes if node.path.endswith("conv_in"))
    assert counts[first.path] == rows * height * width * first.parameters
    tokens = unet.inputs["encoder_hidden_states"].shape[1]
    keys = next(node for node in nodes if node.path.endswith("attn2.to_k"))
    assert counts[keys.path] == rows * tokens * keys.parameters
    assert counts.keys() == {node.path for node in nodes}


def test_a_graph_in_fp16_is_observed_like_one_in_fp32(tiny_bundle: Path, half_bundle: Path) -> None:
    """Extremes and norms of the same call, but for fp16's rounding; the same layers can be pruned."""
    wide, half = Unet(tiny_bundle), Unet(half_bundle)
    half.inputs = wide.inputs
    of_wide, of_half = wide.observed(), half.observed()
    paths = {node.path: node for node in wide.graph.quantizable()}
    for node in half.graph.quantizable():
        expected, got = of_wide.tensors[paths[node.path].input], of_half.tensors[node.input]
        assert got.samples[0].dtype == np.float32
        assert np.allclose(got.channel_peaks, expected.channel_peaks, rtol=0.02, atol=0.02)
        assert np.allclose(input_norms(got.samples[0]), input_norms(expected.samples[0]), rtol=0.02, atol=0.02)
    names = [{layer.weight for layer in prunable_layers(one.graph, one.weights)} for one in (wide, half)]
    assert names[0] == names[1]


def test_shared_weights_stay(tiny_bundle: Path) -> None:
    """What two nodes take is left alone: zeros that one can bear may cost the other much."""
    unet = Unet(tiny_bundle)
    first, *_ = layers = list(prunable_layers(unet.graph, unet.weights))
    same = next(layer for layer in layers if layer.node.shape == first.node.shape and layer is not first)
    node = next(node for node in unet.graph.model.graph if node.name == same.node.name)
    node.replace_input_with(1, unet.graph.model.graph.initializers[first.node.weight])
    left = [layer.path for layer in prunable_layers(unet.graph, unet.weights)]
    assert first.path not in left
    assert same.path not in left
    assert len(left) == len(layers) - 2
