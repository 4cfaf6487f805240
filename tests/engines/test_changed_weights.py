"""Engines with changed weights: found by value, computed as the graph would, and kept for the next call."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shared import write_sealed

import latentrt
from latentrt.engines.backends.ort_cpu.compile import open_onnx
from latentrt.engines.backends.ort_cpu.compiled_weights import CompiledWeights
from latentrt.engines.backends.weights_record import WEIGHTS_FILE
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.changes import Changes
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.graphs.editor import load_graph, save_with_weights
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec
from latentrt.engines.store.changed_models import ChangedModels
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import compiled_folder

# A convolution, one of few inputs, a linear, one with time's, a group norm, a layer norm, biases
UNET_WEIGHTS = (
    "conv_in.weight",
    "conv_in.bias",
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.0.resnets.0.time_emb_proj.weight",
    "down_blocks.0.resnets.0.norm1.weight",
    "down_blocks.0.resnets.0.norm1.bias",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight",
    "conv_out.weight",
    "conv_out.bias",
)


def _changes(names: tuple[str, ...], seed: int = 0) -> Changes:
    def moved(weight: Array) -> Array:
        rng = np.random.default_rng([seed, weight.size])
        return (weight + 0.2 * rng.standard_normal(weight.shape).astype(np.float32) * weight.std()).astype(np.float32)

    return Changes(key=f"{seed} {names}", weights=dict.fromkeys(names, moved))


def _inputs(spec: EngineSpec, batch: int = 2) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: np.full(tensor.sized(batch), 500, tensor.dtype)
        if name == "timestep"
        else rng.standard_normal(tensor.sized(batch)).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
    }


def _component(bundle: Bundle, name: str) -> Component:
    return Component(root=bundle.root, manifest=bundle.manifest, name=name)


@pytest.fixture
def components(tiny_bundle: Path) -> Iterator[OpenComponents]:
    with closing(OpenComponents(open_bundle(tiny_bundle), Backend.ORT_CPU, threads=1)) as opened:
        yield opened


def _check_provenance(root: Path) -> None:
    bundle = open_bundle(root)
    for name in bundle.manifest.components:
        part = _component(bundle, name)
        folder = compiled_folder(part, Backend.ORT_CPU)
        record = CompiledWeights.model_validate_json((folder / WEIGHTS_FILE).read_bytes())
        assert record.lost == ()
        assert set(record.weights) == set(part.named_initializers)


def test_every_weight_is_found_again_by_value(tiny_bundle: Path, masked_bundle: Path) -> None:
    _check_provenance(tiny_bundle)
    _check_provenance(masked_bundle)


def test_so_it_is_in_fp16(half_bundle: Path) -> None:
    _check_provenance(half_bundle)


@pytest.mark.slow
def test_so_it_is_of_the_embedded_model_and_sdxl(emoji_bundle: Path, family_bundle: Any) -> None:
    _check_provenance(emoji_bundle)
    _check_provenance(family_bundle("sdxl"))


def _graph_with(part: Component, replaced: dict[str, Array], folder: Path) -> Any:
    """The bundle's graph with other initializers, opened as it is."""
    import onnx_ir as ir

    shutil.copytree(part.onnx.parent, folder)
    shutil.copytree(part.root / "weights", folder / "weights", dirs_exist_ok=True)
    model = load_graph(part.onnx)
    for name, content in replaced.items():
        model.graph.initializers[name].const_value = ir.tensor(content, name=name)
    save_with_weights(model, folder / "changed.onnx")
    return open_onnx(folder / "changed.onnx")


def _check_values(root: Path, tmp_path: Path, bound: float) -> None:
    bundle = open_bundle(root)
    part = _component(bundle, "unet")
    changes = _changes(UNET_WEIGHTS)
    shapes = Shapes(profile=bundle.manifest.profiles[0])
    replaced = {one.name: one.content for one in changed_initializers(bundle.weights("unet"), changes)}
    assert len(replaced) == len(UNET_WEIGHTS)
    with closing(OpenComponents(bundle, Backend.ORT_CPU, threads=1)) as opened:
        engine = opened.engine("unet", shapes, changes)
        inputs = _inputs(engine.spec)
        plain = opened.engine("unet", shapes).run(inputs)["out_sample"]
        changed = engine.run(inputs)["out_sample"]
        again = opened.engine("unet", shapes).run(inputs)["out_sample"]
        assert opened.changed_models.bytes == sum(content.nbytes for content in _compiled(opened, changes))
    reference = _graph_with(part, replaced, tmp_path / "graph").session.run(["out_sample"], inputs)[0]
    assert np.linalg.norm(changed - reference) < bound * np.linalg.norm(reference)
    assert np.linalg.norm(changed - plain) > 0.05 * np.linalg.norm(plain)
    np.testing.assert_array_equal(plain, again)


def _compiled(opened: OpenComponents, changes: Changes) -> list[Array]:
    from latentrt.engines.backends.ort_cpu.changed import compiled_changes

    folder = compiled_folder(_component(opened.bundle, "unet"), Backend.ORT_CPU)
    return list(compiled_changes("unet", folder, opened.bundle.weights("unet"), changes).values())


def test_changed_weights_compute_as_the_graph_with_them_would(tiny_bundle: Path, tmp_path: Path) -> None:
    _check_values(tiny_bundle, tmp_path, 1e-5)


def test_so_they_do_in_fp16(half_bundle: Path, tmp_path: Path) -> None:
    _check_values(half_bundle, tmp_path, 1e-3)


def test_a_set_after_another_is_as_if_it_came_first(components: OpenComponents) -> None:
    shapes = Shapes(profile=components.bundle.manifest.profiles[0])
    components.changed_models.size = 1
    first, second = _changes(UNET_WEIGHTS, 1), _changes(UNET_WEIGHTS[2:4], 2)
    inputs = _inputs(components.engine("unet", shapes).spec)
    alone, other, after = (
        components.engine("unet", shapes, changes).run(inputs)["out_sample"] for changes in (first, second, first)
    )
    np.testing.assert_array_equal(alone, after)
    assert not np.array_equal(alone, other)


def test_a_call_outlives_what_the_cache_puts_out(components: OpenComponents) -> None:
    shapes = Shapes(profile=components.bundle.manifest.profiles[0])
    engine = components.engine("unet", shapes, _changes(UNET_WEIGHTS))
    inputs = _inputs(engine.spec)
    before = engine.run(inputs)["out_sample"]
    components.changed_models.clear()
    assert components.changed_models.bytes == 0
    np.testing.assert_array_equal(engine.run(inputs)["out_sample"], before)


def test_a_weight_that_fp16_cannot_hold_is_refused(half_bundle: Path) -> None:
    bundle = open_bundle(half_bundle)
    changes = Changes(key="huge", weights={"conv_in.weight": lambda weight: weight + np.float32(1e6)})
    with (
        closing(OpenComponents(bundle, Backend.ORT_CPU, threads=1)) as opened,
        pytest.raises(RequestError, match="got numbers up to 1e"),
    ):
        opened.engine("unet", Shapes(profile=bundle.manifest.profiles[0]), changes)


def test_an_engine_that_does_not_know_its_weights_says_so(tiny_copy: Path) -> None:
    bundle = open_bundle(tiny_copy)
    part, shapes = _component(bundle, "unet"), Shapes(profile=bundle.manifest.profiles[0])
    folder = compiled_folder(part, Backend.ORT_CPU)
    record = json.loads((folder / WEIGHTS_FILE).read_text())
    lost = next(iter(part.named_initializers))
    del record["weights"][lost]
    path = folder / WEIGHTS_FILE
    path.write_text(json.dumps(record))
    _accept(folder)
    changes = _changes((lost.removeprefix("unet.").removesuffix(".T"),))
    with (
        closing(OpenComponents(open_bundle(tiny_copy), Backend.ORT_CPU, threads=1)) as opened,
        pytest.raises(EngineError, match="was not found again in the compiled engine of unet"),
    ):
        opened.engine("unet", shapes, changes)
    path.unlink()
    _accept(folder)
    with closing(OpenComponents(open_bundle(tiny_copy), Backend.ORT_CPU, threads=1)) as opened:
        opened.engine("unet", shapes)
        with pytest.raises(EngineError, match="without a record of its weights"):
            opened.engine("unet", shapes, changes)
    latentrt.build(tiny_copy)  # compiles it again
    assert path.is_file()


def _accept(folder: Path) -> None:
    """Takes an engine's files for what they are now."""
    from latentrt.engines.bundle.checked_files import record_files

    path = folder / "engine.json"
    manifest = json.loads(path.read_text())
    names = [one.name for one in folder.iterdir() if one != path]
    manifest["files"] = {name: record.model_dump() for name, record in record_files(folder, names).items()}
    write_sealed(path, manifest)


def _model(size: int = 1) -> Any:
    return SimpleNamespace(own_bytes=size, closed=False, close=lambda: None)


def test_the_last_sets_stay() -> None:
    kept = ChangedModels(2)
    made: list[str] = []

    def make(key: str) -> Any:
        made.append(key)
        return _model(10)

    for key in "abacab":
        kept.model("unet", key, lambda key=key: make(key))
    kept.model("text_encoder", "a", lambda: make("A"))
    assert made == ["a", "b", "c", "b", "A"]
    assert kept.bytes == 30
    kept.size = 1
    assert kept.bytes == 20
    kept.size = 0
    assert kept.bytes == 0
    for _ in range(2):
        kept.model("unet", "a", lambda: make("again"))
    assert made[-2:] == ["again", "again"]
    with pytest.raises(RequestError, match="whole number from 0 on"):
        kept.size = -1


def test_what_failed_is_tried_again() -> None:
    kept = ChangedModels(2)

    def fail() -> Any:
        raise EngineError("no memory")

    with pytest.raises(EngineError):
        kept.model("unet", "a", fail)
    assert kept.model("unet", "a", _model).own_bytes == 1


def test_threads_that_want_the_same_make_it_once() -> None:
    kept, made, barrier = ChangedModels(2), [], Barrier(4)

    def make() -> Any:
        made.append(_model())
        return made[-1]

    got: list[Any] = []

    def ask() -> None:
        barrier.wait()
        got.append(kept.model("unet", "a", make))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(one is made[0] for one in got)
