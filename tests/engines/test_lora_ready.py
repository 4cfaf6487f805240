"""TensorRT and adapters: engines that take weights as inputs, else a plan per set; both are really built, too."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import filled_once
from stand_ins import StandInRTX
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.building.compiling import engines_to_make
from latentrt.engines.backends.compiler import Target, WeightsAs
from latentrt.engines.backends.ort_cpu.compile import open_onnx
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.adapted import folder_of_changed, graph_for
from latentrt.engines.backends.tensorrt.backend import PLAN_FILE, TensorRTRTX
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.changed_weights import ChangedInitializer, changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import LEFT_BY_RUNS, EngineManifest
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.graphs.adapted_weights import change_weights, take_weights_as_inputs
from latentrt.engines.graphs.editor import load_graph, serialized, weight_of
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.compile import compile_component
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in
from latentrt.verifying import verify

PAIR = Shapes(profile=Profile(width=32, height=32, batch=2))
CHANGED = {
    "unet": ("conv_in.weight", "down_blocks.0.resnets.0.norm1.weight", "time_embedding.linear_1.weight"),
    "text_encoder": ("text_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.final_layer_norm.bias"),
}


def component_of(root: Path, name: str) -> Component:
    """A component of a bundle."""
    return Component(root=root, manifest=open_bundle(root).manifest, name=name)


def changes_of(component: str, factor: float = 1.5) -> Changes:
    """A few of its weights, of several kinds, times a factor."""
    return Changes(
        key=f"{component} {factor}",
        weights={name: lambda weight: weight * np.float32(factor) for name in CHANGED[component]},
    )


def inputs_of(component: Component) -> dict[str, Array]:
    """Random ones for a whole batch."""
    spec, random = component.spec_of_one_batch(PAIR), np.random.default_rng(0)
    return {
        name: (
            random.normal(size=tensor.sized(spec.batches[0]))
            if tensor.dtype.kind == "f"
            else np.ones(tensor.sized(spec.batches[0]))
        ).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
    }


def on_the_cpu(component: Component, weights: ComponentWeights, changes: Changes | None, folder: Path) -> Array:
    """The component's first output by ONNX Runtime, from a copy of its files in which numbers were overwritten."""
    folder = Path(shutil.copytree(component.onnx.parent, folder))
    places = weights.initializers
    for name, content in changed_initializers(weights, changes) if changes else ():
        path = folder / Path(places[name].file).name
        np.memmap(path, content.dtype, "r+", places[name].offset, content.shape)[...] = content
    model = open_onnx(folder / component.onnx.name)
    outputs = model.engine(component.spec_of_one_batch(PAIR)).run(inputs_of(component))
    model.close()
    return next(iter(outputs.values()))


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> StandInRTX:
    """A machine with a GPU: TensorRT-RTX on the stand-in device, for everything."""
    compiler = StandInRTX()
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, compiler)
    return compiler


def run(model: Any, component: Component) -> Array:
    """One call of an opened component."""
    return next(iter(model.engine(PAIR).run(inputs_of(component)).values()))  # type: ignore[no-any-return]


def engines_of(root: Path, name: str) -> list[EngineManifest]:
    """The component's plans."""
    return [e for e in engines_in(root) if (e.component, e.backend) == (name, Backend.TENSORRT_RTX)]


class TestLoraReady:
    """Built for a GPU that is there, on the stand-in device."""

    @pytest.fixture
    def bundle(self, tiny_bundle: Path, shared: Path, tmp_path: Path, rtx: StandInRTX) -> Path:
        """The tiny bundle with plans that take weights."""

        def build(folder: Path) -> None:
            shutil.copytree(tiny_bundle, folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(COMPILERS, Backend.TENSORRT_RTX, StandInRTX())
                assert not latentrt.build(folder, backend="tensorrt-rtx", lora_ready=True).up_to_date

        return Path(shutil.copytree(filled_once(shared / "stand-in-ready.bundle", build), tmp_path / "tiny.bundle"))

    def test_engines_say_which_weights_they_take(self, bundle: Path, command: Callable[..., Any]) -> None:
        """All of the U-Net's and the text encoder's; the autoencoder is as ever. Each passed its gate."""
        taken = {}
        for name in ("unet", "text_encoder", "vae_decoder", "vae_encoder"):
            (engine,) = engines_of(bundle, name)
            assert engine.parity is not None
            assert engine.contents is not None
            assert engine.flags.get("weights") == (None if name.startswith("vae") else "inputs")
            taken[name] = set(engine.contents.weight_inputs)
        weights = {name: set(open_bundle(bundle).weights(name).initializers) for name in ("unet", "text_encoder")}
        assert taken == {**weights, "vae_decoder": set(), "vae_encoder": set()}
        assert command("inspect", bundle).stdout.count("LoRA-ready") == 2
        assert latentrt.build(bundle, backend="tensorrt-rtx", lora_ready=True).up_to_date

    def test_fusing_takes_those_of_components_that_stay(self, bundle: Path, tmp_path: Path) -> None:
        """A LoRA of the U-Net alone: the text encoder's plan, which takes weights, is the same file again."""
        lora = save_tiny_lora(tmp_path / "style.safetensors", bundle, components=("unet",))
        fused = tmp_path / "fused.bundle"
        latentrt.build(bundle, fused, loras=[f"{lora}:0.5"], backend="tensorrt-rtx", lora_ready=True)
        same = {name: engines_of(fused, name) == engines_of(bundle, name) for name in ("unet", "text_encoder")}
        assert same == {"unet": False, "text_encoder": True}

    def test_they_are_opened_where_there_are_plain_ones_too(self, bundle: Path, rtx: StandInRTX) -> None:
        """A plain build adds its own, of what is not plain already."""
        assert not latentrt.build(bundle, backend="tensorrt-rtx").up_to_date
        assert [len(engines_of(bundle, name)) for name in ("unet", "text_encoder", "vae_decoder")] == [2, 2, 1]
        rtx.modules.clear()
        assert {figures.psnr > 100 for figures in verify(bundle, backend="tensorrt-rtx").values()} == {True}
        assert sum(bool(module.weights) for module in rtx.modules) == 2

    @pytest.mark.parametrize("name", list(CHANGED))
    def test_changed_weights_are_computed_with(self, bundle: Path, rtx: StandInRTX, name: str, tmp_path: Path) -> None:
        """As ONNX Runtime computes the same graph with the same numbers; nothing is compiled, and nobody is warned."""
        component, weights, changes = component_of(bundle, name), open_bundle(bundle).weights(name), changes_of(name)
        components = OpenComponents(open_bundle(bundle), Backend.TENSORRT_RTX, threads=None)
        model = components._models[name]
        base, files = run(model, component), {path.name for path in (bundle / "engines").iterdir()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            changed = model.changed(weights, changes)
        result = run(changed, component)
        expected = on_the_cpu(component, weights, changes, tmp_path / "changed")
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert np.abs(result - base).max() > 1e-3 * np.abs(expected).max()
        np.testing.assert_array_equal(run(model, component), base)
        np.testing.assert_array_equal(run(model.changed(weights, changes), component), result)
        assert {path.name for path in (bundle / "engines").iterdir()} == files
        components.close()
        assert not rtx.driver.live

    def test_pictures_with_loras(self, bundle: Path, rtx: StandInRTX, tmp_path: Path) -> None:
        """As the CPU draws them; A, B, A and weight 0 leave nothing behind, on the device neither."""
        calls = {"without": None, "a": {"a": 0.8}, "b": {"b": 1.0}, "a again": {"a": 0.8}, "zero": {"a": 0.0}}
        options = {"num_inference_steps": 2, "seed": 5, "width": 32, "height": 32, "output_type": "latent"}
        drawn = {}
        for backend in ("tensorrt-rtx", "ort-cpu"):
            with latentrt.open(bundle, backend=backend, threads=1, lora_cache=1) as pipe:
                for seed, name in enumerate("ab"):
                    pipe.load_lora(save_tiny_lora(tmp_path / f"{name}.safetensors", bundle, seed=seed))
                drawn[backend] = {name: pipe("a cat", **options, loras=call).latents for name, call in calls.items()}
                if backend == "tensorrt-rtx":
                    one_set = rtx.driver.live
                    pipe("a cat", **options, loras={"a": 0.9})
                    assert rtx.driver.live == one_set
        gpu, cpu = drawn.values()
        for name in calls:
            np.testing.assert_allclose(gpu[name], cpu[name], rtol=0, atol=1e-3)
        assert np.abs(gpu["a"] - gpu["without"]).max() > 0.05
        np.testing.assert_array_equal(gpu["a"], gpu["a again"])
        np.testing.assert_array_equal(gpu["without"], gpu["zero"])
        assert not rtx.driver.live


class TestPlanPerSet:
    """Engines that are not LoRA-ready, on the stand-in device."""

    @pytest.fixture
    def bundle(self, planned_bundle: Path, tmp_path: Path, rtx: StandInRTX) -> Path:
        """The tiny bundle with plain plans."""
        return Path(shutil.copytree(planned_bundle, tmp_path / "tiny.bundle"))

    @pytest.fixture
    def components(self, bundle: Path) -> Iterator[OpenComponents]:
        """It, opened."""
        opened = OpenComponents(open_bundle(bundle), Backend.TENSORRT_RTX, threads=None)
        yield opened
        opened.close()

    def test_a_plan_is_built_once_and_said(
        self, bundle: Path, components: OpenComponents, rtx: StandInRTX, tmp_path: Path, command: Callable[..., Any]
    ) -> None:
        """With the time that the plain one took; it is found again, and a damaged one is built again."""
        component, weights = component_of(bundle, "unet"), open_bundle(bundle).weights("unet")
        model, changes = components._models["unet"], changes_of("unet")
        said = r"building a tensorrt-rtx plan of unet with these adapters, which takes about \d+ s; .*--lora-ready"
        with pytest.warns(UserWarning, match=said) as told:
            changed = model.changed(weights, changes)
        assert len(told) == 1
        expected = on_the_cpu(component, weights, changes, tmp_path / "changed")
        np.testing.assert_allclose(run(changed, component), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert changed.own_bytes > 0 == model.own_bytes
        changed.close()
        (engine,) = [engine for engine in engines_of(bundle, "unet") if "changes" in engine.flags]
        assert (engine.flags["changes"], engine.parity) == (changes.key, None)
        folder = bundle / "engines" / engine.key
        made = {path.name for path in folder.iterdir() if not path.name.endswith(LEFT_BY_RUNS)}
        assert made == {"engine.json", PLAN_FILE}
        shown = command("inspect", bundle).stdout
        assert "with LoRAs unet 1.5" in " ".join(shown.split())
        assert "not measured" not in shown
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.changed(weights, changes).close()
        (folder / PLAN_FILE).write_text("{}")
        with pytest.warns(UserWarning, match="building a tensorrt-rtx plan"):
            model.changed(weights, changes).close()
        with pytest.warns(UserWarning, match="building a tensorrt-rtx plan"):
            model.changed(weights, changes_of("unet", 0.5)).close()
        assert len(engines_of(bundle, "unet")) == 3
        assert latentrt.build(bundle, backend="tensorrt-rtx").up_to_date
        assert len(verify(bundle, backend="tensorrt-rtx")) == 4

    def test_a_set_that_cannot_be_built_leaves_nothing(self, bundle: Path, components: OpenComponents) -> None:
        """Weights that are not finite, behind one that is."""
        weights, before = open_bundle(bundle).weights("unet"), {*bundle.rglob("*")}
        bad = {**changes_of("unet").weights, "conv_out.bias": lambda weight: weight * np.float32(np.inf)}
        with (
            pytest.warns(UserWarning, match="building"),
            pytest.raises(latentrt.RequestError, match=r"unet's weight 'conv_out.bias'"),
        ):
            components._models["unet"].changed(weights, Changes(key="x", weights=bad))
        assert {*bundle.rglob("*")} == before


@pytest.mark.parametrize("backend", ["ort-cpu", "ort-cuda"])
def test_other_backends_need_no_readiness(tiny_copy: Path, backend: str) -> None:
    """Said before anything is built."""
    with pytest.raises(latentrt.RequestError, match=f"got lora-ready for backend {backend}, whose engines take LoRAs"):
        latentrt.build(tiny_copy, backend=backend, lora_ready=True)


def test_weights_in_eight_bits_are_no_inputs(tiny_copy: Path, rtx: StandInRTX) -> None:
    """Of a build in int8, and of a bundle that is."""
    with pytest.raises(latentrt.RequestError, match="got lora-ready for int8, but TensorRT takes the scales"):
        latentrt.build("emoji", tiny_copy, precision="int8", backend="tensorrt-rtx", lora_ready=True)
    engines = engines_to_make(Backend.TENSORRT_RTX, (), None, WeightsAs.INPUTS)
    engines.check_precision(Precision.FP16)
    with pytest.raises(latentrt.RequestError, match=r"plan built for each set of LoRAs, or build in fp16"):
        engines.check_precision(Precision.INT8)


def test_inputs_are_compared_with_the_bundle(tiny_copy: Path) -> None:
    """A record that points elsewhere is not believed."""
    component, weights = component_of(tiny_copy, "unet"), open_bundle(tiny_copy).weights("unet")
    take_weights_as_inputs(load_graph(component.onnx), weights)
    row = weights.named.weights["conv_in.weight"]
    place = row.places[0]
    moved = row.model_copy(update={"places": (place.model_copy(update={"offset": place.offset + 4}),)})
    named = weights.named.model_copy(update={"weights": {**weights.named.weights, "conv_in.weight": moved}})
    with pytest.raises(latentrt.BundleError, match=rf"does not hold in {place.initializer} what the bundle says"):
        take_weights_as_inputs(load_graph(component.onnx), ComponentWeights("unet", named, weights.files))


def test_changed_weights_are_written_where_the_graph_reads_them(tiny_bundle: Path, tmp_path: Path) -> None:
    """In a copy of the weights file, or in the graph if it holds them itself."""
    import onnx_ir as ir

    component, weights = component_of(tiny_bundle, "text_encoder"), open_bundle(tiny_bundle).weights("text_encoder")
    before = load_graph(component.onnx).graph.initializers
    inside = next(name for name, value in before.items() if not isinstance(value.const_value, ir.ExternalTensor))
    number = weight_of(before[inside]) + 1
    changed = [*changed_initializers(weights, changes_of("text_encoder")), ChangedInitializer(inside, number)]
    model = load_graph(component.onnx)
    change_weights(model, changed, tmp_path)
    (tmp_path / "model.onnx").write_bytes(serialized(model))
    after, contents = load_graph(tmp_path / "model.onnx").graph.initializers, dict(changed)
    for name, value in before.items():
        np.testing.assert_array_equal(weight_of(after[name]), contents.get(name, weight_of(value)))


class TestReallyBuilt:
    """By TensorRT-RTX, for a GPU that is not here."""

    @pytest.fixture
    def compiler(self) -> TensorRTRTX:
        """The real one."""
        pytest.importorskip("tensorrt_rtx")
        return TensorRTRTX()

    @pytest.mark.grid(most=1)
    @pytest.mark.parametrize("name", sorted(CHANGED))  # the smaller one first, which is the quick one
    @pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
    def test_plans_that_take_weights(
        self,
        tiny_bundle: Path,
        compiler: TensorRTRTX,
        request: pytest.FixtureRequest,
        name: str,
        precision: str,
        tmp_path: Path,
    ) -> None:
        """With all profiles; every named weight is an input, and the layers are those of the plain plan."""
        root = tiny_bundle if precision == "fp32" else request.getfixturevalue("half_bundle")
        component = component_of(root, name)
        contents, sizes = {}, {}
        for weights in WeightsAs:
            (tmp_path / weights).mkdir()
            target = Target(machine=gpu_machine("sm89"), weights=weights)
            contents[weights] = compiler.compile(component, target, tmp_path / weights, None)
            sizes[weights] = (tmp_path / weights / PLAN_FILE).stat().st_size
        ready, plain = contents[WeightsAs.INPUTS], contents[WeightsAs.CONSTANTS]
        assert ready is not None
        assert plain is not None
        assert set(ready.weight_inputs) == set(open_bundle(root).weights(name).initializers)
        assert plain.weight_inputs == ()
        assert len(ready.shapes) == len(component.static_shapes) == (2 if precision == "fp32" else 1)
        for kind in ("CONVOLUTION", "MATRIX_MULTIPLY", "NORMALIZATION", "ATTENTION_INPUT"):
            assert ready.layers.get(kind) == plain.layers.get(kind)
        largest = max(open_bundle(root).weights(name).initializers.values(), key=lambda place: place.shape)
        content = open_bundle(root).weights(name).stored(largest).tobytes()
        assert content not in (tmp_path / WeightsAs.INPUTS / PLAN_FILE).read_bytes()
        assert sizes[WeightsAs.INPUTS] != sizes[WeightsAs.CONSTANTS]

    def test_a_plan_of_a_set(self, tiny_copy: Path, compiler: TensorRTRTX) -> None:
        """The numbers in it are the set's."""
        component, weights = component_of(tiny_copy, "text_encoder"), open_bundle(tiny_copy).weights("text_encoder")
        bias, marked = "text_model.final_layer_norm.bias", np.float32(0.31830987)
        changes = Changes(key="x", weights={bias: lambda weight: np.full_like(weight, marked)})
        engine = compile_component(component, compiler, Target(machine=gpu_machine("sm89")), ())
        plain = tiny_copy / "engines" / engine.key
        with pytest.warns(UserWarning, match="building a tensorrt-rtx plan of text_encoder"):
            folder = folder_of_changed(compiler, component, plain, weights, changes)
        content = np.full(weights.shape(bias), marked).tobytes()
        assert content in (folder / PLAN_FILE).read_bytes()
        assert content not in (plain / PLAN_FILE).read_bytes()

    @pytest.mark.slow
    def test_the_embedded_model(self, wide_bundle: Path, compiler: TensorRTRTX, tmp_path: Path) -> None:
        """Its U-Net and text encoder with two profiles, and a plan of a set: minutes."""
        root = Path(shutil.copytree(wide_bundle, tmp_path / "wide.bundle"))
        latentrt.build(root, backend="tensorrt-rtx", gpus=["sm89"], lora_ready=True)
        (ready,) = engines_of(root, "unet")
        assert ready.contents is not None
        assert len(ready.contents.shapes) == 2
        component, weights = component_of(root, "unet"), open_bundle(root).weights("unet")
        plain = compile_component(component, compiler, Target(machine=gpu_machine("sm89")), ())
        changes = Changes(key="x", weights={name: lambda weight: weight * 1.5 for name in weights.named.weights})
        with pytest.warns(UserWarning, match="building a tensorrt-rtx plan of unet"):
            folder = folder_of_changed(compiler, component, root / "engines" / plain.key, weights, changes)
        size = (folder / PLAN_FILE).stat().st_size
        assert size > 1.5 * (root / "engines" / ready.key / PLAN_FILE).stat().st_size


def test_a_target_without_weights_takes_the_file_itself(tiny_bundle: Path) -> None:
    """Also of components that no adapter changes, whatever was asked for."""
    for name, weights in (("unet", WeightsAs.CONSTANTS), ("vae_decoder", WeightsAs.INPUTS)):
        graph = graph_for(component_of(tiny_bundle, name), Target(machine="sm89", weights=weights))
        assert (graph.content, dict(graph.weight_inputs)) == (None, {})
