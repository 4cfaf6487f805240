"""Changed weights in an int8 bundle: the graph computes as the fp32 one with the same change, compiled or not."""

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.engines.backends.ort_cpu.compiled_weights import CompiledWeights
from latentrt.engines.backends.weights_record import read_weights_record
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.named_weights import Layout, RoundedMatrix
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import compiled_folder


def added(delta: Array, old: Array) -> Array:
    """The weight and what an adapter adds to it."""
    return old + delta


def low_rank(shape: tuple[int, ...], size: float, seed: int) -> Array:
    """A change of rank 4 as adapters make it, of a root mean square."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(shape[0], 4)) @ random.normal(size=(4, int(np.prod(shape[1:]))))
    return np.asarray(size * matrix / np.sqrt(np.mean(np.square(matrix))), np.float32).reshape(shape)


def changes_of(bundle: Path, share: float) -> Changes:
    """A change of every matrix of the U-Net by a share of its size in fp32."""
    weights = open_bundle(bundle).weights("unet")
    deltas = {}
    for seed, (name, row) in enumerate(weights.named.weights.items()):
        if len(row.shape) > 1:
            size = share * float(np.sqrt(np.mean(np.square(weights.array(name)))))
            deltas[name] = low_rank(row.shape, size, seed)
    return Changes(key="low rank", weights={name: partial(added, delta) for name, delta in deltas.items()})


def run(bundle: Path, component: str, inputs: Mapping[str, Array], changes: Changes | None = None) -> Array:
    """The component's graph as it is in the bundle, with changed initializers; its first output."""
    opened = open_bundle(bundle)
    graph = OnnxWeights(opened.path(opened.manifest.components[component].onnx))
    model = graph.copy()
    for name, content in () if changes is None else changed_initializers(opened.weights(component), changes):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        assert (value.const_value.dtype.numpy(), tuple(value.const_value.shape.numpy())) == (
            content.dtype,
            content.shape,
        )
        value.const_value = ir.tensor(content, name=name)
    outputs: list[Array] = graph.session(model).run(None, dict(inputs))
    return outputs[0]


@pytest.fixture(scope="module")
def inputs(emoji_bundle: Path) -> Mapping[str, Array]:
    """Of a call of the U-Net that torch made, too."""
    bundle = open_bundle(emoji_bundle)
    return {name: bundle.probes("unet")[1].inputs[name] for name in bundle.manifest.components["unet"].inputs}


def test_int8_computes_what_fp32_does_with_the_same_change(
    int8_bundle: Path, emoji_bundle: Path, inputs: Mapping[str, Array]
) -> None:
    """As near to it as without a change, and far nearer than what the change does."""
    changes = changes_of(emoji_bundle, 0.2)
    before, expected = run(emoji_bundle, "unet", inputs), run(emoji_bundle, "unet", inputs, changes)
    assert parity_of(before, expected).psnr < 40.0
    plain = parity_of(run(int8_bundle, "unet", inputs), before).psnr
    changed = parity_of(run(int8_bundle, "unet", inputs, changes), expected).psnr
    assert changed > 40.0
    assert changed > plain - 2.0


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_a_tenth_of_a_step_does_not_vanish(component: str, int8_bundle: Path, tmp_path: Path) -> None:
    """It is there on average; without the remainders nothing of it would be."""
    weights = open_bundle(int8_bundle).weights(component)
    assert weights.remainders is not None
    lost = shutil.copyfile(weights.files[weights.remainders], tmp_path / "lost")
    forgetful = dataclasses.replace(weights, files={**weights.files, weights.remainders: lost})
    blank = np.memmap(lost, np.int8, "r+")
    for matrix in weights.named.rounded.values():
        blank[matrix.remainders :][: int(np.prod(matrix.shape))] = 0
    blank.flush()

    def survives(weights: ComponentWeights) -> float:
        found = expected = 0.0
        for seed, (initializer, matrix) in enumerate(weights.named.rounded.items()):
            ordered = [1] * len(matrix.shape)
            ordered[matrix.axis] = -1
            steps = weights.steps(matrix).reshape(ordered)
            delta = low_rank(matrix.shape, 0.1, seed) * steps  # as it is stored
            changes = Changes(key="small", weights={matrix.weight: partial(added, unstored(weights, matrix, delta))})
            new = dict(changed_initializers(weights, changes))
            old = weights._numbers(matrix.file, matrix.offset, matrix.shape, "int8") * steps
            change = (new[initializer] * new[matrix.scale].reshape(ordered) - old) / steps
            found += float(np.vdot(change, delta / steps))
            expected += float(np.vdot(delta / steps, delta / steps))
        return found / expected

    assert survives(weights) == pytest.approx(1.0, abs=0.03)
    assert abs(survives(forgetful)) < 0.03


def unstored(weights: ComponentWeights, matrix: RoundedMatrix, delta: Array) -> Array:
    """What is added to a matrix, as torch has it."""
    plain = weights._unsmoothed(delta, matrix.smoothing)
    return (plain.T if matrix.layout is Layout.TRANSPOSED else plain).reshape(weights.shape(matrix.weight))


def test_the_engine_takes_what_is_rounded_anew(
    int8_bundle: Path, emoji_bundle: Path, inputs: Mapping[str, Array]
) -> None:
    """It knows every initializer by its value, computes what fp32 does with the change, and is itself afterwards."""
    opened = open_bundle(int8_bundle)
    for name in ("text_encoder", "unet", "vae_decoder"):
        component = Component(root=opened.root, manifest=opened.manifest, name=name)
        record = read_weights_record(compiled_folder(component, Backend.ORT_CPU), name, CompiledWeights)
        assert record.lost == ()
        assert set(record.weights) == set(component.named_initializers)
        multiplied = {bias.scale for row in opened.weights(name).named.rounded.values() for bias in row.biases}
        assert bool(multiplied) is (name != "text_encoder")  # whose biases stay in floating point
        assert {initializer for initializer, rows in record.weights.items() if not rows} == multiplied
    changes, shapes = (
        changes_of(emoji_bundle, 0.2),
        Shapes(profile=opened.manifest.profiles[0], chunks=opened.manifest.chunks("unet", inputs)),
    )
    with closing(OpenComponents(opened, Backend.ORT_CPU, threads=1)) as engines:
        before, changed, after = (
            engines.engine("unet", shapes, wanted).run(inputs)["out_sample"] for wanted in (None, changes, None)
        )
    expected = run(emoji_bundle, "unet", inputs, changes)
    assert parity_of(changed, expected).psnr > 40.0
    assert parity_of(before, expected).psnr < 35.0
    np.testing.assert_array_equal(before, after)
