"""What is no net, or one for another model: a sentence each, by headers alone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from ldm_nets import ldm_control, saved
from safetensors.numpy import save_file
from tiny_nets import save_control_net, save_t2i_adapter

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import LatentrtError
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.finding import addon_from_headers


@pytest.fixture(scope="session")
def base(tiny_bundle: Path) -> BaseModel:
    """The tiny bundle, as nets see it."""
    return BaseModel(open_bundle(tiny_bundle))


def refusal(net: Path | str, base: BaseModel) -> str:
    with pytest.raises(LatentrtError) as caught:
        addon_from_headers(str(net), base)
    said = str(caught.value)
    assert said.count("\n") == 0
    return said


def tensors(path: Path, *names: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Path:
    """A file of tensors of these names."""
    save_file({name: np.zeros((shapes or {}).get(name, (4,)), np.float32) for name in names}, path)
    return path


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.base_to_ctrl.0.weight"], "a ControlNet-XS"),
        (["control_model.enc_zero_convs_out.0.0.weight", "control_model.input_hint_block.0.weight"], "ControlNet-XS"),
        (["lllite_unet_input_blocks_1_1.conditioning1.0.weight"], "a ControlNet-LLLite"),
        (["controlnet_blocks.0.weight", "transformer_blocks.0.norm1_context.linear.weight"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight", "controlnet_blocks.0.weight"], "Flux"),
        (["local_adapter.input_hint_block.0.weight"], "a Uni-ControlNet"),
        (["brushnet_down_blocks.0.weight", "conv_in_condition.weight"], "a BrushNet"),
        (["down_blocks.0.motion_modules.0.norm.weight", "controlnet_cond_embedding.conv_in.weight"], "AnimateDiff"),
        (["style_embedding", "transformer_layes.0.attn.in_proj_weight"], "for styles"),
        (["lora_unet_mid_block_x.lora_down.weight"], "a LoRA, expected"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "leave --for out"),
        (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "a whole model or its U-Net"),
        (["encoder.down.0.block.0.conv1.weight"], "a VAE alone"),
        (["emb_params"], "a textual inversion"),
        (["body.0.attention.weight", "first"], "its first tensors are body.0.attention.weight, first"),
    ],
)
def test_other_files(names: list[str], said: str, base: BaseModel, tmp_path: Path) -> None:
    """By the names of their tensors, with what was expected."""
    message = refusal(tensors(tmp_path / "net.safetensors", *names), base)
    assert said in message
    assert "expected a ControlNet, a T2I-Adapter or an IP-Adapter" in message


def test_hypernetworks(base: BaseModel, tmp_path: Path) -> None:
    pair = ({"linear.0.weight": torch.zeros(4)}, {"linear.0.weight": torch.zeros(4)})
    torch.save({768: pair}, tmp_path / "hyper.pt")
    assert "a hypernetwork" in refusal(tmp_path / "hyper.pt", base)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "SD3ControlNetModel"}, "a SD3ControlNetModel, expected"),
        ({"_class_name": "UNetControlNetXSModel"}, "a ControlNet-XS with its U-Net"),
        ({"_class_name": "UNet2DConditionModel"}, "give it without --for"),
        ({"architectures": ["CLIPModel"]}, "a CLIPModel"),
    ],
)
def test_other_folders(config: Mapping[str, object], said: str, base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors(tmp_path / "diffusion_pytorch_model.safetensors", "conv_in.weight")
    assert said in refusal(tmp_path, base)


def test_models_and_what_is_no_file(
    base: BaseModel, tiny_checkpoint: Path, tiny_bundle: Path, net_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A net is expected: a model's folder, its bundle and an embedded model are refused, as is a way of drawing."""
    assert "leave --for out" in refusal(tiny_checkpoint, base)
    assert "the bundle of a model" in refusal(tiny_bundle, base)
    assert "an embedded model" in refusal("emoji", base)
    assert "without weights of its own" in refusal("reference-only", base)
    assert "check the path" in refusal(tmp_path / "nowhere.safetensors", base)
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionControlNetPipeline"}))
    (pipeline / "controlnet").symlink_to(net_checkpoint("sd1"))
    assert f"give {str(pipeline / 'controlnet')!r}" in refusal(pipeline, base)
    several = tmp_path / "several"
    several.mkdir()
    for name in ("canny.safetensors", "depth.pth"):
        (several / name).write_bytes(b"")
    assert "canny.safetensors, depth.pth, expected one net" in refusal(several, base)
    (several / "depth.pth").unlink()
    assert "an empty file" in refusal(several, base)


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("sd2", {}, "a ControlNet (prompts 128 wide), expected one for tiny.bundle (prompts 64 wide)"),
        ("sdxl", {}, "(prompts 192 wide), expected one for tiny.bundle"),
        ("sd1", {"block_out_channels": (32, 96)}, "got residual 3 of 96 channels at 1/2 of the latents, expected 64"),
        ("sd1", {"layers_per_block": 2}, "got 7 residuals, expected 5"),
        ("sd1", {"in_channels": 9}, "got 9 channels of latents, expected 4"),
        ("sd1", {"conditioning_embedding_out_channels": (16, 32, 96)}, "a hint at 1/4 of the picture, expected 1/2"),
        ("sd1", {"conditioning_channels": 4}, "conditioning_channels 4, expected 3, or 1"),
        ("sd1", {"controlnet_conditioning_channel_order": "gbr"}, "channel_order 'gbr', expected 'rgb' or 'bgr'"),
        ("sd1", {"num_class_embeds": 3}, "num_class_embeds 3, expected None"),
    ],
)
def test_nets_for_other_models(
    family: str,
    settings: dict[str, object],
    said: str,
    base: BaseModel,
    family_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Their family, widths, number of residuals and settings are compared with the model."""
    save_control_net(tmp_path / "net", family_checkpoint(family), **settings)
    message = refusal(tmp_path / "net", base)
    assert said in message
    if "in_channels" not in settings and "conditioning" not in str(settings) and "class" not in str(settings):
        path = tmp_path / "net.safetensors"
        layers = int(str(settings.get("layers_per_block", 1)))
        own = ldm_control(saved(tmp_path / "net"), layers)
        save_file({key: tensor.numpy() for key, tensor in own.items()}, path)
        assert said in refusal(path, base)


def test_adapters_for_other_models(base: BaseModel, tmp_path: Path) -> None:
    save_t2i_adapter(tmp_path / "wide", channels=[32, 96])
    assert "features of 32 channels at 1/1, 96 channels at 1/2, expected 32" in refusal(tmp_path / "wide", base)
    save_t2i_adapter(tmp_path / "deep", channels=[32, 64], downscale_factor=4)
    assert "features of 32 channels at 1/2, 64 channels at 1/4" in refusal(tmp_path / "deep", base)
    save_t2i_adapter(tmp_path / "odd", downscale_factor=3)
    assert "begins at 1/3 of the picture" in refusal(tmp_path / "odd", base)


def test_incomplete_nets(base: BaseModel, net_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """By the headers where those tell; by the module's names else; NaN by reading all numbers."""
    folder, whole = tmp_path / "net", saved(net_checkpoint("sd1"))
    folder.mkdir()
    (folder / "config.json").write_text((net_checkpoint("sd1") / "config.json").read_text())
    assert "no diffusion_pytorch_model.safetensors" in refusal(folder, base)
    path = folder / "diffusion_pytorch_model.safetensors"
    arrays = {key: tensor.numpy() for key, tensor in whole.items()}
    save_file({key: one for key, one in arrays.items() if key != "controlnet_mid_block.weight"}, path)
    assert "controlnet_mid_block.weight is missing" in refusal(folder, base)
    save_file({key: one for key, one in arrays.items() if key != "controlnet_mid_block.bias"}, path)
    with pytest.raises(LatentrtError, match=r"controlnet_mid_block\.bias is missing"):
        addon_from_headers(str(folder), base).check()
    arrays["conv_in.bias"] = np.full_like(arrays["conv_in.bias"], np.nan)
    save_file(arrays, path)
    with pytest.raises(LatentrtError, match=r"NaN or infinite numbers in conv_in\.bias"):
        addon_from_headers(str(folder), base).check()
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    assert "cut short" in refusal(folder, base)


def test_a_net_needs_a_model_and_takes_no_models_options(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    net_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Refused before anything is written."""
    net, out = net_checkpoint("sd1"), tmp_path / "net.bundle"

    def refused(**options: object) -> str:
        with pytest.raises(LatentrtError) as caught:
            latentrt.build(net, **{"output": out, "for_bundle": tiny_bundle, **options})  # type: ignore[arg-type]
        return str(caught.value)

    assert "with --for BUNDLE" in refused(for_bundle=None)
    assert "expected a folder written by latentrt build" in refused(for_bundle=tiny_checkpoint)
    assert "expected the folder of a bundle" in refused(for_bundle=tmp_path / "nowhere")
    assert "add -o DIR" in refused(output=None)
    assert "got precision int8 for a ControlNet" in refused(precision="int8")
    assert "got family, seamless with --for" in refused(family="sd1", seamless="xy")
    assert "got profile 64x64 for a model with 32x32x2, 48x32" in refused(profiles=["64x64"])
    assert "expected precision fp16" in refused(fp32=["hint"])
    assert "expected some of hint, control" in refused(fp32=["vae_decoder"], precision="fp16")
    assert "is the bundle of a model, which a net or an adapter does not replace" in refused(output=tiny_bundle)
    assert not out.exists()
