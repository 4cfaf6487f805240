"""Tiny files and folders that people give ``latentrt build`` by mistake, for tests: what they are and what is said."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Make = Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A mistake: the name of the file or folder, what makes it, and what the refusal must say.

    ``given`` is what is given to the build, inside a folder that was made; ``says`` are parts of what it is and of the
    advice.
    """

    name: str
    make: Make
    says: tuple[str, ...]
    given: str = ""


def tensors(*names: str, metadata: dict[str, str] | None = None) -> Make:
    """A safetensors file with small tensors of these names."""
    return lambda path: save_file({name: np.zeros((2, 2), np.float32) for name in names}, path, metadata)


def content(data: bytes | str) -> Make:
    """A file of these bytes."""
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


def pickled(tree: Callable[[], Any], *, old: bool = False) -> Make:
    """What torch.save writes."""

    def make(path: Path) -> None:
        import torch

        torch.save(tree(), path, _use_new_zipfile_serialization=not old)

    return make


def folder(**files: Make) -> Make:
    """A folder; ``__`` in a name stands for a slash."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, inside in files.items():
            place = path / name.replace("__", "/").replace("·", ".")
            place.parent.mkdir(parents=True, exist_ok=True)
            inside(place)

    return make


def index(kind: Any, **parts: Any) -> Make:
    """A model_index.json."""
    entries = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], **parts}
    return content(json.dumps({"_class_name": kind, **entries}))


def zipped(**files: bytes) -> Make:
    """A zip archive."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name.replace("__", "/").replace("·", "."), data)

    return make


def tarred(path: Path) -> None:
    """A tar archive with a text."""
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("readme.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))


def scripted(path: Path) -> None:
    """A TorchScript program."""
    import torch

    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def png(path: Path) -> None:
    """A picture."""
    from PIL import Image

    Image.new("RGB", (4, 4)).save(path, "PNG")


def long_header(path: Path) -> None:
    """A safetensors file whose header is longer than the format allows; all of it is hole."""
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b"{")
        file.truncate(100_000_100)


def header(entries: dict[str, Any], data: int = 4) -> bytes:
    """A safetensors file with a header of one's own."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def hypernetwork() -> Any:
    """As A1111 saves one: two networks for each width of attention."""
    import torch

    network = {"linear.0.weight": torch.zeros(2, 2), "linear.0.bias": torch.zeros(2)}
    return {768: (network, network), "step": 3, "name": "hyper", "layer_structure": [1, 2, 1]}


def module() -> Any:
    """A whole module where its tensors were meant."""
    import torch

    return {"model": torch.nn.Linear(2, 2)}


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("echo ran",)


ONE = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
WEIGHTS = tensors("conv_in.weight")
UNET = content(json.dumps({"_class_name": "UNet2DConditionModel", "in_channels": 4}))
POINTER = content("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438354725\n")
XML = content('<?xml version="1.0"?>\n<net name="unet" version="11"><layers/></net>')
MSGPACK = content(b"\x82\xa7conv_in\x81\xa6kernel\xc7\x04\x01abcd\xa8conv_out\xc0")
ONNX = content(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x00")
PLAN = content(b"ftrt" + bytes(60))
GGUF = content(b"GGUF\x03\0\0\0" + bytes(60))
MIDDLE = "model.diffusion_model.middle_block.0.in_layers.0.weight"
UP = "model.diffusion_model.output_blocks.0.0.out_layers.3.weight"


def pruned(path: Path) -> None:
    """SSD-1B's kind of U-Net in SGM's names: fewer transformers in some places."""
    shapes = {
        "input_blocks.0.0.weight": (32, 4, 3, 3),
        "input_blocks.1.0.out_layers.3.weight": (32, 32, 3, 3),
        "input_blocks.1.1.proj_in.weight": (32, 32),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 64),
        "input_blocks.2.0.out_layers.3.weight": (32, 32, 3, 3),
        "middle_block.0.out_layers.3.weight": (32, 32, 3, 3),
        "output_blocks.0.0.out_layers.3.weight": (32, 64, 3, 3),
        "out.2.weight": (4, 32, 3, 3),
    }
    save_file({f"model.diffusion_model.{key}": np.zeros(shape, np.float32) for key, shape in shapes.items()}, path)


def pruned_bare(path: Path) -> None:
    """small-sd's kind in diffusers' names: no middle block."""
    shapes = {
        "conv_in.weight": (32, 4, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": (32, 32, 3, 3),
        "down_blocks.0.attentions.0.proj_in.weight": (32, 32, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (32, 64),
        "up_blocks.0.resnets.0.conv1.weight": (32, 64, 3, 3),
        "up_blocks.0.resnets.1.conv1.weight": (32, 64, 3, 3),
        "conv_out.weight": (4, 32, 3, 3),
    }
    save_file({key: np.zeros(shape, np.float32) for key, shape in shapes.items()}, path)


def _file(name: str, make: Make, *says: str) -> Wrong:
    return Wrong(name=name, make=make, says=says)


_EXPORTED = "give the checkpoint that it was exported from"
_ADDS = "it adds to another model"
FILES: dict[str, Wrong] = {
    "ONNX": _file("model.onnx", ONNX, "an ONNX model", _EXPORTED),
    "ONNX weights": _file("model.onnx_data", content(bytes(range(1, 200))), "the weights of an ONNX model", _EXPORTED),
    "OpenVINO": _file("openvino_model.xml", XML, "an OpenVINO model", _EXPORTED),
    "Flax": _file("diffusion_flax_model.msgpack", MSGPACK, "weights of Flax", "for PyTorch"),
    "GGUF": _file("sd.gguf", GGUF, "a GGUF file", "as safetensors"),
    "GGUF renamed": _file("sd.safetensors", GGUF, "a GGUF file", "as safetensors"),
    "TorchScript": _file("unet.pt", scripted, "a TorchScript program", _EXPORTED),
    "TensorRT plan": _file("unet.plan", PLAN, "a TensorRT plan", "the model that it was built from"),
    "TensorRT engine": _file("unet.engine", content(b"\x9a\x01" * 99), "a TensorRT plan", "built from"),
    "Core ML": _file("unet.mlmodel", content(b"\x08\x07\x12\x08abcdefgh" + bytes(9)), "a Core ML model", _EXPORTED),
    "Keras": _file("unet.h5", content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "Keras", "for PyTorch"),
    "TFLite": _file("unet.tflite", content(b"\x1c\0\0\0TFL3" + bytes(99)), "TensorFlow", "for PyTorch"),
    "DDUF": _file("sd.dduf", zipped(model_index·json=b"{}", unet__config·json=b"{}"), "a DDUF file", "unpack it"),
    "zip of a folder": _file("sd.zip", zipped(model_index·json=b"{}"), "a zip archive", "unpack it"),
    "zip": _file("sd.ckpt", zipped(readme·txt=b"hi"), "a zip archive", "unpack it"),
    "tar": _file("sd.tar", tarred, "an archive", "unpack it"),
    "gzip": _file("sd.tar.gz", content(b"\x1f\x8b\x08" + bytes(99)), "an archive", "unpack it"),
    "7z": _file("sd.7z", content(b"7z\xbc\xaf\x27\x1c" + bytes(99)), "an archive", "unpack it"),
    "PNG": _file("sd.png", png, "a picture", "give a checkpoint"),
    "empty": _file("sd.safetensors", content(b""), "an empty file", "download it again"),
    "Git LFS pointer": _file("sd.safetensors", POINTER, "a Git LFS pointer", "git lfs pull"),
    "web page": _file("sd.safetensors", content("<!DOCTYPE html><html>Sign in"), "a web page", "the file itself"),
    "server's message": _file(
        "sd.safetensors", content('{"error": "Unauthorized", "message": "log in"}'), "a server's message", "logged in"
    ),
    "server's text": _file(
        "sd.safetensors", content("Access to model x/y is restricted."), "begins with 'Access to model", "logged in"
    ),
    "macOS's shadow": _file("._sd.safetensors", content(b"\0\x05\x16\x07" + bytes(99)), "macOS", "lacks the ._"),
    "YAML": _file("v1-inference.yaml", content("model:\n  target: ldm.x\n"), "a YAML file", "the weights beside it"),
    "Civitai's description": _file(
        "sd.civitai.info",
        content('{"id": 1, "modelId": 2, "baseModel": "SD 1.5"}'),
        "the description of a model",
        "the weights beside it",
    ),
    "README": _file("README.md", content("# A model\n"), "a text", "the weights beside it"),
    "model_index.json": Wrong(
        name="sd",
        make=folder(model_index·json=index("StableDiffusionPipeline")),
        given="model_index.json",
        says=("the index of a diffusers folder", "give the folder"),
    ),
    "index of shards": _file(
        "diffusion_pytorch_model.safetensors.index.json",
        content('{"metadata": {}, "weight_map": {"a": "b"}}'),
        "the index of weights in shards",
        "give the folder",
    ),
    "config.json": _file("config.json", UNET, "a configuration of a UNet2DConditionModel", "give the folder"),
    "bundle.json": _file(
        "bundle.json", content('{"schema_version": 2, "components": {}}'), "the manifest of a bundle", "give the folder"
    ),
    "truncated safetensors": _file(
        "sd.safetensors", content(header(ONE, 3)), "cut short or damaged", "download it again"
    ),
    "truncated header": _file("sd.safetensors", content(header(ONE)[:40]), "cut short", "download it again"),
    "odd metadata": _file(
        "sd.safetensors", content(header({"__metadata__": {"steps": 3}, **ONE})), "no texts (steps)", "save_file"
    ),
    "long header": _file("sd.safetensors", long_header, "a header of 100.0 MB", "in several files"),
    "pickle that runs": _file("sd.ckpt", pickled(lambda: {"a": Runs()}), "posix.system", "nothing of it was run"),
    "old pickle that runs": _file("sd.ckpt", pickled(lambda: {"a": Runs()}, old=True), "posix.system", "nothing"),
    "pickled module": _file("sd.pt", pickled(module), "torch.nn.modules.linear.Linear", "save its state_dict"),
    "bare module": _file("sd.pt", pickled(lambda: module()["model"]), "linear.Linear", "save it as safetensors"),
    "no tensors": _file(
        "training_args.bin", pickled(lambda: {"lr": 0.1}), "a file without tensors", "give a checkpoint"
    ),
    "optimizer": _file("optimizer.safetensors", tensors("state.0.exp_avg"), "the state of an optimizer", "beside it"),
    "hypernetwork": _file("hyper.pt", pickled(hypernetwork), "a hypernetwork", _ADDS),
    "old hypernetwork": _file("hyper.pt", pickled(hypernetwork, old=True), "a hypernetwork", _ADDS),
    "TAESD": _file("taesd_decoder.safetensors", tensors("1.weight", "3.conv.0.weight"), "TAESD", "give that model"),
    "TAESD of diffusers": _file(
        "taesd.safetensors", tensors("encoder.layers.0.weight", "decoder.layers.1.conv.0.weight"), "TAESD", "give that"
    ),
    "LoRA": _file("lora.safetensors", tensors("lora_unet_mid_block_x.lora_down.weight"), "a LoRA", _ADDS),
    "LyCORIS": _file("loha.safetensors", tensors("lora_unet_x.hada_w1_a"), "a LyCORIS", _ADDS),
    "PEFT": _file("adapter.safetensors", tensors("base_model.model.unet.a.lora_A.weight"), "a LoRA", _ADDS),
    "textual inversion": _file("cat.safetensors", tensors("emb_params"), "a textual inversion", "load_textual_inv"),
    "textual inversion under its trigger": _file(
        "toy.pt", pickled(lambda: {"cat-toy": vectors()}), "a textual inversion", "load_textual_inversion"
    ),
    "one shard": _file(
        "diffusion_pytorch_model-00001-of-00002.safetensors", tensors("conv_in.weight"), "one of 2 shards", "the folder"
    ),
    "plain pickle": _file("model.pkl", content(pickle.dumps({"a": [1]})), "torch.save did not write", "as safetensors"),
    "ControlNet": _file("control.safetensors", tensors("control_model.input_blocks.0.0.weight"), "ControlNet", _ADDS),
    "ControlNet of diffusers": _file(
        "cn.safetensors",
        tensors("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "controlnet_cond_embedding.conv_in.weight"),
        "a ControlNet",
        _ADDS,
    ),
    "Control-LoRA": _file("c.safetensors", tensors("lora_controlnet", "input_blocks.0.0.up"), "a Control-LoRA", _ADDS),
    "T2I-Adapter": _file("t2i.safetensors", tensors("body.0.block1.weight", "conv_in.weight"), "T2I-Adapter", _ADDS),
    "IP-Adapter": _file(
        "ip.safetensors", tensors("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "IP-Adapter", _ADDS
    ),
    "AnimateDiff": _file("mm.safetensors", tensors("down_blocks.0.motion_modules.0.x"), "AnimateDiff", _ADDS),
    "upscaler": _file(
        "esrgan.pth",
        pickled(lambda: arrays("conv_first.weight", "body.0.rdb1.conv1.weight")),
        "an upscaler",
        "choose such",
    ),
    "compact upscaler": _file("u.safetensors", tensors("params.body.0.weight"), "an upscaler", "choose such a model"),
    "CLIP": _file(
        "clip.safetensors", tensors("text_model.embeddings.token_embedding.weight"), "a text encoder alone", "--base"
    ),
    "T5": _file("t5.safetensors", tensors("encoder.block.0.layer.0.SelfAttention.q.weight"), "T5", "choose such"),
    "VAE": _file("vae.safetensors", tensors("encoder.down.0.block.0.conv1.weight"), "a VAE alone", "--vae"),
    "Flux": _file("flux.safetensors", tensors("double_blocks.0.img_attn.qkv.weight"), "Flux", "choose such a model"),
    "SD 3": _file("sd3.safetensors", tensors("model.diffusion_model.joint_blocks.0.x.weight"), "Stable Diffusion 3"),
    "PixArt": _file("p.safetensors", tensors("blocks.0.cross_attn.q_linear.weight"), "PixArt", "choose such a model"),
    "Wan": _file("wan.safetensors", tensors("head.modulation", "blocks.0.self_attn.q.weight"), "Wan", "choose such"),
    "Wan of diffusers": _file("w.safetensors", tensors("condition_embedder.time_embedder.linear_1.weight"), "Wan"),
    "LTX": _file("ltx.safetensors", tensors("patchify_proj.weight"), "LTX-Video", "choose such a model"),
    "LTX of diffusers": _file(
        "l.safetensors",
        tensors("caption_projection.linear_1.weight", "transformer_blocks.0.attn1.norm_q.weight"),
        "LTX",
    ),
    "Stable Cascade": _file("c.safetensors", tensors("down_blocks.0.0.channelwise.0.weight"), "Cascade", "choose such"),
    "Kandinsky": _file(
        "k.safetensors",
        tensors("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "add_embedding.image_norm.weight"),
        "Kandinsky",
        "choose such a model",
    ),
    "SVD": _file("svd.safetensors", tensors("model.diffusion_model.input_blocks.1.0.time_stack.x"), "a video model"),
    "pruned U-Net": _file("ssd-1b.safetensors", pruned, "a pruned one", "give the model's diffusers folder"),
    "pruned U-Net alone": _file("small-sd.safetensors", pruned_bare, "it has no middle block", "diffusers folder"),
    "quantized": _file("nf4.safetensors", tensors("model.diffusion_model.out.2.weight.absmax"), "a quantized model"),
}


def vectors() -> Any:
    """As wide as SD 1.x's text encoder."""
    import torch

    return torch.zeros(2, 768)


def arrays(*names: str) -> Any:
    """Small tensors of torch."""
    import torch

    return {name: torch.zeros(2, 2) for name in names}


def _folder(make: Make, *says: str, given: str = "") -> Wrong:
    return Wrong(name="model", make=make, says=says, given=given)


_SD = index("StableDiffusionPipeline", text_encoder=["transformers", "CLIPTextModel"])
FOLDERS: dict[str, Wrong] = {
    "ONNX folder": _folder(
        folder(model_index·json=index("OnnxStableDiffusionPipeline"), unet__model·onnx=ONNX), "ONNX", _EXPORTED
    ),
    "ONNX folder without a class": _folder(
        folder(model_index·json=_SD, unet__config·json=UNET, unet__model·onnx=ONNX), "(unet/model.onnx)", _EXPORTED
    ),
    "ONNX folder without an index": _folder(folder(unet__model·onnx=ONNX), "an ONNX model", _EXPORTED),
    "OpenVINO folder": _folder(
        folder(model_index·json=_SD, unet__openvino_model·xml=XML, unet__openvino_model·bin=content(bytes(9))),
        "an OpenVINO model",
        _EXPORTED,
    ),
    "Flax folder": _folder(
        folder(model_index·json=_SD, unet__config·json=UNET, unet__diffusion_flax_model·msgpack=MSGPACK),
        "weights of Flax",
        "for PyTorch",
    ),
    "GGUF folder": _folder(folder(sd_q4·gguf=GGUF, README·md=content("hi")), "a GGUF file", "as safetensors"),
    "Core ML folder": _folder(folder(Unet·mlmodelc__model·mil=content("x")), "a Core ML model", _EXPORTED),
    "TensorRT folder": _folder(folder(unet__unet·plan=PLAN), "a TensorRT plan", "built from"),
    "Flux folder": _folder(
        folder(model_index·json=index("FluxPipeline"), transformer__config·json=UNET), "a FluxPipeline", "choose such"
    ),
    "custom pipeline": _folder(
        folder(model_index·json=index(["my_pipeline", "MyPipeline"])), "my_pipeline.MyPipeline", "--base"
    ),
    "class of another type": _folder(folder(model_index·json=index({"a": 1})), "expected a text", "correct it"),
    "empty folder": _folder(folder(), "is empty", "give the folder that holds it"),
    "README alone": _folder(folder(README·md=content("hi")), "it holds README.md", "the folder that holds it"),
    "nested": _folder(
        folder(sd15__model_index·json=_SD, README·md=content("hi")), "no model_index.json", "model/sd15' in it"
    ),
    "single file one level down": _folder(
        folder(README·md=content("hi"), inner__sd·ckpt=pickled(lambda: arrays("a"))), "give the file", "inner/sd.ckpt"
    ),
    "Core ML package": Wrong(
        name="Unet.mlpackage", make=folder(Manifest·json=content("{}")), says=("a Core ML model", _EXPORTED)
    ),
    "single file inside": _folder(folder(sd·ckpt=tensors("double_blocks.0.img_attn.qkv.weight")), "sd.ckpt', Flux"),
    "LoRA folder": _folder(
        folder(pytorch_lora_weights·safetensors=tensors("unet.x.lora.down.weight")),
        "pytorch_lora_weights.safetensors', a LoRA",
        _ADDS,
    ),
    "ControlNet folder": _folder(
        folder(config·json=content('{"_class_name": "ControlNetModel"}'), diffusion_pytorch_model·safetensors=WEIGHTS),
        "a ControlNetModel",
        "build it for the bundle of that one, with --for BUNDLE",
    ),
    "CLIP folder": _folder(
        folder(config·json=content('{"architectures": ["CLIPTextModel"]}'), model·safetensors=WEIGHTS),
        "a CLIPTextModel",
    ),
    "weights without config": _folder(
        folder(unet__diffusion_pytorch_model·safetensors=WEIGHTS), "without unet/config.json", "download that"
    ),
    "pointers of Git LFS": _folder(
        folder(model_index·json=_SD, unet__config·json=UNET, unet__diffusion_pytorch_model·safetensors=POINTER),
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "shards without their index": _folder(
        folder(
            **{
                "model_index·json": _SD,
                "unet__config·json": UNET,
                "unet__diffusion_pytorch_model-00001-of-00002·safetensors": WEIGHTS,
                "unet__diffusion_pytorch_model-00002-of-00002·safetensors": tensors("conv_out.weight"),
            }
        ),
        "shards without diffusion_pytorch_model.safetensors.index.json",
        "download what is missing",
    ),
    "an index without its shards": _folder(
        folder(
            model_index·json=_SD,
            unet__config·json=UNET,
            unet__diffusion_pytorch_model·safetensors·index·json=content(
                '{"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}'
            ),
        ),
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors of its index",
        "download what is missing",
    ),
    "pickle that runs in a folder": _folder(
        folder(
            model_index·json=_SD,
            unet__config·json=UNET,
            unet__diffusion_pytorch_model·bin=pickled(lambda: {"a": Runs()}),
        ),
        "posix.system",
        "nothing of it was run",
    ),
    "base is a bundle": _folder(folder(bundle·json=content("{}")), "a bundle", "built from", given=""),
}
WRONG = {**FILES, **FOLDERS}
