"""int8 from the inside: what is observed, how ranges are chosen, what each node costs, what is written."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from latentrt.engines.backends.ort_cpu.compile import compile_onnx
from latentrt.engines.backends.ort_cpu.model import OrtCpuEngine, OrtCpuModel
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.editor import GraphEditor, weight_of
from latentrt.engines.graphs.group_norm import GroupNorm
from latentrt.engines.graphs.islands import islands_of
from latentrt.engines.graphs.quantization import recipe as recipes
from latentrt.engines.graphs.quantization.attention import quantizable_attentions, rounded_attention
from latentrt.engines.graphs.quantization.insert import write_quantized
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.graphs.quantization.observe import Observations, ObservingEngine
from latentrt.engines.graphs.quantization.ranges import InputChoice, choose_inputs, output_ranges
from latentrt.engines.graphs.quantization.recipe import Range, recipe_for, rounded_weight
from latentrt.engines.graphs.quantization.sensitivity import RecordedCall, sensitivities
from latentrt.engines.graphs.quantization.smooth import SmoothedGraph
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Loop, Shapes
from latentrt.engines.spec import EngineSpec, TensorSpec


class Unet:
    """The tiny U-Net, observed over its probes."""

    def __init__(self, root: Path) -> None:
        bundle = open_bundle(root)
        self.component = Component(root=root, manifest=bundle.manifest, name="unet")
        self.weights = OnnxWeights(self.component.onnx)
        self.nodes = self.weights.quantizable()
        self.spec = self.component.spec_of_any_batch(Shapes(profile=bundle.manifest.profiles[0]))
        self.probes = [probe for probe in bundle.probes("unet") if probe.profile == bundle.manifest.profiles[0]]
        self.probes = [probe for probe in self.probes if bundle.manifest.chunks("unet", probe.inputs) == 1]
        self.observations = Observations()
        self.attentions = quantizable_attentions(self.weights, islands_of(bundle.manifest.family, "unet"))
        ranged = [name for attention in self.attentions for name in attention.inputs]
        with ObservingEngine(self.weights, self.nodes, self.spec, self.observations, [0, 1], ranged) as engine:
            self.outputs = [engine.run(probe.inputs)["out_sample"] for probe in self.probes for _ in range(4)]

    def choices(self, recipe: Recipe) -> dict[str, InputChoice]:
        return dict(choose_inputs(self.weights, self.nodes, self.observations, recipe))

    def write(self, recipe: Recipe, folder: Path) -> None:
        """Writes the graph with all that the recipe rounds."""
        choices, outputs = self.choices(recipe), output_ranges(self.nodes, self.observations, recipe)
        attentions = [rounded_attention(one, self.observations) for one in self.attentions if recipe.rounds_attention]
        write_quantized(self.weights, self.nodes, choices, outputs, recipe, folder, attentions)

    def run(self, folder: Path) -> list[Any]:
        """A written graph's answers to the probes."""
        compiled = folder / "compiled"
        compiled.mkdir()
        compile_onnx(folder / "model.onnx", compiled)
        with OrtCpuEngine(OrtCpuModel.of_compiled(compiled, threads=1), self.spec) as engine:
            return [engine.run(probe.inputs)["out_sample"] for probe in self.probes]


class Chain:
    """Equal products one behind the other, each with weights of (width, width), over rows of equal numbers."""

    def __init__(self, length: int, *, rows: int, width: int = 256) -> None:
        import onnx
        from onnx import helper, numpy_helper

        self._rows, self._width = rows, width
        weight = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32) / width**0.5
        names = ["sample", *(f"x{index}" for index in range(1, length)), "out_sample"]
        graph = helper.make_graph(
            [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"m{i}") for i in range(length)],
            "chain",
            [helper.make_tensor_value_info("sample", 1, ["batch", None, width]),
             helper.make_tensor_value_info("timestep", 7, ["batch"])],
            [helper.make_tensor_value_info("out_sample", 1, ["batch", None, width])],
            [numpy_helper.from_array(weight, f"w{i}") for i in range(length)],
        )  # fmt: skip
        self._folder = TemporaryDirectory()
        path = Path(self._folder.name) / "model.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx.data")
        self.weights = OnnxWeights(path)
        self.nodes = self.weights.quantizable()

    @property
    def spec(self) -> EngineSpec:
        """Its tensors."""
        return EngineSpec(
            inputs={
                "sample": TensorSpec(shape=("batch", self._rows, self._width), dtype=np.dtype(np.float32)),
                "timestep": TensorSpec(shape=("batch",), dtype=np.dtype(np.int64)),
            },
            outputs={
                "out_sample": TensorSpec(shape=("batch", self._rows, self._width), dtype=np.dtype(np.float32)),
            },
            batches=(1,),
        )

    def inputs(self, number: float, *, timestep: int = 0) -> dict[str, Any]:
        """All rows hold one number."""
        sample = np.full((1, self._rows, self._width), number, np.float32)
        return {"sample": sample, "timestep": np.array([timestep])}


def own_memory() -> float:
    """What this process holds that is no file's, in MB."""
    told = Path("/proc/self/status").read_text("ascii").split("RssAnon:")[1]
    return int(told.split()[0]) / 1024


@pytest.fixture(scope="module")
def unet(tiny_bundle: Path) -> Unet:
    """The tiny bundle's."""
    return Unet(tiny_bundle)


def relative(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_every_weight_matrix_is_found(unet: Unet) -> None:
    """Convolutions and linears, by the name of their torch module, each once; attention's products are not."""
    paths = [node.path for node in unet.nodes]
    assert len(set(paths)) == len(paths)
    assert {"unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1"} <= set(paths)
    assert any(path.endswith("attn1.to_q") for path in paths)
    share = sum(node.parameters for node in unet.nodes) / unet.component.record.parameters
    assert 0.97 < share < 1.0


def test_observing_changes_nothing(unet: Unet) -> None:
    """The watched U-Net computes what torch computed."""
    for probe, output in zip(unet.probes, unet.outputs[::4], strict=True):
        assert relative(output, probe.outputs["out_sample"]) < 1e-5


def test_what_is_kept_of_a_run(unet: Unet) -> None:
    """Extremes of every timestep and channel, samples within them, and the inputs of the runs asked for."""
    seen = unet.observations
    assert seen.runs == 4 * len(unet.probes)
    assert set(seen.timesteps) == {float(probe.inputs["timestep"][0]) for probe in unet.probes}
    assert len(seen.timesteps) == len(set(seen.timesteps)) < seen.runs
    for node in unet.nodes:
        tensor = seen.tensors[node.input]
        assert len(tensor.lowest) == len(tensor.highest) == len(seen.timesteps)
        assert tensor.visits == seen.runs
        samples = np.concatenate(tensor.samples)
        low, high = tensor.bounds
        assert low.min() <= samples.min()
        assert samples.max() <= high.max()
        channels = samples.shape[1]
        assert tensor.channel_peaks.shape == (channels,)
        others = tuple(axis for axis in range(samples.ndim) if axis != 1)
        assert (np.abs(samples).max(axis=others) <= tensor.channel_peaks * (1 + 1e-6)).all()
    assert len(seen.calls) == 2
    assert seen.calls[0]["sample"].shape == (1, 4, 16, 16)
    assert np.array_equal(seen.calls[0]["sample"][0], unet.probes[0].inputs["sample"][1])


@pytest.mark.slow
def test_a_decoder_is_observed_by_turns(tiny_bundle: Path, tmp_path: Path) -> None:
    """It has no timesteps: its runs share a number of rows. What is written of it computes nearly the same."""
    bundle = open_bundle(tiny_bundle)
    component = Component(root=tiny_bundle, manifest=bundle.manifest, name="vae_decoder")
    weights, spec = (
        OnnxWeights(component.onnx),
        component.spec_of_any_batch(Shapes(profile=bundle.manifest.profiles[0])),
    )
    nodes, seen = weights.quantizable(), Observations()
    latents = np.random.default_rng(4).standard_normal((40, 1, *spec.inputs["latent_sample"].shape[1:]), np.float32)
    with ObservingEngine(weights, nodes, spec, seen, [0, 35]) as engine:
        exact = [engine.run({"latent_sample": one})["sample"] for one in latents]
    assert seen.runs == 40
    first = seen.tensors[nodes[0].input]
    assert len(first.lowest) == 32
    assert np.array_equal(first.lowest[3], latents[[3, 35]].min(axis=(0, 1, 3, 4)))
    assert all(
        np.array_equal(call["latent_sample"], latents[run]) for call, run in zip(seen.calls, (0, 35), strict=True)
    )
    inputs = dict(choose_inputs(weights, nodes, seen, Recipe.U8S8))
    write_quantized(weights, nodes, inputs, output_ranges(nodes, seen, Recipe.U8S8), Recipe.U8S8, tmp_path)
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    compile_onnx(tmp_path / "model.onnx", compiled, group_norm=GroupNorm.EXACT)
    with OrtCpuEngine(OrtCpuModel.of_compiled(compiled, threads=1), spec) as engine:
        rounded = [engine.run({"latent_sample": one})["sample"] for one in latents]
    assert 1e-4 < relative(np.array(rounded), np.array(exact)) < 0.1


def test_samples_are_parts_of_the_tensors(unet: Unet) -> None:
    """Of one run: extremes are those of the whole tensor, every row and every window is found in it."""
    import onnx_ir as ir

    probe, observations = unet.probes[0], Observations()
    with ObservingEngine(unet.weights, unet.nodes, unet.spec, observations) as engine:
        engine.run(probe.inputs)
    inputs = dict.fromkeys(node.input for node in unet.nodes if node.input not in probe.inputs)
    model = unet.weights.copy_for_cpu()
    editor = GraphEditor(model.graph)
    for name in inputs:
        editor.output(editor.values()[name], ir.DataType.FLOAT)
    whole = dict(zip(inputs, unet.weights.session(model).run(list(inputs), probe.inputs), strict=True))
    sizes, strides = set(), set()
    for node in unet.nodes:
        tensor = whole[node.input] if node.input in whole else probe.inputs[node.input]
        seen = observations.tensors[node.input]
        channels = 1 if node.operator == "Conv" else tensor.ndim - 1
        others = tuple(axis for axis in range(tensor.ndim) if axis != channels)
        assert np.allclose(seen.lowest[0], tensor.min(axis=others), rtol=1e-4, atol=1e-5)
        assert np.allclose(seen.highest[0], tensor.max(axis=others), rtol=1e-4, atol=1e-5)
        (samples,) = seen.samples
        if node.operator == "Conv":
            rows = np.lib.stride_tricks.sliding_window_view(tensor, samples.shape[2:], axis=(2, 3))
            rows = rows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, samples[0].size)
            sizes.add(samples.shape[2:])
            strides.add(node.strides)
        else:
            rows = tensor.reshape(-1, tensor.shape[-1])
        for sample in samples.reshape(len(samples), -1):
            assert np.isclose(rows, sample, rtol=1e-4, atol=1e-5).all(axis=1).any()
        assert len(rows) == 1 or node.operator == "Gemm" or len(np.unique(samples, axis=0)) > 1
    assert len(sizes) > 1
    assert len(strides) > 1


def test_every_run_is_as_likely_among_the_samples() -> None:
    """Of 400 runs whose numbers are the run's, a tensor keeps rows of early and late ones alike, as many as it may."""
    chain = Chain(1, rows=4)
    observations = Observations()
    with ObservingEngine(chain.weights, chain.nodes, chain.spec, observations) as engine:
        for run in range(400):
            engine.run(chain.inputs(float(run), timestep=run % 5))
    samples = np.concatenate(observations.tensors[chain.nodes[0].input].samples)
    assert len(samples) == 256
    assert abs(samples[:, 0].mean() - 199.5) < 30.0  # 4 standard errors
    assert 80.0 < samples[:, 0].std() < 150.0
    assert observations.timesteps == [0.0, 1.0, 2.0, 3.0, 4.0]
    low, high = observations.tensors[chain.nodes[0].input].bounds
    assert low.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert high.tolist() == [395.0, 396.0, 397.0, 398.0, 399.0]


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux tells it")


@needs_proc
def test_observing_holds_no_more_than_a_few_tensors() -> None:
    """Of thirty tensors of 4 MB few live at a time; ONNX Runtime's arena keeps what it needed at most."""
    chain = Chain(30, rows=4096)
    with ObservingEngine(chain.weights, chain.nodes, chain.spec, Observations()) as engine:
        inputs = chain.inputs(1.0)
        before = own_memory()
        engine.run(inputs)
        assert own_memory() - before < 40.0


@needs_proc
def test_scoring_holds_no_second_set_of_weights() -> None:
    """Of sixty megabytes of weights, which stay on the disk, none is rounded before its node is."""
    chain = Chain(15, rows=8, width=1024)
    observations = Observations()
    with ObservingEngine(chain.weights, chain.nodes, chain.spec, observations, [0]) as engine:
        engine.run(chain.inputs(1.0))
    choices = dict(choose_inputs(chain.weights, chain.nodes, observations, Recipe.S8S8))
    calls = [RecordedCall(inputs=observations.calls[0], weight=1.0)]
    before = own_memory()
    scores = sensitivities(chain.weights, chain.nodes, choices, {}, Recipe.S8S8, calls, output="out_sample")
    next(scores)
    assert own_memory() - before < 45.0


def test_observations_come_back_from_a_file(unet: Unet, tmp_path: Path) -> None:
    """All of them."""
    np.savez(tmp_path / "seen.npz", **unet.observations.arrays())  # type: ignore[arg-type]
    with np.load(tmp_path / "seen.npz") as saved:
        again = Observations.from_arrays(dict(saved))
    assert again.runs == unet.observations.runs
    for name, tensor in unet.observations.tensors.items():
        assert np.array_equal(again.tensors[name].lowest, tensor.lowest)
        assert again.tensors[name].visits == tensor.visits
        assert len(again.tensors[name].samples) == len(tensor.samples)
        assert np.array_equal(np.array(again.tensors[name].samples), np.array(tensor.samples))
    assert again.timesteps == unet.observations.timesteps
    for before, after in zip(unet.observations.calls, again.calls, strict=True):
        assert before.keys() == after.keys()


@pytest.mark.parametrize("recipe", list(Recipe))
def test_rounding_keeps_zero_and_the_ends(recipe: Recipe) -> None:
    """Zero stays exactly zero; inside of the range nothing moves by more than half a step; outside it is clipped."""
    span = Range(lowest=-0.7, highest=2.3)
    scale, _ = span.scale_and_zero(recipe)
    inside = np.linspace(-0.7, 2.3, 1001, dtype=np.float32)
    rounded = span.rounded(inside, recipe)
    half = 0.51 * scale + 0.5 * scale * (not recipe.symmetric)
    if recipe is Recipe.E4M3:  # three bits of mantissa, and whole multiples of 2⁻⁹ steps next to zero
        half = np.maximum(np.abs(inside) / 15.9, half * 2.0**-9)
    assert (np.abs(rounded - inside) <= half).all()
    assert span.rounded(np.zeros(1, np.float32), recipe)[0] == 0.0
    assert span.rounded(np.array([9.0], np.float32), recipe)[0] <= 2.3 + scale
    assert not Range(lowest=0.0, highest=0.0).rounded(np.zeros(3, np.float32), recipe).any()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_are_rounded_by_channel(axis: int) -> None:
    """Each channel's largest weight survives; a channel of zeros stays."""
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * np.logspace(-3, 0, 5, dtype=np.float32)
    weight[2] = 0.0
    rounded = rounded_weight(weight, axis, Recipe.S8S8)
    other = 1 - axis % 2
    assert np.allclose(np.abs(rounded).max(axis=other), np.abs(weight).max(axis=other), rtol=1e-6)
    assert not rounded[2].any()


def test_recipes_of_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT wants symmetric numbers; a CPU without VNNI seven bits; what has no kernels is refused."""
    assert recipe_for(Backend.TENSORRT_RTX) is recipe_for(Backend.TENSORRT) is Recipe.S8S8
    monkeypatch.setattr(recipes, "cpu_features", lambda: "linux x86_64 AVX AVX2 FMA3 AVX512F AVX512_CLX")
    assert recipe_for(Backend.ORT_CPU) is Recipe.U8S8
    assert recipe_for(Backend.OPENVINO) is Recipe.U8S8_INPUTS
    monkeypatch.setattr(recipes, "cpu_sums_widely", lambda: False)
    assert recipe_for(Backend.ORT_CPU) is recipe_for(Backend.OPENVINO) is Recipe.U8S8_REDUCED
    assert "vae_decoder" in Recipe.U8S8_REDUCED.components
    assert "vae_decoder" not in Recipe.S8S8.components  # GPUs decode in fp16
    with pytest.raises(RequestError, match="got precision int8 for backend ort-cuda"):
        recipe_for(Backend.ORT_CUDA)


def test_smoothing_pays_where_a_channel_stands_out(unet: Unet) -> None:
    """With one channel of a linear's input a hundred times larger, smoothing is chosen, and loses far less."""
    node = next(node for node in unet.nodes if node.path.endswith("ff.net.2"))
    seen = unet.observations.tensors[node.input]
    factor = np.ones(len(seen.channel_peaks), np.float32)
    factor[3] = 100.0
    loud = replace(
        seen,
        lowest=[low * factor for low in seen.lowest],
        highest=[high * factor for high in seen.highest],
        samples=[part * factor for part in seen.samples],
    )
    observations = Observations(tensors={node.input: loud})
    ((_, choice),) = choose_inputs(unet.weights, [node], observations, Recipe.S8S8)
    assert choice.alpha is not None
    assert choice.divisor is not None
    plain = Range(
        lowest=float(min(low.min() for low in loud.lowest)), highest=float(max(h.max() for h in loud.highest))
    )
    samples, weight = np.concatenate(loud.samples), np.array(unet.weights.array(node.weight))
    exact = samples @ node.matrix(weight)
    unsmoothed = plain.rounded(samples, Recipe.S8S8) @ node.matrix(rounded_weight(weight, node.channels, Recipe.S8S8))
    assert choice.error < 0.25 * float(np.sum((unsmoothed - exact) ** 2) / np.sum(exact**2))


def test_smoothing_alone_changes_nothing(unet: Unet) -> None:
    """Divided activations and multiplied weights give the same prediction; norms take the divisor without a node."""
    choices = unet.choices(Recipe.S8S8)
    smoothed = SmoothedGraph(unet.weights, unet.nodes, choices)
    given, changed = unet.weights.model.graph.initializers, smoothed.model.graph.initializers
    assert any(not np.array_equal(weight_of(changed[name]), weight_of(given[name])) for name in given)
    session = unet.weights.session(smoothed.model)
    for probe in unet.probes:
        assert relative(session.run(["out_sample"], probe.inputs)[0], probe.outputs["out_sample"]) < 1e-5
    before = sum(node.op_type == "Mul" for node in unet.weights.model.graph)
    added = sum(node.op_type == "Mul" for node in smoothed.model.graph) - before
    assert added == len(smoothed.renamed) < sum(choice.divisor is not None for choice in choices.values())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.U8S8_REDUCED,
        Recipe.U8S8_INPUTS,
        Recipe.E4M3,
        *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in (Recipe.U8S8, Recipe.S8S8)),
    ],
)
def test_the_written_graph(recipe: Recipe, unet: Unet, tmp_path: Path) -> None:
    """Every node has eight bits, the weights take a quarter of the space, and the prediction is near torch's."""
    unet.write(recipe, tmp_path)
    size = (tmp_path / "model.onnx.data").stat().st_size
    whole = unet.component.record.weights
    assert whole is not None
    assert size < 0.30 * unet.component.manifest.files[whole].size
    for probe, result in zip(unet.probes, unet.run(tmp_path), strict=True):
        assert 1e-4 < relative(result, probe.outputs["out_sample"]) < 0.3
    import onnx

    if recipe.quantizes_outputs:
        compiled = onnx.load(str(tmp_path / "compiled" / "model.onnx"), load_external_data=False)
        kinds = [node.op_type for node in compiled.graph.node]
        int8 = sum(kinds.count(kind) for kind in ("QLinearConv", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul"))
        assert int8 == len(unet.nodes)


@pytest.mark.slow
def test_some_nodes_can_stay_in_floating_point(unet: Unet, tmp_path: Path) -> None:
    """With the worst third of them left out the prediction is nearer."""
    recipe = Recipe.U8S8
    choices, outputs = unet.choices(recipe), output_ranges(unet.nodes, unet.observations, recipe)
    calls = [RecordedCall(inputs=call, weight=1.0) for call in unet.observations.calls]
    scores = {n.name: s for n, s in sensitivities(
        unet.weights, unet.nodes, choices, outputs, recipe, calls, output="out_sample")}  # fmt: skip
    assert min(scores.values()) > 0.0
    order = sorted(unet.nodes, key=lambda node: -scores[node.name])
    errors = []
    for part, chosen in (("all", unet.nodes), ("some", tuple(order[len(order) // 3 :]))):
        write_quantized(unet.weights, chosen, choices, outputs, recipe, tmp_path / part)
        results = unet.run(tmp_path / part)
        errors.append(sum(relative(r, p.outputs["out_sample"]) for r, p in zip(results, unet.probes, strict=True)))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
def test_the_sum_of_what_nodes_cost_is_what_all_cost(unet: Unet, tmp_path: Path) -> None:
    """Rounding every node at once moves the prediction about as far as their scores say, taken as independent."""
    recipe = Recipe.S8S8
    choices = unet.choices(recipe)
    call = RecordedCall(inputs=unet.probes[0].inputs, weight=1.0)
    scores = [score for _, score in sensitivities(
        unet.weights, unet.nodes, choices, {}, recipe, [call], output="out_sample")]  # fmt: skip
    write_quantized(unet.weights, unet.nodes, choices, {}, recipe, tmp_path)
    moved = float(np.sqrt(np.mean((unet.run(tmp_path)[0] - unet.probes[0].outputs["out_sample"]) ** 2)))
    assert 0.4 < float(np.linalg.norm(scores)) / moved < 2.5


@pytest.mark.parametrize("recipe", [recipe for recipe in Recipe if recipe is not Recipe.W8])
def test_a_channel_of_zeros_is_scored_as_it_is_written(recipe: Recipe, tmp_path: Path) -> None:
    """Its bias may be rounded to steps of the input's scale; the score says what the written graph does."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(5)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 100
    weight[2] = 0.0
    bias = np.array([0.1, -0.2, 0.33, 0.4], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["sample", "w", "b"], ["out_sample"], name="conv", pads=[1, 1, 1, 1])],
        "conv",
        [helper.make_tensor_value_info("sample", 1, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("out_sample", 1, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    weights = OnnxWeights(tmp_path / "model.onnx")
    nodes = weights.quantizable()
    inputs = {"sample": rng.normal(size=(1, 3, 8, 8)).astype(np.float32) * 20}
    (exact,) = weights.session(weights.copy_for_cpu()).run(None, inputs)
    choice = InputChoice(range=Range(lowest=-80.0, highest=80.0), divisor=None, alpha=None, error=0.0)
    outputs = {"out_sample": Range(lowest=float(exact.min()), highest=float(exact.max()))}
    outputs = outputs if recipe.quantizes_outputs else {}
    calls = [RecordedCall(inputs=inputs, weight=1.0)]
    ((_, score),) = sensitivities(weights, nodes, {"sample": choice}, outputs, recipe, calls, output="out_sample")
    write_quantized(weights, nodes, {"sample": choice}, outputs, recipe, tmp_path / "int8")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    written = onnxruntime.InferenceSession(str(tmp_path / "int8" / "model.onnx"), options)
    moved = written.run(None, inputs)[0] - exact
    assert score == pytest.approx(float(np.sqrt(np.mean(moved**2))), rel=1e-3)


def test_a_convolution_over_frames_becomes_int8(tmp_path: Path) -> None:
    """Its windows have frames, and what is written convolves in eight bits on the CPU."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(6)
    weight = rng.normal(size=(8, 4, 3, 1, 1)).astype(np.float32)
    conv = helper.make_node("Conv", ["sample", "w"], ["out_sample"], name="conv", pads=[1, 0, 0, 1, 0, 0])
    shapes = {"sample": ["batch", 4, 6, 5, 7], "out_sample": ["batch", 8, 6, 5, 7]}
    sample, result = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    graph = helper.make_graph([conv], "conv", [sample], [result], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    specs = {name: TensorSpec(dtype=np.dtype(np.float32), shape=tuple(shape)) for name, shape in shapes.items()}
    spec = EngineSpec(inputs={"sample": specs["sample"]}, outputs={"out_sample": specs["out_sample"]}, batches=(1,))
    weights, seen = OnnxWeights(tmp_path / "model.onnx"), Observations()
    nodes = weights.quantizable()
    inputs = {"sample": rng.normal(size=(1, 4, 6, 5, 7)).astype(np.float32)}
    with ObservingEngine(weights, nodes, spec, seen) as engine:
        for _ in range(8):
            exact = engine.run(inputs)["out_sample"]
    samples = np.concatenate(seen.tensors["sample"].samples)
    assert samples.shape == (24, 4, 5, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(inputs["sample"][0], (4, 5, 3, 3)).reshape(-1, 4, 5, 3, 3)
    places = [int(np.flatnonzero((windows == one).all((1, 2, 3, 4)))[0]) for one in samples]
    assert {place // 15 for place in places} == {0, 1}  # frames, of 2 x 3 x 5 places
    choices = dict(choose_inputs(weights, nodes, seen, Recipe.U8S8))
    assert 1e-6 < choices["sample"].error < 1e-3
    outputs = output_ranges(nodes, seen, Recipe.U8S8)
    calls = [RecordedCall(inputs=inputs, weight=1.0)]
    ((_, score),) = sensitivities(weights, nodes, choices, outputs, Recipe.U8S8, calls, output="out_sample")
    write_quantized(weights, nodes, choices, outputs, Recipe.U8S8, tmp_path / "int8")
    (tmp_path / "compiled").mkdir()
    compile_onnx(tmp_path / "int8" / "model.onnx", tmp_path / "compiled")
    (compiled,) = (tmp_path / "compiled").glob("*.onnx")
    assert "QLinearConv" in {node.op_type for node in onnx.load(compiled, load_external_data=False).graph.node}
    with OrtCpuEngine(OrtCpuModel.of_compiled(tmp_path / "compiled", threads=1), spec) as engine:
        moved = engine.run(inputs)["out_sample"] - exact
    assert score == pytest.approx(float(np.sqrt(np.mean(moved**2))), rel=0.05)


FAMILIES = (
    "sd1", "sd1-inpaint", "lcm-sd1", "sd2", "sd2-inpaint", "sd-turbo",
    "sdxl", "sdxl-inpaint", "sdxl-turbo", "lcm-sdxl", "sdxl-refiner",
)  # fmt: skip


def halved_and_quantized(recipe: Recipe, family: str, bundle: Path, root: Path) -> tuple[Unet, Component]:
    """A family's U-Net by a recipe for GPUs, its quantization in the record; what it was made of, too."""
    from latentrt.engines.bundle.checked_files import record_files
    from latentrt.engines.bundle.records.component import AttentionRecord, QuantizationRecord, QuantizedNodeRecord
    from latentrt.engines.graphs.half import halve_file

    unet = Unet(bundle)
    unet.write(recipe, root / "onnx")
    halve_file(root / "onnx" / "model.onnx", islands_of(family, "unet"))
    manifest = unet.component.manifest
    nodes = {node.path: QuantizedNodeRecord(rounded=True, score=0.0, error=0.0, alpha=None) for node in unet.nodes}
    attention = None
    if recipe.rounds_attention:
        count = len(unet.attentions)
        attention = AttentionRecord(attentions=count, rounded=True, psnr_mean=1.0, psnr_worst=1.0)
    told = QuantizationRecord(
        recipe=recipe, tool="", quality=1.0, source_sha256="", prompts_sha256="", prompts=1, steps=1, pictures=1,
        psnr_mean=1.0, psnr_worst=1.0, worst_prompt="", nodes=nodes,
        attention=attention,
    )  # fmt: skip
    record = manifest.components["unet"].model_copy(
        update={
            "onnx": "onnx/model.onnx",
            "weights": "onnx/model.onnx.data",
            "precision": recipe.numbers.precision,
            "quantization": told,
        }
    )
    files = record_files(root, ["onnx/model.onnx", "onnx/model.onnx.data"])
    manifest = manifest.model_copy(update={"components": {**manifest.components, "unet": record}, "files": files})
    return unet, Component(root=root, manifest=manifest, name="unet")


def plan_of(component: Component, gpu: str, folder: Path) -> ContentsRecord:
    """What TensorRT-RTX wrote for it, without a GPU."""
    from latentrt.engines.backends.compiler import Target
    from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
    from latentrt.engines.machine import gpu_machine

    folder.mkdir()
    contents = TensorRTRTX().compile(component, Target(machine=gpu_machine(gpu)), folder, None)
    assert contents is not None
    assert (folder / "model.plan").stat().st_size > 0
    shutil.rmtree(folder)
    return contents


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("recipe", "gpu"), [(Recipe.E4M3, "sm89"), (Recipe.E4M3, "sm120"), (Recipe.S8S8, "sm89")])
@pytest.mark.grid(most=1)
def test_every_family_builds_for_a_gpu(
    recipe: Recipe, gpu: str, family: str, family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """TensorRT-RTX's own parser and builder take the symmetric graph, halved; Q/DQ stand around every node.

    In fp8 they stand around both products of attention, too.
    """
    pytest.importorskip("tensorrt_rtx")
    unet, component = halved_and_quantized(recipe, family, family_bundle(family), tmp_path)
    contents = plan_of(component, gpu, tmp_path / "plan")
    products = 2 * len(unet.attentions) if recipe.rounds_attention else 0
    assert sum(contents.quantized.values()) == len(unet.nodes) + products
    assert contents.layers["DEQUANTIZE"].keys() == {"float16"}
    assert ("ATTENTION_INPUT" in contents.layers) != bool(products)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [Recipe.S8S8, Recipe.E4M3])
def test_whole_steps_build_for_a_gpu(recipe: Recipe, tiny_bundle: Path, tmp_path: Path) -> None:
    """The step stands around the quantized U-Net, in fp32, and takes nothing of its Q/DQ."""
    pytest.importorskip("tensorrt_rtx")
    unet, component = halved_and_quantized(recipe, "sd1", tiny_bundle, tmp_path)
    contents = plan_of(replace(component, loop=Loop.DEVICE), "sm89", tmp_path / "plan")
    products = 2 * len(unet.attentions) if recipe.rounds_attention else 0
    assert sum(contents.quantized.values()) == len(unet.nodes) + products
    assert set(contents.shapes[0].outputs) == {"next_state", "denoised", "next_sample"}
