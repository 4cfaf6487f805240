"""Components in bf16: what is written, what rounding costs, and weights by name."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from picture_checkpoints import SAVED

from latentrt.bf16.conversion import convert_in_place
from latentrt.engines.backends.ort_cpu.backend import measure_onnx
from latentrt.engines.backends.tensorrt.contents import check_precision
from latentrt.engines.bundle.bundle import Bundle, BundleFolder, folder_and_seal, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.errors import EngineError, ParityError, RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.half import halve
from latentrt.engines.graphs.islands import islands_of
from latentrt.engines.graphs.rounded_results import round_results
from latentrt.engines.precision import Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype
from latentrt.export.sources.families import FAMILIES

BF16 = stored_dtype("bfloat16")
WITH_WEIGHTS = ("Conv", "Gemm", "MatMul", "Attention", "GroupNormalization", "LayerNormalization")


def rounded(numbers: Array) -> Array:
    """The nearest numbers that bf16 has, as torch finds them."""
    tensor = torch.from_numpy(np.array(numbers, np.float32))
    return np.asarray(tensor.bfloat16().float().numpy())


def converted(bundle: Path, folder: Path) -> Bundle:
    """A bundle's portable files in bf16."""
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("engines"))
    manifest = convert_in_place(folder, folder_and_seal(folder)[0].manifest, (), StageTimer())
    write_manifest(folder / "bundle.json", manifest)
    return folder_and_seal(folder)[0]  # type: ignore[return-value]


def component(bundle: BundleFolder, name: str) -> Component:
    """One of its components."""
    return Component(root=bundle.root, manifest=bundle.manifest, name=name)


@pytest.fixture(scope="module")
def bf16(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle in bf16, without engines. Do not write to it."""
    return converted(tiny_bundle, tmp_path_factory.mktemp("bf16") / "tiny.bundle")


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    """Of all sizes; between two neighbours, the even one; and none becomes another on the way back."""
    drawn = np.random.default_rng(0)
    numbers = (drawn.standard_normal(20_000) * 10.0 ** drawn.integers(-44, 38, 20_000)).astype(np.float32)
    ties = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0, BF16.largest, -BF16.largest])
    numbers = np.concatenate([numbers, ties])
    assert np.array_equal(BF16.values(BF16.bits_of(numbers)), rounded(numbers))
    assert np.array_equal(BF16.bits_of(rounded(numbers)), BF16.bits_of(numbers))
    assert BF16.bits_of(numbers.reshape(2, -1).T).flags.c_contiguous


def test_every_result_is_rounded(tmp_path: Path) -> None:
    """Step by step what torch gives in bf16; what only moves numbers is not rounded again."""
    drawn = np.random.default_rng(1)
    x, w, b = (drawn.standard_normal(shape).astype(np.float32) for shape in ((4, 16), (16, 8), (8,)))
    values = {
        name: ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in (("x", (4, 16)), ("y", (8, 4)))
    }

    def weight(name: str, numbers: Array) -> ir.Value:
        tensor = ir.Tensor(BF16.bits_of(numbers), dtype=ir.DataType.BFLOAT16, name=name)
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)

    def node(operator: str, inputs: list[ir.Value], **attributes: Any) -> ir.Node:
        made = ir.node(operator, inputs, attributes=attributes, name=f"{operator} of {inputs[0].name}")
        made.outputs[0].type = ir.TensorType(attributes.get("to", ir.DataType.BFLOAT16))
        made.outputs[0].name = f"{made.name}.result"
        return made

    first = node("Cast", [values["x"]], to=ir.DataType.BFLOAT16)
    weights = [weight("w", w), weight("b", b)]
    product = node("MatMul", [first.outputs[0], weights[0]])
    total = node("Add", [product.outputs[0], weights[1]])
    turned = node("Transpose", [total.outputs[0]], perm=[1, 0])
    last = node("Cast", [turned.outputs[0]], to=ir.DataType.FLOAT)
    last.outputs[0].name, last.outputs[0].shape = "y", values["y"].shape
    nodes = [first, product, total, turned, last]
    graph = ir.Graph([values["x"]], [last.outputs[0]], nodes=nodes, initializers=weights, opset_imports={"": 23})
    model = ir.Model(graph, ir_version=10)
    assert round_results(model) == 3
    ir.save(model, tmp_path / "model.onnx")
    (y,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})
    expected = rounded(rounded(rounded(x) @ rounded(w)) + rounded(b)).T
    assert np.array_equal(y, expected)
    assert not np.array_equal(y, rounded(rounded(x) @ rounded(w) + rounded(b)).T)


def test_a_default_is_no_weight() -> None:
    """What a caller may leave out is still an input of the node that takes it."""
    kind = ir.DataType.FLOAT
    x, given = (ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape([4])) for name in ("x", "given"))
    given.const_value = ir.tensor(np.zeros(4, np.float32), name="given")
    add = ir.node("Add", [x, given], name="add")
    add.outputs[0].name, add.outputs[0].type = "y", ir.TensorType(kind)
    graph = ir.Graph([x, given], [add.outputs[0]], nodes=[add], initializers=[given], opset_imports={"": 23})
    halve(ir.Model(graph, ir_version=10), [], Precision.BF16)
    sources = [value.producer().inputs[0] for value in add.inputs if value is not None and value.producer()]
    assert sources == [x, given]


def test_graphs_are_typed(bf16: Bundle, tiny_bundle: Path) -> None:
    """Layers with weights take bf16 alone, sines float32; inputs and outputs stay; the files are half as large."""
    graph = load_graph(component(bf16, "unet").onnx).graph
    layers = [node for node in graph if node.op_type in WITH_WEIGHTS]
    kinds = {value.dtype for node in layers for value in node.inputs if value is not None and value.name}
    assert len(layers) > 50
    assert kinds == {ir.DataType.BFLOAT16}
    sines = {value.dtype for node in graph if node.op_type in ("Sin", "Cos") for value in node.inputs if value}
    assert sines == {ir.DataType.FLOAT}
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {ir.DataType.FLOAT}
    bf16.check_all()
    whole = open_bundle(tiny_bundle).manifest
    for name, record in bf16.manifest.components.items():
        assert record.precision is Precision.BF16
        assert 0.45 < component(bf16, name).onnx_bytes / component(open_bundle(tiny_bundle), name).onnx_bytes < 0.6
        assert not (bf16.root / whole.components[name].onnx).exists()
    assert bf16.manifest.components["unet"].islands == {"sines of timesteps and sizes": 8}
    assert bf16.manifest.precision is Precision.BF16


def test_weights_by_name(bf16: Bundle, tiny_bundle: Path) -> None:
    """Each is the fp32 weight, rounded; the table of tokens, which no graph has, stays as it is."""
    whole = open_bundle(tiny_bundle)
    for name in bf16.manifest.components:
        weights, exact = bf16.weights(name), whole.weights(name)
        assert weights.named.weights.keys() == exact.named.weights.keys()
        for key, row in weights.named.weights.items():
            if not row.places:
                continue
            outside = all(place.initializer is None for place in row.places)
            expected = exact.array(key) if outside else rounded(exact.array(key))
            assert np.array_equal(weights.array(key), expected), key


def test_a_changed_weight_is_rounded(bf16: Bundle) -> None:
    """To the nearest, in the layout of its place; one that bf16 cannot hold is refused."""
    weights = bf16.weights("unet")
    name = next(name for name in weights.named.weights if name.endswith("attn2.to_q.weight"))
    new = np.random.default_rng(2).standard_normal(weights.shape(name)).astype(np.float32)
    ((place, content),) = weights.placed(name, new)
    assert (place.dtype, content.dtype) == ("bfloat16", np.uint16)
    held = BF16.values(content)
    assert np.array_equal(held.T if held.shape != new.shape or place.layout == "transposed" else held, rounded(new))
    new[0, 0] = 3.395e38
    with pytest.raises(RequestError, match=r"got numbers up to 3\.39e\+38 .*expected at most 3\.3895e\+38"):
        weights.placed(name, new)


def test_rounding_is_measured_where_nothing_computes_it(bf16: Bundle, tmp_path: Path) -> None:
    """The decoder passes its gate with figures of bf16, and fails it where a weight is another one."""
    figures = measure_onnx(component(bf16, "vae_decoder"), bf16.probes("vae_decoder"))
    assert 45 < figures.psnr < 60
    damaged = replace(bf16, root=shutil.copytree(bf16.root, tmp_path / "damaged"))
    weights = damaged.weights("vae_decoder")
    ((place, content),) = weights.placed("decoder.conv_in.weight", 1.5 * weights.array("decoder.conv_in.weight"))
    with (damaged.root / place.file).open("r+b") as file:
        file.seek(place.offset)
        file.write(content.data)
    with pytest.raises(ParityError, match=r"vae_decoder \(bf16\) differs from its torch module"):
        measure_onnx(component(damaged, "vae_decoder"), damaged.probes("vae_decoder"))


@pytest.mark.parametrize(("family", "part"), [("sdxl", "vae_decoder"), ("sd2", "unet"), ("sd1", "text_encoder")])
def test_nothing_overflows(family: str, part: str) -> None:
    """Of fp16's islands only the sines are left."""
    reasons = {island.reason for island in islands_of(family, part, Precision.BF16)}
    assert reasons == ({"sines of timesteps and sizes"} if part == "unet" else set())
    assert len(islands_of(family, part)) > len(reasons)


@pytest.mark.parametrize(("bf16_layers", "passes"), [(100, True), (60, True), (40, False), (0, False)])
def test_plans_are_counted(bf16_layers: int, passes: bool) -> None:
    """Most layers with weights of a plan are in bf16; fp16 is as wrong as fp32."""
    asked: Any = SimpleNamespace(
        name="unet",
        record=SimpleNamespace(precision="bf16", parameters=10**9, quantization=None),
        onnx_bytes=2 * 10**9,
    )
    layers = {"CONVOLUTION": {"bfloat16": bf16_layers, "float16": 100 - bf16_layers}}
    if passes:
        check_precision(asked, layers)
        return
    with pytest.raises(EngineError, match="asked for in bf16 and did not come out so"):
        check_precision(asked, layers)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_passes_its_gates(
    family_bundle: Callable[[str], Path], picture_bundle: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """On OpenVINO, and rounded on ONNX Runtime; both leave about the same."""
    bundle = (picture_bundle if family in SAVED else family_bundle)(family)
    check_gates(converted(bundle, tmp_path / "bf16.bundle"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_nets_pass_their_gates(net_bundle: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    """Control nets."""
    check_gates(converted(net_bundle(family), tmp_path / "bf16.bundle"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "plus", "full"])
def test_image_prompts_pass_their_gates(adapter_bundle: Callable[[str, str], Path], tmp_path: Path, kind: str) -> None:
    """Image encoders and projections."""
    check_gates(converted(adapter_bundle("sd1", kind), tmp_path / "bf16.bundle"), tmp_path)


@pytest.mark.slow
def test_upscalers_pass_their_gates(tiny_upscaler: Path, onnx_upscaler_bundle: Path, tmp_path: Path) -> None:
    """One of torch, one of an ONNX file."""
    for index, bundle in enumerate((tiny_upscaler, onnx_upscaler_bundle)):
        check_gates(converted(bundle, tmp_path / f"{index}.bundle"), tmp_path)


def check_gates(bundle: BundleFolder, folder: Path) -> None:
    """Measures every component, with engines where OpenVINO is installed; a miss raises."""
    pytest.importorskip("openvino")
    from latentrt.engines.backends.openvino.backend import OpenVino
    from latentrt.engines.bundle.checks.gate import measure

    compiler = OpenVino()
    (target,) = compiler.targets(())
    for name in bundle.manifest.components:
        part, compiled = component(bundle, name), folder / f"{bundle.root.name}-{name}"
        compiled.mkdir()
        compiler.compile(part, target, compiled, None)
        model = compiler.open(part, compiled, threads=1)
        try:
            figures = measure(part, model.engine, bundle.probes(name))
        finally:
            model.close()
        if part.record.precision is Precision.FP32:
            assert name == "image_encoder"
            continue
        rounded_figures = measure_onnx(part, bundle.probes(name))
        assert abs(figures.psnr - rounded_figures.psnr) < 6.0, name
