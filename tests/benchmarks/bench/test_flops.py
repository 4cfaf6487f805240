"""The FLOP of our graphs against PyTorch's own count."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from latentrt.benchmarks.bench.machine.flops import flops_of_component, flops_of_graph
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import Profile, profile_from_text


def counted(root: Path, name: str, profile: Profile, batch: int) -> int:
    bundle = open_bundle(root)
    return flops_of_component(Component(root=bundle.root, manifest=bundle.manifest, name=name), profile, batch)


@pytest.mark.parametrize(("size", "batch"), [("32x32", 2), ("48x32", 1)])
def test_unet_as_torch_counts_it(size: str, batch: int, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """Attention by plain products, which torch's counter sees: in its fused form on the CPU it would not."""
    unet = UNet2DConditionModel.from_pretrained(tiny_checkpoint / "unet")
    unet.set_attn_processor(AttnProcessor())
    profile = profile_from_text(size)
    latents = profile.height // open_bundle(tiny_bundle).manifest.latents.height_factor
    across = profile.width // open_bundle(tiny_bundle).manifest.latents.height_factor
    context = torch.zeros(batch, 77, unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(batch, 4, latents, across), 1, context)
    assert counted(tiny_bundle, "unet", profile, batch) == counter.get_total_flops()


def test_decoder_as_torch_counts_it(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    """Its attention likewise."""
    vae = AutoencoderKL.from_pretrained(tiny_checkpoint / "vae")
    for module in vae.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
    side = 32 // open_bundle(tiny_bundle).manifest.latents.height_factor
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(torch.zeros(1, 4, side, side))
    assert counted(tiny_bundle, "vae_decoder", profile_from_text("32x32"), 1) == counter.get_total_flops()


def test_integer_products_count_like_others(tmp_path: Path) -> None:
    """(2, 3, 5) × (5, 7) in eight bits: 2 · 2 · 3 · 7 · 5."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    weight = onnx.numpy_helper.from_array(np.ones((5, 7), np.int8), "w")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, 5])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y], [weight])), tmp_path / "m.onnx")
    assert flops_of_graph(tmp_path / "m.onnx", {"x": (2, 3, 5)}) == 420


def test_unknown_shapes_are_refused(tmp_path: Path) -> None:
    """A size that depends on the values."""
    nodes = [helper.make_node("Compress", ["x", "c"], ["z"], axis=0), helper.make_node("MatMul", ["z", "z"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x, c], [y])), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="unknown"):
        flops_of_graph(tmp_path / "m.onnx", {"x": (4, 4), "c": (4,)})
