"""Every graph of a component on openvino gives what ort-cpu gives."""

import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from openvino_engines import (
    Beside,
    beside,
    changeable,
    changes_of,
    compiled,
    component_of,
    decibels,
    drawn_inputs,
    weights_of,
)
from shared import filled_once

import latentrt
from latentrt.engines.backends.openvino import library
from latentrt.engines.backends.openvino.changed import ChangedOnnx, _remove, compiled_changes
from latentrt.engines.backends.openvino.open_graph import OpenGraph
from latentrt.engines.backends.openvino.records import read_graphs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.added_inputs import PERTURBED_ATTENTIONS
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.store.store import compiled_folder, engines_in
from latentrt.verifying import verify

pytest.importorskip("openvino")
EXACT, CHANGED = 100.0, 90.0  # dB
TEXT = "text_encoder"


@pytest.fixture(scope="module")
def text_bundle(tiny_bundle: Path, shared: Path) -> Path:
    """The tiny bundle, of which the text encoder has an engine for openvino. Do not write to it."""

    def build(folder: Path) -> None:
        shutil.copytree(tiny_bundle, folder)
        compiled(component_of(folder, TEXT))

    return filled_once(shared / "openvino-text.bundle", build)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, shared: Path) -> Callable[[str], Path]:
    """A bundle by its fixture's name, with engines for openvino. Do not write to it."""

    def built(name: str) -> Path:
        family, _, fixture = name.partition(" ")
        source = request.getfixturevalue(fixture)(family) if fixture else request.getfixturevalue(name)

        def build(folder: Path) -> None:
            shutil.copytree(source, folder)
            latentrt.build(folder, backend="openvino")

        return filled_once(shared / f"openvino-{name.replace(' ', '-')}.bundle", build)

    return built


def profiles_of(component: Component) -> Iterable[Profile]:
    """The bundle's, and one that no graph was made for."""
    first = component.manifest.profiles[0]
    return (*component.manifest.profiles, Profile(width=first.width + 16, height=first.height + 32, batch=2))


def check_shapes(both: Beside) -> None:
    """All batches of all profiles, prompts of two chunks."""
    for profile in profiles_of(both.component):
        for chunks in (1, 2) if both.component.name.startswith(TEXT) else (1,):
            shapes = Shapes(profile=profile, chunks=chunks)
            ours, theirs = both.openvino.engine(shapes), both.ort.engine(shapes)
            assert ours.spec == theirs.spec
            for batch in sorted({1, 2, 3, *ours.spec.batches[-2:]} & {*ours.spec.batches}):
                for leave_out in (False, True):
                    inputs = drawn_inputs(ours, batch, leave_out=leave_out)
                    assert decibels(ours.run(inputs), theirs.run(inputs)) > EXACT


def test_a_text_encoder_is_the_same(text_bundle: Path) -> None:
    """Of usual shapes and of others, as many as are asked for at once."""
    with beside(component_of(text_bundle, TEXT)) as both:
        check_shapes(both)
        graphs = read_graphs(compiled_folder(both.component, Backend.OPENVINO)).graphs
        assert [bool(graph.shapes) for graph in graphs] == [True] * (len(graphs) - 1) + [False]


BUNDLES = (
    "tiny_bundle",
    "masked_bundle",
    "emoji_bundle",
    "sdxl family_bundle",
    "lcm-sd1 family_bundle",
    "sd1 net_bundle",
    "tiny_upscaler",
    "onnx_upscaler_bundle",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_every_component_is_the_same(whole: Callable[[str], Path], name: str) -> None:
    """Control nets take the sum of those before them, or leave it out."""
    bundle = whole(name)
    for part in component_of(bundle, "").manifest.components:
        for threads in (1, 2):  # in one piece, and where there are cores in halves
            with beside(component_of(bundle, part), threads) as both:
                check_shapes(both)
    assert all(figures.psnr > EXACT for figures in verify(bundle, backend="openvino").values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_bundle", "emoji_bundle", "sdxl family_bundle"])
def test_added_inputs_are_the_same(whole: Callable[[str], Path], name: str) -> None:
    """Each alone, and all at once; of any size."""
    with beside(component_of(whole(name), "unet"), 2) as both:
        for added in (*({one} for one in AddedInputs), set(AddedInputs)):
            for profile in profiles_of(both.component):
                shapes = Shapes(profile=profile, added=frozenset(added), image_prompts=2, image_tokens=4)
                ours, theirs = both.openvino.engine(shapes), both.ort.engine(shapes)
                for batch in (1, 2):
                    inputs = drawn_inputs(ours, batch)
                    if PERTURBED_ATTENTIONS in inputs:
                        inputs[PERTURBED_ATTENTIONS][:] = 1
                    expected = theirs.run(inputs)
                    assert decibels(ours.run(inputs), expected) > EXACT
                    assert decibels(theirs.run(drawn_inputs(ours, batch, leave_out=True)), expected) < 90


def check_changes(both: Beside, names: tuple[str, ...], bound: float, *, mapped: bool) -> None:
    """Two sets in turn: each as on ort-cpu, the second leaves nothing of the first, and both leave the plain model."""
    folder = compiled_folder(both.component, Backend.OPENVINO)
    weights, shapes = weights_of(both.component), Shapes(profile=both.component.manifest.profiles[0])
    first, second = changes_of(names, 1), changes_of(names[::2], 2)
    assert (compiled_changes(both.component.name, folder, weights, first) is not None) == mapped
    plain = both.openvino.engine(shapes)
    inputs = drawn_inputs(plain, plain.spec.batches[-1])
    alone = plain.run(inputs)
    drawn = []
    for changes in (first, second, first):
        ours, theirs = (model.changed(weights, changes) for model in (both.openvino, both.ort))
        assert ours.own_bytes == sum(_sizes(ours))
        for profile in profiles_of(both.component):
            of_profile = Shapes(profile=profile)
            engine = ours.engine(of_profile)
            for batch in {1, engine.spec.batches[-1]}:
                given = drawn_inputs(engine, batch)
                expected = theirs.engine(of_profile).run(given)
                assert decibels(engine.run(given), expected) > bound
        drawn.append(ours.engine(shapes).run(inputs))
        assert decibels(drawn[-1], alone) < 60
        if both.component.kind.added_inputs:
            with_added = Shapes(profile=both.component.manifest.profiles[0], added=frozenset(AddedInputs))
            given = drawn_inputs(ours.engine(with_added), 2)
            assert decibels(ours.engine(with_added).run(given), theirs.engine(with_added).run(given)) > bound
        for model in (ours, theirs):
            model.close()
    again = plain.run(inputs)
    for name, array in alone.items():
        np.testing.assert_array_equal(again[name], array)
        np.testing.assert_array_equal(drawn[0][name], drawn[2][name])
        assert not np.array_equal(drawn[0][name], drawn[1][name])
    assert both.openvino.own_bytes == 0


def _sizes(model: Any) -> list[int]:
    """What a changed model has before its first run: the new numbers, where these take the place of others."""
    return [content.nbytes for content in model._changes.values()] if isinstance(model._changes, dict) else []


def found_in(component: Component) -> tuple[str, ...]:
    """Weights that the engine holds apart."""
    weights, folder = weights_of(component), compiled_folder(component, Backend.OPENVINO)
    return tuple(
        name
        for name in changeable(component)
        if compiled_changes(component.name, folder, weights, changes_of((name,))) is not None
    )


def test_changed_weights_are_the_same(text_bundle: Path) -> None:
    """In the place of constants; and compiled anew, where they are not apart: biases of zeros all look alike."""
    part = component_of(text_bundle, TEXT)
    found, known = found_in(part), changeable(part)
    assert {f"text_model.encoder.layers.{one}.weight" for one in ("0.self_attn.q_proj", "1.mlp.fc2")} <= set(found)
    assert set(found) < set(known)
    with beside(part) as both:
        shapes = Shapes(profile=part.manifest.profiles[0])
        plain = both.openvino.engine(shapes)
        inputs = drawn_inputs(plain, 1)
        before = plain.run(inputs)
        with pytest.warns(UserWarning, match="compiling text_encoder for openvino with these adapters"):
            new = both.openvino.changed(weights_of(part), changes_of(known)).engine(shapes).run(inputs)
        other = both.openvino.changed(weights_of(part), changes_of(found)).engine(shapes).run(inputs)
        for drawn, names in ((new, known), (other, found)):
            expected = both.ort.changed(weights_of(part), changes_of(names)).engine(shapes).run(inputs)
            assert decibels(drawn, expected) > CHANGED
            assert decibels(before, expected) < 60
        assert decibels(plain.run(inputs), before) > 250


WEIGHTS = (("tiny_bundle", CHANGED), ("emoji_bundle", CHANGED), ("half_bundle", 60.0), ("sdxl family_bundle", CHANGED))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), WEIGHTS)
@pytest.mark.filterwarnings("ignore:compiling ")
def test_changed_weights_of_every_component_are_the_same(whole: Callable[[str], Path], name: str, bound: float) -> None:
    """All that the engine holds apart, and all: to a model, an adapter of any kind is the weights that it changes."""
    bundle = whole(name)
    parts = component_of(bundle, "").manifest.components
    for part in (component_of(bundle, one) for one in parts if one == "unet" or one.startswith(TEXT)):
        found, known = found_in(part), changeable(part)
        assert len(found) > 0.4 * len(known)
        if name == "emoji_bundle":  # as of trained models
            assert found == known
        with beside(part, 2) as both:
            check_changes(both, found, bound, mapped=True)
            if found != known:
                check_changes(both, known, bound, mapped=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:compiling ")
def test_an_int8_bundle_computes_in_int8(whole: Callable[[str], Path], command: Callable[..., Any]) -> None:
    """And the rest of it in bf16 where the CPU has it; OpenVINO merges scales, so that changed graphs are new ones."""
    bundle = whole("int8_bundle")
    engines = {one.component: one for one in engines_in(bundle) if one.backend is Backend.OPENVINO}
    contents = engines["unet"].contents
    assert contents is not None
    layers = contents.layers
    assert layers["Convolution"]["u8"] > 40
    assert layers["FullyConnected"]["u8"] > 80
    assert ("bf16" in layers["MVN"]) == library.computes_bf16()
    part = component_of(bundle, "unet")
    (row,) = (line for line in command("inspect", bundle).stdout.splitlines() if "unet" in line and "openvino" in line)
    quantized = sum(layers[kind]["u8"] for kind in ("Convolution", "FullyConnected"))
    assert f"{quantized} int8" in row
    assert ("bf16" in row) == library.computes_bf16()
    weights, changes = weights_of(part), changes_of(changeable(part)[::2])
    assert compiled_changes("unet", compiled_folder(part, Backend.OPENVINO), weights, changes) is None
    with beside(part) as both:
        shapes = Shapes(profile=part.manifest.profiles[0])
        plain = both.openvino.engine(shapes)
        inputs = drawn_inputs(plain, 2)
        alone, theirs = plain.run(inputs), both.ort.engine(shapes).run(inputs)
        changed = both.openvino.changed(weights, changes).engine(shapes).run(inputs)
        expected = both.ort.changed(weights, changes).engine(shapes).run(inputs)
        assert decibels(alone, theirs) > 30
        assert decibels(changed, expected) > decibels(alone, theirs) - 3
        assert decibels(expected, theirs) < decibels(changed, expected) - 6
        np.testing.assert_array_equal(plain.run(inputs)["out_sample"], alone["out_sample"])


def test_calls_at_once_are_as_those_alone(text_bundle: Path) -> None:
    """Of eight threads; one that closes lets the runs under way end, and refuses further ones."""
    with beside(component_of(text_bundle, TEXT)) as both:
        shapes = Shapes(profile=both.component.manifest.profiles[0])
        engine = both.openvino.engine(shapes)
        calls = [drawn_inputs(engine, 1 + number % 4, number) for number in range(16)]
        alone = [engine.run(inputs) for inputs in calls]
        with ThreadPoolExecutor(8) as pool:
            for found, expected in zip(pool.map(engine.run, calls), alone, strict=True):
                for name, array in expected.items():
                    np.testing.assert_array_equal(found[name], array)
        refused: list[EngineError] = []

        def run() -> None:
            try:
                while True:
                    engine.run(calls[0])
            except EngineError as error:
                refused.append(error)

        threads = [Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        both.openvino.close()
        for thread in threads:
            thread.join(60)
        assert len(refused) == 4
        assert all("closed" in str(error) for error in refused)
        both.openvino.close()
        with pytest.raises(EngineError, match="closed"):
            both.openvino.engine(shapes)


def test_two_of_one_engine_know_nothing_of_each_other(text_bundle: Path) -> None:
    """Opened twice over one file."""
    part = component_of(text_bundle, TEXT)
    with beside(part) as one, beside(part, 2) as other:
        shapes = Shapes(profile=part.manifest.profiles[0])
        inputs = drawn_inputs(one.openvino.engine(shapes), 1)
        before = one.openvino.engine(shapes).run(inputs)
        other.openvino.changed(weights_of(part), changes_of(found_in(part))).engine(shapes).run(inputs)
        other.openvino.close()
        assert decibels(one.openvino.engine(shapes).run(inputs), before) > 250


class _Request:
    """Of two, the second fails, or is interrupted; none may be left running."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self._fails, self.busy = fails, False

    def start_async(self, part: Any, *, share_inputs: bool) -> None:
        assert not self.busy
        self.busy = True

    def wait(self) -> None:
        self.busy = False
        if self._fails is not None:
            error, self._fails = self._fails, None
            raise error


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("which", [0, 1])
def test_what_fails_leaves_no_request_busy(error: BaseException, which: int) -> None:
    """An interrupted call's halves have ended as it ends."""
    requests = [_Request(error if number == which else None) for number in range(2)]

    class Compiled:
        outputs = ()
        made = iter(requests)

        def create_infer_request(self) -> _Request:
            return next(self.made)

    graph = OpenGraph(Compiled(), 2)
    with pytest.raises(type(error)):
        graph.run([{}, {}], ())
    assert not any(request.busy for request in requests)
    assert graph.run([{}, {}], ()) == [{}, {}]


def test_a_changed_graph_goes_with_its_model(
    text_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays in the folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    part = component_of(text_bundle, TEXT)
    with pytest.warns(UserWarning, match="compiling "):
        onnx = ChangedOnnx(part, weights_of(part), changes_of(("text_model.final_layer_norm.weight",)))
    (folder,) = tmp_path.iterdir()
    _remove(folder, -1)  # as in a child that was forked
    assert list(tmp_path.iterdir())
    del onnx
    assert not list(tmp_path.iterdir())


def test_without_onnx_ir_a_rewritten_graph_is_one_sentence(text_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA that needs one says what to install."""
    part = component_of(text_bundle, TEXT)
    monkeypatch.setitem(__import__("sys").modules, "onnx_ir", None)
    with (
        pytest.warns(UserWarning, match="compiling "),
        pytest.raises(EngineError, match=r"needs onnx and onnx_ir .* install latentrt\[export\]"),
    ):
        ChangedOnnx(part, weights_of(part), changes_of(("text_model.final_layer_norm.weight",)))


def test_what_it_cannot_is_said() -> None:
    """No GPU is chosen for it, and its builder plans no memory."""
    compiler = COMPILERS[Backend.OPENVINO]
    with pytest.raises(RequestError, match=r"got gpu sm89 for backend openvino, which runs on the CPU"):
        compiler.targets(["sm89"])
    with pytest.raises(RequestError, match=r"got a workspace of 64 MB for backend openvino"):
        compiler.targets([], 64)


@pytest.mark.parametrize("failure", [ImportError("no module"), OSError("libopenvino.so: cannot open")])
def test_openvino_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Neither the package nor its library: the extra is named."""
    real = __import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "openvino":
            raise failure
        return real(name, *rest)

    monkeypatch.setattr("builtins.__import__", refuse)
    with pytest.raises(EngineError, match=r"openvino needs the package openvino .* install latentrt\[openvino\]"):
        COMPILERS[Backend.OPENVINO].version()


def test_a_folder_of_openvinos_name_is_not_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that a package beside it leaves behind: Python imports it."""
    (tmp_path / "openvino").mkdir()
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(EngineError, match=r"got a package openvino without its core .*install it anew"):
        COMPILERS[Backend.OPENVINO].version()


def test_on_a_cpu_without_bf16_all_is_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the machine's name says which."""
    from latentrt.engines.precision import Precision, computes

    named = {}
    for has in (True, False):
        monkeypatch.setattr(library, "computes_bf16", lambda has=has: has)
        hints = {
            one: library.settings(one)["INFERENCE_PRECISION_HINT"]
            for one in Precision
            if computes(Backend.OPENVINO, one)
        }
        rounded = "bf16" if has else "f32"
        assert hints == {Precision.FP32: "f32", Precision.FP16: "f32", Precision.BF16: rounded, Precision.INT8: rounded}
        named[has] = library.this_machine()
    assert named[True] == f"{named[False]} BF16"
