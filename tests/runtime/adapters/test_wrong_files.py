"""Files that are no LoRA of the model: each is refused in one sentence that says what it is and what to do."""

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import MODELS, lora_of, save, save_peft

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.formats.files import adapter_from_path

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_K, KOHYA_Q = (f"lora_unet_{path.replace('.', '_')}" for path in (TO_K, TO_Q))
GOOD = {**lora_of(KOHYA_K, (32, 768)), **lora_of(KOHYA_Q, (32, 32))}
TE_Q = "text_model_encoder_layers_0_self_attn_q_proj"
ONE = np.ones((4, 4), np.float32)


def load(path: Path, family: str = "sd1") -> None:
    """Reads a file for a model of a family."""
    model, base = MODELS[family]
    adapter_from_path(path, "style", model, base)


def refusal(path: Path, family: str = "sd1") -> str:
    """What is said about a file: one sentence that ends in what to do."""
    with pytest.raises(RequestError) as refused:
        load(path, family)
    message = str(refused.value)
    assert "\n" not in message
    assert "; " in message
    assert len(message) < 600
    return message


def peft(*ends: str, stem: str = f"base_model.model.{TO_K}", rank: int = 2) -> dict[str, Array]:
    """PEFT's two tensors for the cross-attention's keys."""
    shapes = {"lora_A": (rank, 768), "lora_B": (32, rank)}
    return {
        f"{stem}.{name}{end}.weight": np.ones(shape, np.float32)
        for end in ends or ("",)
        for name, shape in shapes.items()
    }


# What a file holds, and what its refusal says of it
TENSORS: dict[str, tuple[Mapping[str, Array], tuple[str, ...]]] = {
    "LLLite": ({"lllite_unet_input_blocks_4_1.down.0.weight": ONE}, ("a ControlNet-LLLite", "control image")),
    "ControlNet-LoRA": (
        {"lora_controlnet": ONE, "input_blocks.1.1.proj_in.up": ONE, "input_blocks.1.1.proj_in.down": ONE},
        ("a ControlNet-LoRA",),
    ),
    "ControlNet": ({"control_model.input_hint_block.0.weight": ONE}, ("a ControlNet,",)),
    "diffusers' ControlNet": ({"controlnet_cond_embedding.conv_in.weight": ONE}, ("a ControlNet,",)),
    "IP-Adapter": ({"image_proj.proj.weight": ONE, "ip_adapter.1.to_k_ip.weight": ONE}, ("an IP-Adapter",)),
    "T2I-Adapter": ({"adapter.body.0.resnets.0.block1.weight": ONE}, ("a T2I-Adapter",)),
    "motion module": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": ONE},
        ("a motion module (AnimateDiff)",),
    ),
    "Custom Diffusion": (
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight": ONE},
        ("Custom Diffusion",),
    ),
    "cloneofsimo": ({"unet:0:up": ONE, "unet:0:down": ONE}, ("cloneofsimo/lora",)),
    "bundled embedding": ({**GOOD, "bundle_emb.toy.clip_l": ONE}, ("embeddings bundled", "load_textual_inversion")),
    "textual inversion": ({"emb_params": ONE}, ("a textual inversion", "load_textual_inversion")),
    "SDXL's textual inversion": ({"clip_l": ONE, "clip_g": ONE}, ("a textual inversion",)),
    "diffusers' textual inversion": ({"<toy>": ONE}, ("a textual inversion",)),
    "checkpoint": (
        {"model.diffusion_model.input_blocks.1.1.proj_in.weight": ONE},
        ("a whole model", "latentrt build"),
    ),
    "U-Net": ({"down_blocks.0.resnets.0.conv1.weight": ONE}, ("a whole model",)),
    "text encoder": ({"text_model.embeddings.token_embedding.weight": ONE}, ("a whole model",)),
    "VAE": ({"decoder.conv_in.weight": ONE}, ("an autoencoder", "--vae")),
    "Flux by kohya": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": ONE}, ("Flux", "Diffusion 1.x")),
    "Flux by diffusers": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": ONE}, ("Flux",)),
    "SD 3": ({"transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight": ONE}, ("Stable Diffusion 3",)),
    "SD 3 by kohya": ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": ONE}, ("Stable Diffusion 3",)),
    "Wan": ({"diffusion_model.blocks.0.cross_attn.k.lora_down.weight": ONE}, ("Wan",)),
    "Wan by kohya": ({"lora_unet_blocks_0_self_attn_k.lora_down.weight": ONE}, ("Wan",)),
    "Qwen-Image": ({"transformer_blocks.0.img_mlp.net.2.lora_A.weight": ONE}, ("Qwen-Image",)),
    "Z-Image": ({"diffusion_model.noise_refiner.0.attention.to_q.lora_A.weight": ONE}, ("Z-Image",)),
    "HunyuanVideo": ({"transformer.double_blocks.0.img_attn_qkv.lora_A.weight": ONE}, ("HunyuanVideo",)),
    "PixArt": ({"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": ONE}, ("PixArt",)),
    "Stable Cascade": ({"lora_prior_unet_down_blocks_0.lora_down.weight": ONE}, ("Stable Cascade",)),
    "language model": (
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ONE},
        ("a LoRA for a language model",),
    ),
    "PEFT's OFT": ({f"base_model.model.{TO_Q}.oft_R.weight": ONE}, ("OFT", "merge it")),
    "PEFT's VeRA": ({f"base_model.model.{TO_Q}.vera_lambda_d": ONE}, ("VeRA",)),
    "unknown": ({"something.else": ONE}, ("no LoRA's ('something.else')",)),
    "leftovers": (
        {**GOOD, **{f"lora_unet_new_{number}.lora_down.weight": ONE for number in range(5)}},
        ("5 tensors that have no place", "'lora_unet_new_0.lora_down.weight'", "…", "Stable Diffusion 1.x"),
    ),
    "a module that the model lacks": (
        lora_of("lora_unet_down_blocks_7_attentions_0_proj_in", (32, 32)),
        ("3 tensors", "down_blocks_7"),
    ),
    "a tensor that is no LoRA's beside one": ({**GOOD, f"{KOHYA_K}.lora_sideways.weight": ONE}, ("lora_sideways",)),
    "no tensors": ({}, ("no tensors",)),
    "rank 0": (
        {f"{KOHYA_Q}.lora_down.weight": np.ones((0, 32)), f"{KOHYA_Q}.lora_up.weight": np.ones((32, 0))},
        ("rank 0", TO_Q),
    ),
    "NaN": ({**GOOD, f"{KOHYA_Q}.lora_up.weight": np.full((32, 2), np.nan, np.float32)}, ("NaN", TO_Q)),
    "infinity in half precision": (
        {**GOOD, f"{KOHYA_Q}.lora_up.weight": np.full((32, 2), np.inf, np.float16)},
        ("infinity", TO_Q),
    ),
    "numbers that float32 cannot hold": (
        {**GOOD, f"{KOHYA_Q}.lora_up.weight": np.full((32, 2), 1e300)},
        ("infinity", TO_Q),
    ),
    "whole numbers": ({**GOOD, f"{KOHYA_Q}.lora_up.weight": np.ones((32, 2), np.int8)}, ("int8 numbers", TO_Q)),
    "down alone": ({f"{KOHYA_Q}.lora_down.weight": np.ones((2, 32), np.float32)}, ("lora_up", TO_Q)),
    "alpha alone": ({f"{KOHYA_Q}.alpha": np.ones(1, np.float32)}, ("alpha", TO_Q)),
    "ranks that differ": ({**GOOD, f"{KOHYA_Q}.lora_up.weight": np.ones((32, 3), np.float32)}, ("rank", TO_Q)),
    "another shape": (lora_of(KOHYA_Q, (32, 48)), ("(32, 48)", "(32, 32)", TO_Q)),
    "another shape everywhere": (
        {**lora_of(KOHYA_Q, (64, 64)), **lora_of(KOHYA_Q.replace("to_q", "to_v"), (64, 64))},
        ("(64, 64)", "1 other like it"),
    ),
    "a bias that the model lacks": (
        {f"{KOHYA_Q}.diff": np.ones((32, 32), np.float32), f"{KOHYA_Q}.diff_b": np.ones(32, np.float32)},
        ("bias", TO_Q),
    ),
    "two kinds in one module": ({**GOOD, f"{KOHYA_Q}.diff": np.ones((32, 32), np.float32)}, ("one of them", TO_Q)),
    "two adapters": (peft(".style", ".subject"), ("2 adapters ('style', 'subject')",)),
    "one module in two spellings": (
        {**GOOD, **peft(stem=f"unet.{TO_K}")},
        ("two tensors lora_down.weight", KOHYA_K, TO_K),
    ),
    "both kinds of block names": (
        {**GOOD, **lora_of("lora_unet_middle_block_1_proj_in", (64, 64, 1, 1))},
        ("as in the original code ('lora_unet_middle_block_1_proj_in", "as in diffusers ('lora_unet_down_blocks"),
    ),
    "SD 2": (lora_of(KOHYA_K, (32, 1024)), ("was made for Stable Diffusion 2.x", "width 1024", "width 768")),
    "SDXL by its width": (lora_of(KOHYA_K, (32, 2048)), ("was made for SDXL", "Stable Diffusion 1.x")),
    "the refiner": (lora_of(KOHYA_K, (32, 1280)), ("was made for SDXL's refiner",)),
    "another width": (lora_of(KOHYA_K, (32, 99)), ("was made for another model", "width 99")),
    "LoHa for SDXL": (
        {f"{KOHYA_K}.hada_w{n}_a": np.ones((32, 2), np.float32) for n in "12"}
        | {f"{KOHYA_K}.hada_w{n}_b": np.ones((2, 2048), np.float32) for n in "12"},
        ("was made for SDXL",),
    ),
    "LoKr for SDXL": (
        {f"{KOHYA_K}.lokr_w1": np.ones((4, 4), np.float32), f"{KOHYA_K}.lokr_w2": np.ones((8, 512), np.float32)},
        ("was made for SDXL",),
    ),
    "SD 2's text encoder": (lora_of(f"lora_te_{TE_Q}", (1024, 1024)), ("was made for Stable Diffusion 2.x",)),
    "SDXL's second text encoder": (lora_of(f"lora_te2_{TE_Q}", (1280, 1280)), ("was made for SDXL", "lora_te2")),
    "a third text encoder": (lora_of("lora_te3_encoder_block_0", (4, 4)), ("Stable Diffusion 3",)),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_what_files_hold(case: str, tmp_path: Path) -> None:
    """By its tensors alone."""
    tensors, words = TENSORS[case]
    message = refusal(save(tmp_path / "some file.safetensors", tensors))
    assert "'some file.safetensors'" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        ({"ss_base_model_version": "sd_v2", "ss_v2": "True"}, "Stable Diffusion 2.x"),
        ({"ss_v2": "True"}, "Stable Diffusion 2.x"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "Flux"),
        ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "Stable Diffusion 3"),
    ],
)
@pytest.mark.parametrize("tensors", [lora_of("lora_unet_other", (4, 4)), lora_of(KOHYA_Q, (64, 64))])
def test_headers_name_the_base(
    tensors: Mapping[str, Array], metadata: Mapping[str, str], named: str, tmp_path: Path
) -> None:
    """Where names or shapes do not fit, and no width tells."""
    message = refusal(save(tmp_path / "x.safetensors", tensors, metadata))
    assert f"was made for {named} (" in message
    assert "expected a LoRA for Stable Diffusion 1.x" in message


def test_a_header_that_names_another_base_does_not_matter_where_all_fits(tmp_path: Path) -> None:
    """Trainers write what their user said."""
    load(save(tmp_path / "x.safetensors", GOOD, {"ss_base_model_version": "sdxl_base_v1-0"}))


@pytest.mark.parametrize(
    ("family", "tensors", "named"),
    [
        ("sdxl", lora_of(f"lora_te_{TE_Q}", (1024, 1024)), "Stable Diffusion 2.x"),
        ("sdxl", lora_of(KOHYA_K.replace("blocks_0", "blocks_1"), (64, 768)), "Stable Diffusion 1.x"),
        ("sdxl-refiner", lora_of(f"lora_te1_{TE_Q}", (768, 768)), "SDXL"),
        ("sd2", lora_of(f"lora_te_{TE_Q}", (768, 768)), "Stable Diffusion 1.x"),
        ("sd2", lora_of(KOHYA_K, (32, 768)), "Stable Diffusion 1.x"),
    ],
)
def test_other_models_refuse_likewise(family: str, tensors: Mapping[str, Array], named: str, tmp_path: Path) -> None:
    """Both bases are named, whichever is opened."""
    message = refusal(save(tmp_path / "x.safetensors", tensors), family)
    assert f"was made for {named} (" in message
    assert f"expected a LoRA for {MODELS[family][1]}" in message


def _zipped(pickled: bytes) -> bytes:
    """torch.save's archive around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


class _Code:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('this was run')",))


def _safetensors(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


GOOD_FILE = _safetensors(
    json.dumps({f"{KOHYA_Q}.alpha": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
) + bytes(4)
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a text": (b"<!DOCTYPE html>" * 20, "no torch file"),
    "cut short": (GOOD_FILE[:-2], "cut short"),
    "longer than it says": (GOOD_FILE + bytes(4), "cut short or damaged"),
    "2 GB header": (_safetensors(b'{"a', 2**31), "cut short or damaged"),
    "no JSON": (_safetensors(b'{"a": '), "cut short or damaged"),
    "a name twice": (_safetensors(b'{"a": 1, "a": 2}'), "twice"),
    "metadata that are no texts": (_safetensors(b'{"__metadata__": {"a": 1}}'), "__metadata__"),
    "pickle with code": (_zipped(pickle.dumps({"a": _Code()})), "nothing of it was run"),
    "pickle with code, older": (pickle.dumps(_Code(), 2), "nothing of it was run"),
    "pickle without tensors": (_zipped(pickle.dumps({"epoch": 1})), "no tensors"),
    "hypernetwork": (_zipped(pickle.dumps({320: ({}, {}), 768: ({}, {}), "name": "x"})), "a hypernetwork"),
    "pickle cut short": (_zipped(pickle.dumps({"a": 1}))[:60], "cut short"),
    "PEFT's config in a header, damaged": (
        _safetensors(json.dumps({"__metadata__": {"lora_adapter_metadata": "{"}}).encode()),
        "is cut short or no JSON",
    ),
    "PEFT's config in a header, no table": (
        _safetensors(json.dumps({"__metadata__": {"lora_adapter_metadata": "[1]"}}).encode()),
        "is a list",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
def test_damaged_files(case: str, tmp_path: Path) -> None:
    """Nothing runs, and nothing is believed."""
    content, words = CONTENTS[case]
    (tmp_path / "x.safetensors").write_bytes(content)
    message = refusal(tmp_path / "x.safetensors")
    assert "'x.safetensors'" in message
    assert words in message


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
CONFIGS: dict[str, tuple[Any, str]] = {
    "another kind": ({**CONFIG, "peft_type": "VERA"}, "peft_type 'VERA'"),
    "OFT": ({**CONFIG, "peft_type": "OFT"}, "peft_type 'OFT'"),
    "no kind": ({**CONFIG, "peft_type": 7}, "peft_type '7'"),
    "alpha that is none": ({**CONFIG, "lora_alpha": "much"}, "lora_alpha 'much'"),
    "infinite alpha": ({**CONFIG, "lora_alpha": float("inf")}, "lora_alpha"),
    "rank 0": ({**CONFIG, "r": 0}, "a rank of at least 1"),
    "a pattern that is none": ({**CONFIG, "alpha_pattern": [1]}, "alpha_pattern"),
    "a pattern that cannot be read": ({**CONFIG, "rank_pattern": {"(": 4}}, "rank_pattern"),
    "PiSSA": ({**CONFIG, "init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    "no table": ([], "is a list"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_peft_configs(case: str, tmp_path: Path) -> None:
    """A folder's ``adapter_config.json``."""
    config, words = CONFIGS[case]
    folder = save_peft(tmp_path / "style", peft(), {})
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    message = refusal(folder)
    assert "adapter_config.json of 'style'" in message
    assert words in message


def _two_files(folder: Path) -> Path:
    save(folder / "a.safetensors", GOOD)
    return save(folder / "b.safetensors", GOOD).parent


def _without_config(folder: Path) -> Path:
    return save(folder / "adapter_model.safetensors", peft()).parent


def _model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    return folder


def _no_json(folder: Path) -> Path:
    save_peft(folder, peft(), CONFIG)
    (folder / "adapter_config.json").write_bytes(b"\xff\xfe{")
    return folder


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


PATHS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "does not exist"),
    "a name too long": (lambda path: path / ("x" * 300), "check the path"),
    "a null byte": (lambda path: path.with_name("x\0y"), "check the path"),
    "an empty folder": (_empty, "holds no file of tensors"),
    "a folder of several": (_two_files, "2 files of tensors (a.safetensors, b.safetensors)"),
    "PEFT without its config": (_without_config, "without adapter_config.json"),
    "PEFT with a config that is no text": (_no_json, "adapter_config.json of 'style' cannot be read"),
    "a model's folder": (_model, "the folder of a whole model"),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths(case: str, tmp_path: Path) -> None:
    """What is not there, or not clear."""
    make, words = PATHS[case]
    assert words in refusal(make(tmp_path / "style"))


def test_no_torch_is_needed_to_refuse(tmp_path: Path) -> None:
    """Nor any backend."""
    path = save(tmp_path / "x.safetensors", TENSORS["LLLite"][0])
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'diffusers', 'peft')))\n"
        "from pathlib import Path\n"
        "from latentrt.runtime.adapters.formats.files import adapter_from_path\n"
        f"try: adapter_from_path(Path({str(path)!r}), 'x', {{'unet': {{'conv_in.weight': (4, 4, 3, 3)}}}}, 'SD')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "ControlNet-LLLite" in done.stdout


def test_an_alpha_of_zero_counts_as_the_rank_and_is_told(tmp_path: Path) -> None:
    model, base = MODELS["sd1"]
    tensors = lora_of(KOHYA_Q, (32, 32))
    changes = {}
    for alpha in (0.0, 2.0):  # of rank 2
        tensors[f"{KOHYA_Q}.alpha"] = np.full(1, alpha, np.float32)
        path = save(tmp_path / f"{alpha}.safetensors", tensors)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            (formula,) = adapter_from_path(path, "style", model, base).parts["unet"].values()
        changes[alpha] = formula.change(np.zeros((32, 32), np.float32))
        assert [str(one.message)[:33] for one in told] == ["'0.0.safetensors' says alpha 0 for"[:33]] * (alpha == 0)
    np.testing.assert_array_equal(changes[0.0], changes[2.0])
