"""Files of other kinds are refused by name, from their headers alone, and nothing in them runs."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from safetensors.torch import save_file
from single_files import ldm_tensors, save_tensors

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_model

# Names of tensors as the projects' own files have them
FOREIGN = {
    "Flux": (
        "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale",
        "model.diffusion_model.img_in.weight",
    ),
    "Flux / bare": ("double_blocks.0.img_attn.norm.key_norm.scale",),
    "Flux / diffusers": ("single_transformer_blocks.0.proj_mlp.weight",),
    "FLUX.2": ("double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.norm.key_norm.scale"),
    "Chroma": ("distilled_guidance_layer.in_proj.bias", "double_blocks.0.img_attn.norm.key_norm.scale"),
    "Stable Diffusion 3": (
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
        "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.weight",
        "first_stage_model.encoder.down.0.block.0.conv1.weight",
    ),
    "AuraFlow": ("double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"),
    "PixArt": ("blocks.0.cross_attn.q_linear.weight", "t_block.1.weight"),
    "PixArt / diffusers": ("adaln_single.linear.weight", "transformer_blocks.0.attn1.to_q.weight"),
    "Stable Cascade": ("clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"),
    "Wan": ("head.modulation", "blocks.0.self_attn.q.weight"),
    "LTX-Video": ("patchify_proj.weight", "vae.decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"),
    "a part of a video model (SVD": ("model.diffusion_model.input_blocks.1.0.time_stack.emb_layers.1.bias",),
    "a video model in diffusers' names (SVD": (
        "conv_in.weight",
        "down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
    ),
    "AnimateDiff": ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",),
    "ControlNet": ("control_model.time_embed.0.weight", "control_model.input_blocks.0.0.weight"),
    "ControlNet / diffusers": ("controlnet_cond_embedding.conv_in.weight", "conv_in.weight"),
    "T2I-Adapter": ("adapter.body.0.resnets.0.block1.weight",),
    "IP-Adapter": ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"),
    "LoRA": (
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
    ),
    "LoRA / PEFT": ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",),
    "LoRA / LyCORIS": ("lycoris_unet_x.hada_w1_a",),
    "textual inversion": ("emb_params",),
    "textual inversion / XL": ("clip_l", "clip_g"),
    "textual inversion / diffusers": ("<cat-toy>",),
    "VAE alone": ("encoder.down.0.block.0.conv1.weight", "quant_conv.weight"),
    "VAE alone / diffusers": ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight"),
    "text encoder alone": (
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "text_model.embeddings.token_embedding.weight",
    ),
    "language model": ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight"),
    "language model / GPT-2": ("transformer.h.0.attn.c_attn.weight",),
    "T5": ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"),
    "audio model": ("model.encoder.conv1.weight", "model.decoder.layers.0.self_attn.q_proj.weight"),
    "audio model (Stable Audio": ("pretransform.model.encoder.layers.0.weight_v",),
    "audio model (speech": ("wav2vec2.feature_extractor.conv_layers.0.conv.weight",),
    "AudioLDM": ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.vocoder.conv_pre.weight"),
    "Zero123 without its U-Net": ("cc_projection.weight", "first_stage_model.encoder.down.0.block.0.conv1.weight"),
    "quantized": ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight.absmax"),
    "ESRGAN": ("model.1.sub.0.RDB1.conv1.0.weight",),
    "Segment Anything": ("image_encoder.blocks.0.norm1.weight",),
    "no U-Net": ("fc1.weight", "fc2.weight"),
}


def refusal(path: Path, **choices: Any) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_model(str(path), Choices(**choices))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert "; " in message
    return message


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_other_models_are_named(kind: str, suffix: str, tmp_path: Path) -> None:
    """By the names of their tensors."""
    path = save_tensors({key: torch.zeros(2, 2) for key in FOREIGN[kind]}, tmp_path / f"model{suffix}")
    message = refusal(path)
    assert kind.partition(" / ")[0] in message


def zipped(path: Path) -> None:
    """A zip archive with a text."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def onnx_file(path: Path) -> None:
    """A real ONNX model of one node."""
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    save(helper.make_model(graph, producer_name="pytorch"), path)


def picture(path: Path) -> None:
    """A PNG."""
    from PIL import Image

    Image.new("RGB", (4, 4)).save(path, "PNG")


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "GGUF": (lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(100)), "GGUF"),
    "Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "git lfs pull",
    ),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>404"), "a web page"),
    "picture": (picture, "a picture"),
    "zip": (zipped, "a zip archive"),
    "ONNX": (onnx_file, "an ONNX model"),
    "text": (lambda path: path.write_text("hello\n"), "a text"),
    "JSON": (lambda path: path.write_text('{"a": 1}'), "a JSON file"),
    "zeros": (lambda path: path.write_bytes(bytes(4096)), "zeros"),
    "noise": (lambda path: path.write_bytes(b"\x07\x01\xfe" * 99), "no file of tensors"),
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_other_files_are_named(kind: str, suffix: str, tmp_path: Path) -> None:
    """By their first bytes, whatever they are called."""
    spoil, fragment = SPOILED[kind]
    path = tmp_path / f"model{suffix}"
    spoil(path)
    assert fragment in refusal(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to compare with."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "sd1")


@pytest.fixture(scope="module")
def tensors(tiny: Path) -> dict[str, torch.Tensor]:
    """Its tensors in LDM's layout. Do not write to them."""
    return ldm_tensors(tiny)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.99999])
def test_cut_short(suffix: str, part: float, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """In the header and in the numbers; older streams in every place, too."""
    path = save_tensors(tensors, tmp_path / f"model{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "cut short" in refusal(path)
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        assert "cut short" in refusal(path)


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, call: tuple[Any, tuple[Any, ...]]) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "stream"])
@pytest.mark.parametrize(
    ("function", "named"), [(os.mkdir, "posix.mkdir"), (exec, "exec"), (eval, "eval"), (os.system, "posix.system")]
)
@pytest.mark.parametrize("where", ["folder", "file", "vae"])
def test_nothing_in_a_pickle_runs(
    zipped: bool, function: Any, named: str, where: str, tensors: dict[str, torch.Tensor], tiny: Path, tmp_path: Path
) -> None:
    """It is refused with the name of what it asks for, as a file, as a folder's .bin and as a VAE."""
    mark = tmp_path / "ran"
    argument = {"posix.mkdir": str(mark), "posix.system": f"touch {mark}"}.get(named, f"open({str(mark)!r}, 'w')")
    content = {"state_dict": tensors, "callbacks": Touch((function, (argument,)))}
    assert pickle.loads(pickle.dumps(Touch((os.mkdir, (str(mark),))))) is None
    mark.rmdir()  # the pickle does run where it is let
    path = tmp_path / "model.ckpt"
    if where == "folder":
        path = tmp_path / "unet" / "diffusion_pytorch_model.bin"
        path.parent.mkdir()
        (path.parent / "config.json").write_bytes((tiny / "unet" / "config.json").read_bytes())
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    model = {"vae": tiny, "file": path, "folder": path.parent}[where]
    choices = Choices(vae=str(path)) if where == "vae" else Choices(base=str(tiny))
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_model(str(model), choices)
    assert named in str(caught.value)
    assert not mark.exists()


def test_what_training_leaves_in_old_checkpoints_is_passed_over(
    tensors: dict[str, torch.Tensor], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SD 1.x's own files name a class of PyTorch Lightning and hold numbers of NumPy."""
    import sys
    from types import ModuleType

    import numpy as np

    module = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        callbacks = {kind: {"best_model_score": np.float64(0.1), "best_model_path": ""}}
        path = save_tensors(tensors, tmp_path / "model.ckpt", callbacks=callbacks, global_step=470000)
    assert checkpoint_from_model(str(path), Choices(base=str(tiny))).family.name == "sd1"


def without(tensors: dict[str, torch.Tensor], fragment: str) -> dict[str, torch.Tensor]:
    """All tensors but those whose name has the fragment."""
    return {key: tensor for key, tensor in tensors.items() if fragment not in key}


def test_missing_and_odd_tensors_are_named(tensors: dict[str, torch.Tensor], tiny: Path, tmp_path: Path) -> None:
    """Some of them, and how many more there are."""
    path = tmp_path / "model.safetensors"
    save_file(without(tensors, "middle_block.2"), path)
    message = refusal(path, base=str(tiny))
    assert "mid_block.resnets.1.norm1.weight is missing" in message
    assert "and 7 more" in message
    key = "model.diffusion_model.time_embed.2.weight"
    save_file({**tensors, key: tensors[key][:, :5].contiguous()}, path)
    assert "time_embedding.linear_2.weight (128, 5) instead of (128, 128)" in refusal(path, base=str(tiny))
    save_file(without(tensors, "model.diffusion_model.out.2"), path)
    assert "it lacks out.2.weight" in refusal(path, base=str(tiny))
    save_file({**tensors, key: tensors[key].to(torch.int8)}, path)
    assert "stored as float32, int8" not in refusal(path, base=str(tiny))
    assert "stored as int8" in refusal(path, base=str(tiny))


def test_a_pickle_that_holds_itself(tiny: Path, tmp_path: Path) -> None:
    """Ends."""
    tree: dict[str, Any] = {"a": torch.zeros(1)}
    tree["state_dict"] = tree["more"] = tree
    torch.save(tree, tmp_path / "model.ckpt")
    assert "no U-Net" in refusal(tmp_path / "model.ckpt")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """Refused instead of waited for."""
    os.mkfifo(tmp_path / "pipe.ckpt")
    assert "no file" in refusal(tmp_path / "pipe.ckpt")


@pytest.mark.parametrize(("channels", "kind"), [(5, "depth-to-image"), (7, "upscaler")])
def test_u_nets_that_take_something_else(
    channels: int, kind: str, tensors: dict[str, torch.Tensor], tiny: Path, tmp_path: Path
) -> None:
    """Told by the channels of their input."""
    changed = {**tensors, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)}
    assert kind in refusal(save_tensors(changed, tmp_path / "model.safetensors"), base=str(tiny))


def test_parts_that_do_not_fit(tensors: dict[str, torch.Tensor], tiny: Path, tmp_path: Path) -> None:
    """An SD 1.x U-Net beside XL's text encoders, in one file and with a base: both are named."""
    sdxl = save_tiny_checkpoint(tmp_path / "sdxl", "sdxl")
    mixed = {key: tensor for key, tensor in ldm_tensors(sdxl).items() if not key.startswith("model.diffusion")}
    mixed |= {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion")}
    message = refusal(save_tensors(mixed, tmp_path / "mixed.safetensors"), base=str(tiny))
    assert "its U-Net is of SD 1.x, which needs text_encoder, but it has text_encoder and text_encoder_2" in message
    alone = save_tensors(
        {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion")},
        tmp_path / "unet.safetensors",
    )
    assert "which needs text_encoder, but it has text_encoder and text_encoder_2" in refusal(alone, base=str(sdxl))
    sd2 = save_tiny_checkpoint(tmp_path / "sd2", "sd2")
    message = refusal(alone, base=str(sd2))
    assert f"text_encoder of {str(sd2)!r} has hidden_size 128" in message
    assert f"unet of {str(alone)!r} has cross_attention_dim 64" in message
