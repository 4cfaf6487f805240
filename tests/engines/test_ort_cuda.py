"""The engine of ONNX Runtime's CUDA provider, with the CPU as the device: the bindings are real, the memory is not."""

import ctypes
import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInDriver

from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.ort_cpu.backend import _OpenComponent
from latentrt.engines.backends.ort_cpu.compile import open_onnx
from latentrt.engines.backends.ort_cuda import backend, bound_run
from latentrt.engines.backends.ort_cuda.backend import OrtCuda
from latentrt.engines.backends.ort_cuda.model import STEPS_WITH, Device, OrtCudaModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import EngineManifest
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array, EngineSpec
from latentrt.engines.store.components import OpenComponents

ON_CPU = Device(provider="CPUExecutionProvider", memory="cpu")
PAIR, WIDE = Profile(width=32, height=32, batch=2), Profile(width=48, height=32)


@pytest.fixture
def unet(tiny_bundle: Path) -> Component:
    """The tiny U-Net."""
    return Component(root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet")


@pytest.fixture
def model(unet: Component) -> Iterator[OrtCudaModel]:
    """It, opened with the CPU as the device."""
    opened = OrtCudaModel(unet, ON_CPU, unet.root)
    yield opened
    opened.close()


@pytest.fixture
def reference(unet: Component) -> Iterator[_OpenComponent]:
    """The same without bindings."""
    opened = _OpenComponent(unet, open_onnx(unet.onnx))
    yield opened
    opened.close()


def random_inputs(spec: EngineSpec, batch: int, seed: int) -> dict[str, Array]:
    """Inputs of a batch."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=tensor.sized(batch)).astype(tensor.dtype) for name, tensor in spec.inputs.items()}


def graph_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graph of every binding that is made from here on."""
    ids = []
    real = bound_run.BoundRun.__init__

    def spy(self: Any, model: Any, spec: Any, batch: int, inputs: Any, graph: int) -> None:
        ids.append(graph)
        real(self, model, spec, batch, inputs, graph)

    monkeypatch.setattr(bound_run.BoundRun, "__init__", spy)
    return ids


def test_runs_agree_with_plain_ones(model: OrtCudaModel, reference: _OpenComponent) -> None:
    """Every batch of every profile, each twice with other inputs, and prompts of two chunks; results stay."""
    kept = []
    for seed, (profile, chunks) in enumerate([(PAIR, 1), (WIDE, 1), (PAIR, 2), (PAIR, 1)]):
        engine, plain = (
            model.engine(Shapes(profile=profile, chunks=chunks)),
            reference.engine(Shapes(profile=profile, chunks=chunks)),
        )
        for batch in engine.spec.batches:
            inputs = random_inputs(engine.spec, batch, seed)
            kept.append((engine.run(inputs)["out_sample"], plain.run(inputs)["out_sample"]))
    for got, expected in kept:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_each_shape_has_its_graph_and_its_buffers_once(model: OrtCudaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of the bundle's profiles are recorded; others run without, and keep nothing."""
    ids = graph_ids(monkeypatch)
    for _ in range(2):
        for profile, batch in ((PAIR, 4), (PAIR, 2), (WIDE, 2)):
            engine = model.engine(Shapes(profile=profile))
            engine.run(random_inputs(engine.spec, batch, 0))
    assert ids == [1, 2, 3]
    odd = model.engine(Shapes(profile=Profile(width=16, height=16)))
    for _ in range(2):
        odd.run(random_inputs(odd.spec, 1, 0))
    assert ids[3:] == [-1, -1]


def test_closed_is_refused(model: OrtCudaModel) -> None:
    """Twice is as once."""
    engine = model.engine(Shapes(profile=PAIR))
    inputs = random_inputs(engine.spec, 2, 0)
    with engine:
        engine.run(inputs)
    model.close()
    for use in (lambda: engine.run(inputs), lambda: model.engine(Shapes(profile=PAIR))):
        with pytest.raises(EngineError, match="closed; open the bundle again"):
            use()


def test_inputs_are_checked(model: OrtCudaModel) -> None:
    """Before anything is bound."""
    engine = model.engine(Shapes(profile=PAIR))
    inputs = random_inputs(engine.spec, 2, 0)
    with pytest.raises(RequestError, match="give exactly these"):
        engine.run({**inputs, "sample": inputs["sample"].astype(np.float64)})


def test_threads_take_turns(model: OrtCudaModel, reference: _OpenComponent) -> None:
    """Buffers are shared, results are not."""

    def work(seed: int) -> None:
        engine = model.engine(Shapes(profile=PAIR))
        inputs = random_inputs(engine.spec, 2, seed)
        expected = reference.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"]
        np.testing.assert_allclose(engine.run(inputs)["out_sample"], expected, rtol=0, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(12)))


def test_without_graphs_where_the_provider_cannot_record(unet: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is opened again without them, and the reason is kept."""
    import onnxruntime

    real, asked = onnxruntime.InferenceSession, []

    def session(path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        asked.append(providers[0][1])
        if "enable_cuda_graph" in asked[-1]:
            raise RuntimeError("This session cannot use the graph capture feature")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    ids = graph_ids(monkeypatch)
    model = OrtCudaModel(unet, Device(provider="CPUExecutionProvider", memory="cuda"), unet.root)
    assert [sorted(options) for options in asked] == [["enable_cuda_graph", "use_tf32"], ["use_tf32"]]
    assert "cannot use the graph capture" in str(model.graph_refused)
    assert ids == []
    model.device = ON_CPU
    engine = model.engine(Shapes(profile=PAIR))
    for _ in range(3):
        engine.run(random_inputs(engine.spec, 2, 0))
    assert ids == [-1]  # bound once all the same


def test_without_graphs_where_recording_fails(
    unet: Component, reference: _OpenComponent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first run: the same call goes on without, on a new session that takes the place of the old one."""
    import onnxruntime

    real, asked, alive = onnxruntime.InferenceSession, [], []

    class Session:
        def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
            asked.append(providers[0][1])
            assert not [session for session in alive if session() is not None]
            alive.append(weakref.ref(self))
            self.records = "enable_cuda_graph" in asked[-1]
            self.real = real(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return list(self.real.get_providers())

        def get_inputs(self) -> Any:
            return self.real.get_inputs()

        def io_binding(self) -> Any:
            return self.real.io_binding()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            if self.records:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.real.run_with_iobinding(binding, options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    ids = graph_ids(monkeypatch)
    model = OrtCudaModel(unet, Device(provider="CPUExecutionProvider", memory="cuda"), unet.root)
    model.device = ON_CPU
    engine = model.engine(Shapes(profile=PAIR))
    inputs = random_inputs(engine.spec, 2, 0)
    expected = reference.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"]
    for _ in range(3):
        np.testing.assert_allclose(engine.run(inputs)["out_sample"], expected, rtol=0, atol=1e-5)
    assert "stream is capturing" in str(model.graph_refused)
    assert [sorted(options) for options in asked] == [["enable_cuda_graph", "use_tf32"], []]
    assert ids == [1, -1]
    model.close()


def test_a_run_that_fails_behind_its_recording_is_told(model: OrtCudaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session stays, with its graphs."""
    engine, session = model.engine(Shapes(profile=PAIR)), model.session
    inputs = random_inputs(engine.spec, 2, 0)
    engine.run(inputs)

    def fail(self: Any, inputs: Any) -> None:
        raise RuntimeError("an illegal memory access")

    with monkeypatch.context() as patch:
        patch.setattr(bound_run.BoundRun, "run", fail)
        with pytest.raises(EngineError, match="ONNX Runtime failed: an illegal memory access"):
            engine.run(inputs)
    assert model.session is session
    assert model.graph_refused is None


def test_a_provider_that_silently_became_the_cpu(unet: Component) -> None:
    """ONNX Runtime only warns where CUDA's libraries are missing."""
    with pytest.raises(EngineError, match=r"on CPUExecutionProvider, expected CUDAExecutionProvider; check that"):
        OrtCudaModel(unet, Device(), unet.root)


def test_an_onnxruntime_without_cuda() -> None:
    """The one of the default install."""
    with pytest.raises(EngineError, match=r"has the providers .*CPU.*onnxruntime-gpu"):
        OrtCuda().version()


def changes_of(weights: ComponentWeights, kind: int | None, factor: float) -> Changes:
    """Every weight of as many dimensions times a factor, or all of them, and something added."""
    names = [
        name
        for name, row in weights.named.weights.items()
        if kind in (None, len(row.shape)) and any(place.initializer for place in row.places)
    ]
    return Changes(key=f"{kind} {factor}", weights={name: lambda weight: weight * factor + 0.01 for name in names})


def plain_run(component: Component, weights: ComponentWeights, changes: Changes, inputs: dict[str, Array]) -> Array:
    """What a session gives that optimises nothing, of a graph that holds the changed weights itself."""
    import onnx_ir as ir
    import onnxruntime

    model = load_graph(component.onnx)
    for name, content in changed_initializers(weights, changes):
        model.graph.initializers[name].const_value = ir.tensor(content, name=name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(component.onnx.parent))
    session = onnxruntime.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out_sample"], inputs)[0])


@pytest.mark.grid(most=2)
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("fp16", 2e-3)])
@pytest.mark.parametrize("kind", [1, 2, 4])
def test_changed_weights_reach_every_kernel(
    tiny_bundle: Path, request: pytest.FixtureRequest, kind: int, precision: str, error: float
) -> None:
    """Of convolutions, matrix products, norms and biases, with all of the graph's optimisations."""
    root = tiny_bundle if precision == "fp32" else request.getfixturevalue("half_bundle")
    bundle = open_bundle(root)
    unet, weights = Component(root=root, manifest=bundle.manifest, name="unet"), bundle.weights("unet")
    model = OrtCudaModel(unet, ON_CPU, unet.root)
    inputs = random_inputs(model.engine(Shapes(profile=PAIR)).spec, 2, 0)
    changes = changes_of(weights, kind, 0.9)
    changed = model.changed(weights, changes)
    gc.collect()  # what was handed over is gone
    result = changed.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"]
    expected = plain_run(unet, weights, changes, inputs)
    scale = np.abs(expected).max()
    assert np.abs(result - expected).max() < error * scale
    assert np.abs(model.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"] - expected).max() > 10 * error * scale


def test_sets_of_weights_leave_no_residue(model: OrtCudaModel, tiny_bundle: Path) -> None:
    """A, B, A: bit for bit as A alone; the base as ever, and each closes for itself."""
    weights = open_bundle(tiny_bundle).weights("unet")
    inputs = random_inputs(model.engine(Shapes(profile=PAIR)).spec, 2, 0)

    def run(opened: OrtCudaModel) -> Array:
        return opened.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"]

    base = run(model)
    first, second = changes_of(weights, None, 1.1), changes_of(weights, 2, 0.7)
    results = []
    for changes in (first, second, first):
        changed = model.changed(weights, changes)
        assert changed.own_bytes > model.own_bytes == 0
        results.append(run(changed))
        changed.close()
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - results[1]).max() > 1e-3
    np.testing.assert_array_equal(run(model), base)


def test_weights_that_cannot_be_taken(model: OrtCudaModel, tiny_bundle: Path) -> None:
    """One sentence, and the model goes on; closed, it gives no others."""
    weights = open_bundle(tiny_bundle).weights("unet")
    name = "conv_in.weight"
    with pytest.raises(RequestError, match=r"unet has no weight 'conv_inn.weight'"):
        model.changed(weights, Changes(key="x", weights={"conv_inn.weight": lambda weight: weight}))
    with pytest.raises(RequestError, match=r"got numbers up to nan for unet's weight 'conv_in.weight'"):
        model.changed(weights, Changes(key="x", weights={name: lambda weight: weight * np.float32(np.nan)}))
    model.engine(Shapes(profile=PAIR))
    model.close()
    with pytest.raises(EngineError, match="closed; open the bundle again"):
        model.changed(weights, Changes(key="x", weights={}))


def test_changed_weights_come_again_where_a_session_is_opened_again(
    unet: Component, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that fails leaves the base without CUDA graphs; a model of other weights does not try them."""
    import onnxruntime

    real, asked = onnxruntime.InferenceSession, []

    class Session(real):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
            asked.append("enable_cuda_graph" in providers[0][1])
            self.records = asked[-1]
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            if self.records:
                raise RuntimeError("operation not permitted when stream is capturing")
            super().run_with_iobinding(binding, options)

    weights = open_bundle(tiny_bundle).weights("unet")
    changes = changes_of(weights, 4, 0.9)
    inputs = random_inputs(unet.spec_of_any_batch(Shapes(profile=PAIR)), 2, 0)
    expected = plain_run(unet, weights, changes, inputs)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    model = OrtCudaModel(unet, Device(provider="CPUExecutionProvider", memory="cuda"), unet.root)
    changed = model.changed(weights, changes)
    for opened in (model, changed):
        opened.device = ON_CPU
    result = changed.engine(Shapes(profile=PAIR)).run(inputs)["out_sample"]
    assert asked == [True, True, False]
    assert changed.graph_refused is not None
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    model.engine(Shapes(profile=PAIR)).run(inputs)
    model.changed(weights, changes)
    assert asked == [True, True, False, False, False]


class CopyingDriver(StandInDriver):
    """A ``Driver`` for memory that ONNX Runtime allocated: it copies, in order, when it is waited for."""

    def _copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._called("copy_on_device")
        self._copy(target, source, size, stream)


class TestKept:
    """Results that stay on the device."""

    @pytest.fixture
    def driver(self) -> CopyingDriver:
        """What copies."""
        return CopyingDriver()

    @pytest.fixture
    def model(self, unet: Component, driver: CopyingDriver) -> Iterator[OrtCudaModel]:
        """The tiny U-Net with it."""
        opened = OrtCudaModel(
            unet, Device(provider="CPUExecutionProvider", memory="cpu", driver=lambda: driver), unet.root
        )
        yield opened
        opened.close()

    def test_they_are_taken_by_another_run(
        self, model: OrtCudaModel, driver: CopyingDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the same buffers: each result stays as it is, and none passes the host."""
        ids, passed = graph_ids(monkeypatch), []
        real = bound_run.OrtDeviceArray.numpy
        monkeypatch.setattr(bound_run.OrtDeviceArray, "numpy", lambda self: passed.append(self) or real(self))
        engine = model.engine(Shapes(profile=PAIR))
        inputs = [random_inputs(engine.spec, 2, seed) for seed in range(2)]
        plain = [engine.run(one)["out_sample"] for one in inputs]
        kept = [engine.run_kept(one)["out_sample"] for one in inputs]
        taken = [engine.run({**one, "sample": sample})["out_sample"] for one, sample in zip(inputs, kept, strict=True)]
        assert driver.log == ["stream_create", *["copy_on_device", "stream_synchronize"] * 4]
        assert not passed
        assert ids == [1]
        for one, sample, result, tensor in zip(inputs, plain, taken, kept, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), sample)  # type: ignore[union-attr]
            assert (tensor.shape, tensor.dtype, tensor.ndim) == (sample.shape, sample.dtype, sample.ndim)
            np.testing.assert_array_equal(result, engine.run({**one, "sample": sample})["out_sample"])

    def test_they_outlive_the_model(self, model: OrtCudaModel, driver: CopyingDriver) -> None:
        """And shapes whose buffers are not kept give them, too; the stream goes with the model."""
        engine = model.engine(Shapes(profile=Profile(width=16, height=16)))
        inputs = random_inputs(engine.spec, 1, 0)
        result, expected = engine.run_kept(inputs)["out_sample"], engine.run(inputs)["out_sample"]
        model.close()
        np.testing.assert_array_equal(result.numpy(), expected)  # type: ignore[union-attr]


class TestAdded:
    """A U-Net's sessions with added inputs."""

    @pytest.fixture
    def folder(self, unet: Component, tmp_path: Path) -> Path:
        """Of its engine."""
        OrtCuda().compile(unet, Target(machine="here"), tmp_path, None)
        return tmp_path

    @pytest.fixture
    def model(self, unet: Component, folder: Path) -> Iterator[OrtCudaModel]:
        """It, opened."""
        opened = OrtCudaModel(unet, ON_CPU, folder)
        yield opened
        opened.close()

    def test_they_compute_what_cpus_do(
        self, model: OrtCudaModel, unet: Component, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fed, left out, and with changed weights; each set of inputs has buffers and a graph of its own."""
        ids = graph_ids(monkeypatch)
        cpu = OpenComponents(open_bundle(tiny_bundle), Backend.ORT_CPU, threads=1)
        shapes = Shapes(profile=PAIR, added=frozenset(AddedInputs), image_prompts=2, image_tokens=3)
        engine, plain = model.engine(shapes), model.engine(Shapes(profile=PAIR))
        inputs = random_inputs(engine.spec, 2, 0)
        own = {name: inputs[name] for name in plain.spec.inputs}
        weights = open_bundle(tiny_bundle).weights("unet")
        changes = changes_of(weights, 4, 0.9)
        changed = model.changed(weights, changes)
        expected = {
            "fed": cpu.engine("unet", shapes).run(inputs)["out_sample"],
            "changed": cpu.engine("unet", shapes, changes).run(inputs)["out_sample"],
            "left out": cpu.engine("unet", shapes).run(own)["out_sample"],
        }
        for _ in range(2):
            results = {
                "fed": engine.run(inputs)["out_sample"],
                "changed": changed.engine(shapes).run(inputs)["out_sample"],
                "left out": engine.run(own)["out_sample"],
            }
            for name, result in results.items():
                np.testing.assert_allclose(result, expected[name], rtol=0, atol=1e-5 * np.abs(result).max())
        assert ids == [1, 1, 2]
        assert changed.own_bytes == 2 * unet.onnx_bytes
        cpu.close()

    def test_a_session_that_takes_more_serves(self, model: OrtCudaModel, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where it is open; calls give what they asked for alone. Nothing is opened for calls that add nothing."""
        opened = []
        real = OrtCudaModel._open
        monkeypatch.setattr(OrtCudaModel, "_open", lambda *given: opened.append(given) or real(*given))
        model.engine(Shapes(profile=PAIR))
        assert not opened
        both = Shapes(profile=PAIR, added=frozenset(AddedInputs))
        model.engine(both)
        engine = model.engine(Shapes(profile=PAIR, added=frozenset({AddedInputs.CONTROL})))
        assert len(opened) == 1
        inputs = random_inputs(engine.spec, 2, 0)
        assert set(inputs) < set(model.engine(both).spec.inputs)
        np.testing.assert_array_equal(engine.run(inputs)["out_sample"], model.engine(both).run(inputs)["out_sample"])
        model.close()
        with pytest.raises(EngineError, match="closed"):
            engine.run(inputs)

    def test_an_engine_without_them(self, unet: Component, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Made where a graph cannot be rewritten; a build that can makes it again."""
        model = OrtCudaModel(unet, ON_CPU, unet.root)
        with pytest.raises(
            EngineError, match=r"without inputs for control, .*latentrt\[export\] and run latentrt build"
        ):
            model.engine(Shapes(profile=PAIR, added=frozenset({AddedInputs.CONTROL})))
        model.engine(Shapes(profile=PAIR)).close()
        files = record_files(folder, [path.name for path in folder.iterdir()])
        assert {"control.onnx", "perturbed-attention,freeu.onnx"} < set(files)
        assert len(files) == 2 ** len(AddedInputs) - 1 + len(STEPS_WITH)
        for present, improves in (({}, True), (files, False)):
            engine = EngineManifest.model_construct(files=present)
            assert OrtCuda().would_improve(unet, engine) == improves
        monkeypatch.setattr(backend, "find_spec", lambda name: None)
        assert not OrtCuda().would_improve(unet, EngineManifest.model_construct(files={}))
        (folder / "none").mkdir()
        OrtCuda().compile(unet, Target(machine="here"), folder / "none", None)
        assert not [*(folder / "none").iterdir()]
