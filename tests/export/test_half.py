"""fp16 graphs: what is halved, what stays, and what is refused."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.errors import CheckpointError, ParityError, RequestError
from latentrt.engines.graphs.half import LARGEST, halve
from latentrt.engines.graphs.islands import ISLANDS, Island, islands_of, refuse_unmatched
from latentrt.engines.precision import Precision
from latentrt.export.tracing.activations import ActivationRanges, extreme_inputs
from latentrt.export.tracing.onnx_export import Graph, batch_record, export_onnx

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class Small(torch.nn.Module):
    """What halving has to cope with: a timestep that is moved before it is used, masks, resizing, shared weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time_proj = Sines()
        self.linear = torch.nn.Linear(8, 8)
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.out = torch.nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        """(B, 4, h, w), (1,) → (B, 4, 2h, 2w)."""
        time = self.linear(self.time_proj(timestep.expand(sample.shape[0])))
        masked = torch.where(time > 0.0, time, torch.finfo(time.dtype).min)
        hidden = self.norm(self.conv(sample)) + self.linear(time)[:, :, None, None]
        hidden = hidden * masked.softmax(1)[:, :, None, None]
        return (self.out(torch.nn.functional.interpolate(hidden, scale_factor=2.0)),)


class Sines(torch.nn.Module):
    """The sinusoidal embedding of a timestep."""

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        """(B,) → (B, 8)."""
        angles = timestep[:, None] * torch.exp(torch.arange(4) * -2.3)[None]
        return torch.cat([angles.sin(), angles.cos()], dim=1)


LATENT = ("latent_height", "latent_width")
GRAPH = Graph(
    inputs={"sample": batch_record("float32", 4, *LATENT), "timestep": TensorRecord(shape=(1,), dtype="float32")},
    outputs={"out_sample": batch_record("float32", 4, "height", "width")},
    multiples={},
)
TIME = Island(component="unet", scope="*time_proj", reason="sines")
NORMS = Island(component="unet", operators=frozenset({"GroupNormalization"}), reason="norms")
INPUTS = {
    "sample": torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1)),
    "timestep": torch.tensor([987.3]),
}


def exported(module: torch.nn.Module, folder: Path, islands: Sequence[Island] | None) -> tuple[Any, dict[str, int]]:
    """The graph that was written, and what the islands kept."""
    written = export_onnx(module.eval(), INPUTS, GRAPH, folder, islands)
    return ir.load(folder / "model.onnx"), written.islands


def answered(folder: Path) -> np.ndarray[Any, Any]:
    """What ONNX Runtime makes of the inputs."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (output,) = session.run(None, {name: tensor.numpy() for name, tensor in INPUTS.items()})
    return np.asarray(output)


def kinds(model: Any, operator: str) -> list[tuple[Any, ...]]:
    """The types of the floating-point inputs of every node of a kind."""
    return [
        tuple(value.dtype for value in node.inputs if value is not None and value.dtype in (FLOAT, HALF))
        for node in model.graph
        if node.op_type == operator
    ]


def test_everything_but_islands_is_halved(tmp_path: Path) -> None:
    """Convolutions and linears run in fp16, sines in fp32 from an unrounded timestep; the outside stays fp32."""
    model, kept = exported(Small(), tmp_path, [TIME])
    assert kinds(model, "Conv") == [(HALF, HALF, HALF)] * 2
    assert set(kinds(model, "Gemm")) == {(HALF, HALF, HALF)}
    assert kinds(model, "GroupNormalization") == [(HALF, HALF, HALF)]
    assert kinds(model, "Sin") == kinds(model, "Cos") == kinds(model, "Expand") == [(FLOAT,)]
    assert {value.name: value.dtype for value in model.graph.inputs} == {"sample": FLOAT, "timestep": FLOAT}
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("out_sample", FLOAT)]
    assert list(kept) == ["sines"]
    assert kept["sines"] >= 4


def test_weights_are_stored_once_and_in_half(tmp_path: Path) -> None:
    """A linear that is used twice has one fp16 weight, and no fp32 one is left."""
    model, _ = exported(Small(), tmp_path, [TIME])
    weights = {name: value.dtype for name, value in model.graph.initializers.items() if "weight" in name}
    assert set(weights.values()) == {HALF}
    assert sum(name.startswith("linear.weight") for name in weights) == 1


def test_an_island_is_cast_in_and_out_once(tmp_path: Path) -> None:
    """The norm's input and weights are fp32, what follows is fp16 again, and each value is cast once."""
    model, kept = exported(Small(), tmp_path, [TIME, NORMS])
    assert kinds(model, "GroupNormalization") == [(FLOAT, FLOAT, FLOAT)]
    assert kept["norms"] == 1
    cast = [(node.inputs[0].name, node.attributes["to"].value) for node in model.graph if node.op_type == "Cast"]
    assert len(cast) == len(set(cast))
    norm = next(node for node in model.graph if node.op_type == "GroupNormalization")
    assert norm.inputs[0].producer().op_type == "Cast"
    assert {user.node.op_type for user in norm.outputs[0].uses()} == {"Cast"}


def test_the_answer_is_near_and_not_equal(tmp_path: Path) -> None:
    """fp16 weights cost a few 1e-4; with everything an island nothing changes."""
    with torch.inference_mode():
        (expected,) = Small()(*INPUTS.values())
    scale = expected.norm().item()
    exported(Small(), tmp_path / "half", [TIME])
    error = float(np.linalg.norm(answered(tmp_path / "half") - expected.numpy())) / scale
    assert 1e-6 < error < 2e-3
    exported(Small(), tmp_path / "whole", [Island(component="unet", reason="all")])
    assert float(np.linalg.norm(answered(tmp_path / "whole") - expected.numpy())) / scale < 1e-6


def test_a_rounded_timestep_would_be_seen(tmp_path: Path) -> None:
    """Without the island the sines of 987.3 come out wrong: the island is not there for nothing."""
    with torch.inference_mode():
        (expected,) = Small()(*INPUTS.values())
    errors = []
    for name, islands in (("with", [TIME]), ("without", [])):
        exported(Small(), tmp_path / name, islands)
        errors.append(float(np.linalg.norm(answered(tmp_path / name) - expected.numpy())))
    assert errors[1] > 3 * errors[0]


def test_numbers_beyond_the_range(tmp_path: Path) -> None:
    """The mask's lowest fp32 number becomes fp16's lowest; a weight beyond the range is refused by name."""
    model, _ = exported(Small(), tmp_path / "mask", [TIME])
    constants = [
        float(value.const_value.numpy())
        for value in model.graph.initializers.values()
        if value.dtype is HALF and value.const_value.size == 1
    ]
    assert -LARGEST in constants
    assert np.isfinite(answered(tmp_path / "mask")).all()
    module = Small()
    module.conv.weight.data[0, 0, 0, 0] = 7e4
    with pytest.raises(CheckpointError, match=r"conv\.weight has weights of up to 7e\+04, expected at most 65504"):
        exported(module, tmp_path / "large", [TIME])


def test_activations_beyond_the_range_are_named() -> None:
    """The innermost module that leaves the range is named, and an island over it silences the check."""
    module = Small().eval()
    module.conv.weight.data *= 1e6
    ranges = ActivationRanges()
    with torch.inference_mode():
        module(*INPUTS.values())
        ranges.check("unet", module, [])  # not watched
        with ranges.watching():
            module(*INPUTS.values())
    with pytest.raises(ParityError, match=r"unet cannot be fp16: conv reaches .*--fp32 unet"):
        ranges.check("unet", module, [])
    with pytest.raises(ParityError, match="conv reaches"):
        ranges.check("unet", module, [Island(component="unet", scope="conv", operators=frozenset({"Add"}), reason="")])
    ranges.check("unet", module, [Island(component="unet", scope="conv", reason="")])


class Attending(torch.nn.Module):
    """Attention whose scores can be made as large as wanted while its output stays small."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.attn = Heads(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads, L, d) → the same."""
        return self.attn(x)  # type: ignore[no-any-return]


class Heads(torch.nn.Module):
    """softmax(gain · x xᵀ / √d) x."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, heads, L, d) → the same."""
        return torch.nn.functional.scaled_dot_product_attention(x * self.gain, x, x)


def test_attention_scores_are_watched() -> None:
    """Scores are in no module's output; an island of Attention over the module silences the check, another does not."""
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    original = torch.nn.functional.scaled_dot_product_attention
    for gain, refused in ((1.0, False), (1e6, True)):
        module, ranges = Attending(gain), ActivationRanges()
        with torch.inference_mode(), ranges.watching():
            module(x)
        if refused:
            with pytest.raises(ParityError, match="attn, in the scores of its attention, reaches"):
                ranges.check("unet", module, [Island(component="unet", scope="other", reason="")])
            attention = Island(component="unet", scope="attn", operators=frozenset({"Attention"}), reason="")
            ranges.check("unet", module, [attention])
        else:
            ranges.check("unet", module, [])
    assert torch.nn.functional.scaled_dot_product_attention is original


def test_nan_counts_as_beyond_the_range() -> None:
    """A module that makes NaN is named as well."""
    module = Small().eval()
    module.out.bias.data[:] = float("nan")
    ranges = ActivationRanges()
    with torch.inference_mode(), ranges.watching():
        module(*INPUTS.values())
    with pytest.raises(ParityError, match="out reaches inf"):
        ranges.check("unet", module, [])


def test_stretched_inputs() -> None:
    """Latents are stretched, prompts and pictures are not."""
    sample = np.ones((1, 9, 2, 2), np.float32)
    stretched = extreme_inputs(ComponentKind.UNET, {"sample": sample, "timestep": np.ones(1, np.float32)}, channels=4)
    assert stretched is not None
    assert stretched["sample"][0, :, 0, 0].tolist() == [4.0] * 4 + [1.0] * 5
    assert sample.max() == 1.0
    assert stretched["timestep"].max() == 1.0
    assert extreme_inputs(ComponentKind.TEXT_ENCODER, {"inputs_embeds": sample}, channels=4) is None


@pytest.mark.parametrize(
    ("family", "component", "whole", "reasons"),
    [
        ("sd1", "vae_decoder", False, set()),
        ("sdxl", "vae_decoder", True, {"activations beyond 65504"}),
        ("lcm-sdxl", "vae_encoder", True, {"activations beyond 65504"}),
        ("sd1", "unet", False, {"sines of timesteps and sizes"}),
        ("sd2", "unet", False, {"sines of timesteps and sizes", "attention scores"}),
        ("sd-turbo", "unet", False, {"sines of timesteps and sizes", "attention scores"}),
        ("sdxl-refiner", "text_encoder_2", False, {"outlier channels of CLIP"}),
    ],
)
def test_islands_of_families(family: str, component: str, whole: bool, reasons: set[str]) -> None:
    """The rows that a family and component pick."""
    islands = islands_of(family, component)
    assert any(island.is_whole for island in islands) is whole
    assert {island.reason for island in islands} == reasons


def test_every_island_is_of_a_family() -> None:
    """No row is for a family that is not there."""
    from latentrt.engines.bundle.kinds import ComponentKind
    from latentrt.engines.precision import Precision
    from latentrt.export.sources.families import FAMILIES

    parts = [*ComponentKind, "text_encoder_2"]
    each = product(FAMILIES, parts, (Precision.FP16, Precision.BF16))
    used = {island for family, part, precision in each for island in islands_of(family.name, part, precision)}
    assert used == set(ISLANDS)


def test_an_already_halved_graph_is_left(tmp_path: Path) -> None:
    """There is nothing more to halve, so nothing changes."""
    model, _ = exported(Small(), tmp_path, [TIME])
    before = [(node.op_type, tuple(v.dtype for v in node.outputs)) for node in model.graph if node.op_type == "Conv"]
    halve(model, [TIME])
    assert [
        (node.op_type, tuple(v.dtype for v in node.outputs)) for node in model.graph if node.op_type == "Conv"
    ] == before


def test_modules_that_somebody_wants_in_fp32() -> None:
    """``COMPONENT:SCOPE`` is an island of that component; one that holds nothing is refused by name."""
    asked = islands_of("sd1", "unet", Precision.FP16, ["vae_decoder", "unet:*.mid_block.*", "vae_decoder:decoder.*"])
    assert [(one.scope, one.precisions) for one in asked if one.reason.startswith("asked")] == [
        ("*.mid_block.*", (Precision.FP16, Precision.BF16))
    ]
    refuse_unmatched(asked, [one.reason for one in asked])
    with pytest.raises(RequestError, match=r"got fp32 unet:\*.mid_block.\*, of which the graph has no module"):
        refuse_unmatched(asked[:1], [])
