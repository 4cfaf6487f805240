"""Weights by name: what a record says of a weight is enough to change it in the bundle as torch would have it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.records.named_weights import Layout, StoredWeight
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.spec import Array
from latentrt.export.modules.text_encoder import load_text_encoder
from latentrt.export.modules.unet import load_unet
from latentrt.export.modules.vae import load_vae
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_model
from latentrt.export.tracing.onnx_export import Graph, batch_record, export_onnx
from latentrt.runtime.prompts.token_embeddings import TokenEmbeddings

_BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
_LAYER = "text_model.encoder.layers.1"
CASES = [
    ("unet", "down_blocks.0.resnets.0.conv1.weight", Layout.TORCH),  # Conv
    ("unet", f"{_BLOCK}.attn2.to_k.weight", Layout.TRANSPOSED),  # a Linear that is a MatMul
    ("unet", "time_embedding.linear_1.weight", Layout.TORCH),  # a Linear that is a Gemm
    ("unet", "mid_block.resnets.0.norm2.weight", Layout.TORCH),  # GroupNorm, equal to others
    ("unet", f"{_BLOCK}.norm3.bias", Layout.TORCH),  # LayerNorm
    ("unet", f"{_BLOCK}.ff.net.0.proj.bias", Layout.TORCH),
    ("text_encoder", f"{_LAYER}.self_attn.q_proj.weight", Layout.TRANSPOSED),
    ("text_encoder", f"{_LAYER}.layer_norm2.weight", Layout.TORCH),
    ("text_encoder", "text_model.embeddings.position_embedding.weight", Layout.TORCH),  # Embedding
    ("vae_encoder", "quant_conv.weight", Layout.TORCH),
    ("vae_encoder", "encoder.mid_block.attentions.0.to_v.weight", Layout.TRANSPOSED),
    ("vae_decoder", "decoder.up_blocks.0.resnets.0.conv2.weight", Layout.TORCH),
    ("vae_decoder", "decoder.mid_block.attentions.0.group_norm.weight", Layout.TORCH),
]
_TABLE = "text_model.embeddings.token_embedding.weight"


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(request: pytest.FixtureRequest, tiny_bundle: Path) -> Path:
    """The tiny bundle in one precision. Do not write to it."""
    if request.param == "fp32":
        return tiny_bundle
    half: Path = request.getfixturevalue("half_bundle")
    return half


def module_of(checkpoint: Checkpoint, component: str) -> torch.nn.Module:
    """A component as torch has it."""
    if component == "unet":
        return load_unet(checkpoint)
    if component.startswith("vae"):
        return load_vae(checkpoint)[component == "vae_decoder"]
    row = next(row for row in checkpoint.family.text_encoders if row.part == component)
    return load_text_encoder(checkpoint, row).module


def stored_in(checkpoint: Path, component: str) -> Path:
    """The file of a component's weights in a diffusers folder."""
    (file,) = (checkpoint / ("vae" if component.startswith("vae") else component)).glob("*.safetensors")
    return file


def tensors_of(checkpoint: Path, component: str) -> dict[str, torch.Tensor]:
    """The weights in that file, by the names that checkpoints have: transformers 5 leaves ``text_model`` out."""
    own = ("text_model.", "text_projection.")
    outside = component.startswith("text_encoder")
    return {
        name if not outside or name.startswith(own) else f"text_model.{name}": tensor
        for name, tensor in load_file(stored_in(checkpoint, component)).items()
        if tensor.is_floating_point()
    }


def changed_checkpoint(checkpoint: Path, component: str, name: str, folder: Path) -> tuple[Path, Array]:
    """A copy of a checkpoint with one weight changed by its name, and the weight."""
    copy = shutil.copytree(checkpoint, folder)
    tensors = tensors_of(copy, component)
    generator = torch.Generator().manual_seed(0)
    scale = 0.5 * float(tensors[name].std().nan_to_num()) + 0.2
    tensors[name] = tensors[name] + scale * torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, stored_in(copy, component), {"format": "pt"})
    return copy, tensors[name].numpy()


def put(file: Path, place: StoredWeight, numbers: Array) -> None:
    """Writes numbers into a weights file, where a record says."""
    assert numbers.dtype == place.dtype
    np.memmap(file, place.dtype, "r+", place.offset, place.shape)[...] = numbers


def answers(module: torch.nn.Module, inputs: dict[str, Array]) -> Array:
    """The first output of a module."""
    with torch.inference_mode():
        return np.asarray(module(*map(torch.from_numpy, inputs.values()))[0])


def error(outputs: Array, reference: Array) -> float:
    """The relative error."""
    return float(np.linalg.norm(outputs - reference) / np.linalg.norm(reference))


@pytest.mark.grid(most=13)
@pytest.mark.parametrize(("component", "name", "layout"), CASES, ids=[f"{row[0]}-{row[1]}" for row in CASES])
def test_a_weight_is_changed_through_the_record_alone(
    bundle: Path, tiny_checkpoint: Path, component: str, name: str, layout: Layout, tmp_path: Path
) -> None:
    """As torch computes with the changed weight, so does the patched graph; before, both were far apart."""
    opened = open_bundle(bundle)
    half = opened.manifest.components[component].precision == "fp16"
    weights, bound = opened.weights(component), 4e-3 if half else 1e-5
    original = tensors_of(tiny_checkpoint, component)[name].numpy()
    np.testing.assert_array_equal(weights.array(name), original.astype(np.float16) if half else original)
    changed, weight = changed_checkpoint(tiny_checkpoint, component, name, tmp_path / "changed")

    onnx = opened.path(opened.manifest.components[component].onnx)
    patched = shutil.copytree(onnx.parent, tmp_path / "patched")
    placed = weights.placed(name, weight)
    assert {place.layout for place, _ in placed} == {layout}
    for place, numbers in placed:
        put(patched / Path(place.file).relative_to(onnx.parent.relative_to(bundle)), place, numbers)

    record, probe = opened.manifest.components[component], opened.probes(component)[0]
    inputs = {name: probe.inputs[name] for name in record.inputs}
    reference = answers(module_of(checkpoint_from_model(str(changed), Choices()), component), inputs)
    (output,) = onnxruntime.InferenceSession(str(patched / onnx.name)).run(list(record.outputs)[:1], inputs)
    assert error(output, reference) < bound
    assert error(probe.outputs[next(iter(record.outputs))], reference) > 5 * bound


def test_a_token_embedding_is_changed_in_its_table(bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The table lies outside of the graph, in fp32 whatever the graph is."""
    opened = open_bundle(bundle)
    weights, record = opened.weights("text_encoder"), opened.manifest.token_embeddings["text_encoder"]
    original = tensors_of(tiny_checkpoint, "text_encoder")[_TABLE].numpy()
    np.testing.assert_array_equal(weights.array(_TABLE), original)
    _, weight = changed_checkpoint(tiny_checkpoint, "text_encoder", _TABLE, tmp_path / "changed")
    ((place, numbers),) = weights.placed(_TABLE, weight)
    assert (place.initializer, place.file) == (None, record.file)
    copy = tmp_path / "table.safetensors"
    shutil.copyfile(bundle / place.file, copy)
    put(copy, place, numbers)
    ids = np.array([3, 700, record.rows - 1])
    np.testing.assert_array_equal(TokenEmbeddings(copy, record).vectors(ids), weight[ids])


def test_every_parameter_of_the_checkpoint_has_a_row(bundle: Path, tiny_checkpoint: Path) -> None:
    """Under the name that the checkpoint's file gives it, with its shape and its numbers."""
    opened = open_bundle(bundle)
    for component in opened.manifest.components:
        weights = opened.weights(component)
        tensors = {name: tensor.numpy() for name, tensor in tensors_of(tiny_checkpoint, component).items()}
        other = {"vae_encoder": ("decoder.", "post_"), "vae_decoder": ("encoder.", "quant_")}.get(component, ())
        assert weights.named.weights.keys() == {name for name in tensors if not name.startswith(other)}
        for name in weights.named.weights:
            assert weights.shape(name) == tensors[name].shape
            array = weights.array(name)
            np.testing.assert_array_equal(array, tensors[name].astype(array.dtype))


def test_parts_of_sdxl(family_bundle: Callable[[str], Path], family_checkpoint: Callable[[str], Path]) -> None:
    """Layers that nothing takes have no place and say so; projections and added embeddings are there."""
    opened, checkpoint = open_bundle(family_bundle("sdxl")), family_checkpoint("sdxl")
    weights = opened.weights("text_encoder")
    with pytest.raises(RequestError, match=r"layers\.2\.mlp\.fc1\.weight' cannot be reached .* nothing"):
        weights.array("text_model.encoder.layers.2.mlp.fc1.weight")
    for component, name in (
        ("text_encoder", "text_model.encoder.layers.1.mlp.fc1.weight"),
        ("text_encoder_2", "text_model.encoder.layers.2.mlp.fc1.weight"),
        ("text_encoder_2", "text_projection.weight"),
        ("unet", "add_embedding.linear_1.weight"),
    ):
        tensors = tensors_of(checkpoint, component)
        np.testing.assert_array_equal(opened.weights(component).array(name), tensors[name].numpy())
        assert tensors.keys() == opened.weights(component).named.weights.keys()


def test_what_is_refused(tiny_bundle: Path) -> None:
    """Names and shapes of another model, and numbers that the precision cannot hold."""
    weights = open_bundle(tiny_bundle).weights("unet")
    with pytest.raises(RequestError, match=r"unet has no weight 'conv_in\.wait', expected one of its \d+ names"):
        weights.array("conv_in.wait")
    with pytest.raises(RequestError, match=r"got \(3,\) for unet's weight 'conv_in\.bias', expected \(32,\)"):
        weights.placed("conv_in.bias", np.zeros(3, np.float32))
    with pytest.raises(RequestError, match="got numbers up to nan"):
        weights.placed("conv_in.bias", np.full(32, np.nan, np.float32))


def test_fp16_holds_no_larger_numbers(bundle: Path) -> None:
    """What overflows is refused, not stored as infinite."""
    opened = open_bundle(bundle)
    large = np.full(32, 7e4, np.float32)
    if opened.manifest.precision == "fp32":
        opened.weights("unet").placed("conv_in.bias", large)
    else:
        with pytest.raises(RequestError, match=r"up to 7e\+04 .* at most 65504; lower its strength"):
            opened.weights("unet").placed("conv_in.bias", large)


def test_damaged_records(tiny_copy: Path) -> None:
    """A record that is cut short or altered is noticed."""
    file = tiny_copy / "weights" / "unet.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(BundleError, match=r"weights/unet\.json has \d+ bytes instead"):
        open_bundle(tiny_copy).weights("unet")
    file.write_bytes(whole.replace(b'"offset":0', b'"offset":1', 1))
    with pytest.raises(BundleError, match=r"weights/unet\.json was altered"):
        open_bundle(tiny_copy).weights("unet")


class Alike(torch.nn.Module):
    """Weights that are equal, tied, zero, used both ways, and not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
        self.linear, self.tied, self.unused = (torch.nn.Linear(8, 8) for _ in range(3))
        self.tied.weight = self.linear.weight
        torch.nn.init.zeros_(self.linear.bias)
        torch.nn.init.zeros_(self.tied.bias)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """(B, 3, 8) → the same."""
        x = self.second(self.tied(self.first(self.linear(x)))) * self.get_buffer("scale")
        return (x @ self.linear.weight,)


def test_equal_weights_have_initializers_of_their_own(tmp_path: Path) -> None:
    """Optimising merges and drops none; what is tied has one home for all of its names; what has no use says so."""
    graph = Graph(
        inputs={"x": batch_record("float32", 3, 8)},
        outputs={"y": TensorRecord(shape=("batch", 3, 8), dtype="float32")},
        multiples={},
    )
    module = Alike().eval()
    written = export_onnx(module, {"x": torch.randn(2, 3, 8)}, graph, tmp_path)
    rows: dict[str, Any] = {
        name: {(place.initializer, place.layout.value) for place in row.places} for name, row in written.weights.items()
    }
    assert rows.keys() == module.state_dict().keys()
    assert rows["linear.weight"] == rows["tied.weight"]
    assert {layout for _, layout in rows["linear.weight"]} == {"torch", "transposed"}
    assert rows["unused.weight"] == rows["unused.bias"] == set()
    assert written.weights["unused.bias"].reason == "the graph computes nothing with it"
    single = [name for name in rows if len(rows[name]) == 1]
    assert sorted(single) == [
        "first.bias", "first.weight", "linear.bias", "scale", "second.bias", "second.weight", "tied.bias"
    ]  # fmt: skip
    assert len({next(iter(rows[name])) for name in single}) == len(single)
