"""Every spelling that files have for a module leads to the same weight; what PEFT's configs and folders say counts."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import MODELS, Shapes, encoder_shapes, lora_of, save, save_peft, unet_shapes

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.adapters.adapter import Adapter
from latentrt.runtime.adapters.formats.files import adapter_from_path
from latentrt.runtime.adapters.formats.model_weights import model_weights_of
from latentrt.runtime.adapters.formats.modules import Modules, Spelling

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYER = "text_model.encoder.layers.1"
UNET = (
    f"{BLOCK}.attn1.to_q",
    f"{BLOCK}.attn2.to_out.0",
    f"{BLOCK}.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",
)
ENCODER = (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.out_proj", f"{LAYER}.mlp.fc2")
RANK = 2

Spelled = Callable[[str, str], str]


def flat(prefix: str) -> Spelled:
    """kohya's spelling."""
    ends = {"down": "lora_down.weight", "up": "lora_up.weight"}
    return lambda path, which: f"{prefix}_{path.replace('.', '_')}.{ends[which]}"


def dotted(prefix: str, down: str = "lora_A.weight", up: str = "lora_B.weight") -> Spelled:
    """PEFT's, or another with dots."""
    return lambda path, which: f"{prefix}{path}.{down if which == 'down' else up}"


def oldest(prefix: str) -> Spelled:
    """diffusers' attention processors."""

    def spell(path: str, which: str) -> str:
        parent, last = path.removesuffix(".0").rsplit(".", 1)
        return f"{prefix}{parent}.processor.{last}_lora.{which}.weight"

    return spell


def oldest_encoder(path: str, which: str) -> str:
    """diffusers' first names in text encoders: those of the U-Net for projections."""
    parent, last = path.rsplit(".", 1)
    if last.endswith("_proj"):
        return f"text_encoder.{parent}.to_{last.removesuffix('_proj')}_lora.{which}.weight"
    return f"text_encoder.{path}.lora_linear_layer.{which}.weight"


def without(part: str, spell: Spelled) -> Spelled:
    """A spelling that leaves a part of the path out."""
    return lambda path, which: spell(path.replace(part, "", 1), which)


LORA = ("lora.down.weight", "lora.up.weight")
LINEAR = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
NAMED = ("lora_A.default_0.weight", "lora_B.default_0.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
UNET_SPELLINGS: dict[str, Spelled] = {
    "kohya": flat("lora_unet"),
    "LyCORIS' wrapper": flat("lycoris"),
    "bare and flat": flat("lora"),
    "PEFT": dotted("base_model.model."),
    "PEFT in diffusers": dotted("unet."),
    "PEFT inside of unet": dotted("unet.base_model.model."),
    "PEFT without a prefix": dotted(""),
    "PEFT with an adapter's name": dotted("unet.", *NAMED),
    "diffusers": dotted("unet.", *LORA),
    "diffusers without a prefix": dotted("", *LORA),
    "ComfyUI": dotted("diffusion_model.", *KOHYA),
    "OneTrainer": dotted("unet.", *KOHYA),
    "torch's parallel modules": dotted("module."),
    "torch's compiled modules": dotted("_orig_mod."),
    "parameters": dotted("", "lora_A", "lora_B"),
}
ENCODER_SPELLINGS: dict[str, Spelled] = {
    "kohya": flat("lora_te"),
    "kohya by diffusers": flat("lora_te1"),
    "kohya by transformers 5": without("text_model.", flat("lora_te")),
    "bare and flat": flat("lora"),
    "PEFT": dotted("base_model.model."),
    "PEFT in diffusers": dotted("text_encoder."),
    "PEFT by transformers 5": without("text_model.", dotted("text_encoder.")),
    "PEFT with an adapter's name": dotted("text_encoder.", *NAMED),
    "diffusers": dotted("text_encoder.", *LINEAR),
    "diffusers' oldest": oldest_encoder,
    "ComfyUI": dotted("text_encoders.clip_l.transformer.", *KOHYA),
    "OneTrainer": dotted("clip_l.", *KOHYA),
}


def factors(shapes: Shapes, paths: tuple[str, ...]) -> dict[str, dict[str, Array]]:
    """Both factors of each module; a product of one is as long as the other."""
    generator = np.random.default_rng(0)
    pairs = {}
    for path in paths:
        out, inputs, *kernel = shapes[f"{path}.weight"]
        down = generator.normal(size=(RANK, inputs, *kernel)).astype(np.float32)
        up = generator.normal(size=(out, RANK, *(1 for _ in kernel))).astype(np.float32)
        pairs[path] = {"down": down, "up": up}
    return pairs


def changes(adapter: Adapter, model: Mapping[str, Shapes]) -> dict[str, Array]:
    """F(0) of every weight, which for adapters that do not look at a weight is all that they do."""
    return {
        f"{component}.{name}": formula.change(np.zeros(model[component][name], np.float32))
        for component, formulas in adapter.parts.items()
        for name, formula in formulas.items()
    }


def products(component: str, shapes: Shapes, paths: tuple[str, ...], scale: float = 1.0) -> dict[str, Array]:
    """What should come of ``factors``."""
    return {
        f"{component}.{path}.weight": scale
        * (pair["up"].reshape(-1, RANK) @ pair["down"].reshape(RANK, -1)).reshape(shapes[f"{path}.weight"])
        for path, pair in factors(shapes, paths).items()
    }


def assert_same(got: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """The same weights change in the same way."""
    assert got.keys() == expected.keys()
    for name, change in expected.items():
        np.testing.assert_allclose(got[name], change, rtol=1e-5, atol=1e-5, err_msg=name)


def spelled(spell: Spelled, shapes: Shapes, paths: tuple[str, ...]) -> dict[str, Array]:
    """A file's tensors."""
    pairs = factors(shapes, paths)
    return {spell(path, which): tensor for path, pair in pairs.items() for which, tensor in pair.items()}


def read(path: Path, family: str = "sd1") -> dict[str, Array]:
    """What a file changes."""
    model, base = MODELS[family]
    return changes(adapter_from_path(path, "style", model, base), model)


@pytest.mark.parametrize("spelling", UNET_SPELLINGS)
def test_unet(spelling: str, tmp_path: Path) -> None:
    """The names of a U-Net's modules."""
    shapes = MODELS["sd1"][0]["unet"]
    path = save(tmp_path / "x.safetensors", spelled(UNET_SPELLINGS[spelling], shapes, UNET))
    assert_same(read(path), products("unet", shapes, UNET))


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_attention_processors(prefix: str, tmp_path: Path) -> None:
    """diffusers' first LoRAs: of attentions alone."""
    shapes, paths = MODELS["sd1"][0]["unet"], UNET[:2]
    path = save(tmp_path / "x.safetensors", spelled(oldest(prefix), shapes, paths))
    assert_same(read(path), products("unet", shapes, paths))


@pytest.mark.parametrize("spelling", ENCODER_SPELLINGS)
def test_text_encoder(spelling: str, tmp_path: Path) -> None:
    """The names of the only text encoder's modules."""
    shapes = MODELS["sd1"][0]["text_encoder"]
    path = save(tmp_path / "x.safetensors", spelled(ENCODER_SPELLINGS[spelling], shapes, ENCODER))
    assert_same(read(path), products("text_encoder", shapes, ENCODER))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (flat("lora_te1"), flat("lora_te2")),
        (flat("lora_te"), flat("lora_te2")),
        (dotted("text_encoder."), dotted("text_encoder_2.")),
        (dotted("text_encoder.", *LINEAR), dotted("text_encoder_2.", *LINEAR)),
        (dotted("clip_l.transformer.", *KOHYA), dotted("clip_g.transformer.", *KOHYA)),
        (dotted("clip_l.", *KOHYA), dotted("clip_g.", *KOHYA)),
    ],
)
def test_two_text_encoders(first: Spelled, second: Spelled, tmp_path: Path) -> None:
    """SDXL's, with the projection of the second."""
    model, paths = MODELS["sdxl"][0], (*ENCODER, "text_projection")
    tensors = spelled(first, model["text_encoder"], ENCODER) | spelled(second, model["text_encoder_2"], paths)
    expected = products("text_encoder", model["text_encoder"], ENCODER)
    expected |= products("text_encoder_2", model["text_encoder_2"], paths)
    assert_same(read(save(tmp_path / "x.safetensors", tensors), "sdxl"), expected)


@pytest.mark.parametrize("prefix", ["lora_te", "lora_te2"])
def test_the_refiners_text_encoder(prefix: str, tmp_path: Path) -> None:
    """It has SDXL's second one alone, which trainers call the text encoder."""
    shapes = MODELS["sdxl-refiner"][0]["text_encoder_2"]
    path = save(tmp_path / "x.safetensors", spelled(flat(prefix), shapes, ENCODER))
    assert_same(read(path, "sdxl-refiner"), products("text_encoder_2", shapes, ENCODER))


def test_a_text_encoder_that_is_not_told_apart(tmp_path: Path) -> None:
    """Of two, a bare name means none; a folder tells."""
    model, base = MODELS["sdxl"]
    tensors = spelled(dotted("base_model.model."), model["text_encoder_2"], ENCODER)
    path = save(tmp_path / "x.safetensors", tensors)
    with pytest.raises(RequestError, match=r"no LoRA's|no place"):
        adapter_from_path(path, "x", model, base)
    save_peft(tmp_path / "folder" / "text_encoder_2", tensors, {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK})
    expected = products("text_encoder_2", model["text_encoder_2"], ENCODER)
    assert_same(read(tmp_path / "folder", "sdxl"), expected)


# What the original code calls some modules of real models, from their checkpoints
ORIGINAL = {
    "sd1": {
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.0.attentions.1.proj_in": "input_blocks.2.1.proj_in",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.3.resnets.1.time_emb_proj": "input_blocks.11.0.emb_layers.1",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2": "middle_block.1.transformer_blocks.0.ff.net.2",
        "mid_block.resnets.1.norm2": "middle_block.2.out_layers.0",
        "up_blocks.0.resnets.2.conv2": "output_blocks.2.0.out_layers.3",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2": "output_blocks.11.1.transformer_blocks.0.ff.net.2",
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    },
    "sdxl": {
        "down_blocks.1.attentions.0.transformer_blocks.1.norm1": "input_blocks.4.1.transformer_blocks.1.norm1",
        "down_blocks.2.resnets.1.norm1": "input_blocks.8.0.in_layers.0",
        "mid_block.attentions.0.transformer_blocks.9.attn2.to_v": "middle_block.1.transformer_blocks.9.attn2.to_v",
        "up_blocks.0.attentions.0.proj_out": "output_blocks.0.1.proj_out",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks.8.0.skip_connection",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    },
}
FULL = {
    "sd1": unet_shapes(),
    "sdxl": unet_shapes((320, 640, 1280), (0, 2, 10), 2048, linear=True, added=2816),
}


@pytest.mark.parametrize("family", ORIGINAL)
def test_names_of_the_original_code(family: str) -> None:
    """Of full-size U-Nets, flat and with dots; every module has a name of its own."""
    modules = Modules({"unet": FULL[family]})
    for path, original in ORIGINAL[family].items():
        for spelling in (original, f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
            place = modules.find(spelling)
            assert place is not None
            assert place.module == ("unet", path)
            assert place.spelling is Spelling.SGM
        assert modules.find(f"unet.{path}") == (*place[:2], Spelling.DIFFUSERS)


@pytest.mark.parametrize("scaled", [False, True], ids=["LoRA", "DoRA"])
def test_inpainting_unet_takes_a_lora_of_four_channels(scaled: bool, tmp_path: Path) -> None:
    """What the mask and the masked picture do stays as it is, with DoRA, too; a LoRA of nine channels fits."""
    narrow, wide = (lora_of("lora_unet_conv_in", (32, channels, 3, 3)) for channels in (4, 9))
    if scaled:
        narrow["lora_unet_conv_in.dora_scale"] = np.full((32, 1, 1, 1), 2.0, np.float32)
    change = read(save(tmp_path / "narrow.safetensors", narrow), "sd1-inpaint")["unet.conv_in.weight"]
    expected = read(save(tmp_path / "narrow.safetensors", narrow), "sd1")["unet.conv_in.weight"]
    np.testing.assert_allclose(change[:, :4], expected, rtol=1e-5, atol=1e-5)
    assert not change[:, 4:].any()
    assert read(save(tmp_path / "wide.safetensors", wide), "sd1-inpaint")["unet.conv_in.weight"][:, 4:].all()
    with pytest.raises(RequestError, match=r"\(32, 5"):
        read(save(tmp_path / "odd.safetensors", lora_of("lora_unet_conv_in", (32, 5, 3, 3))), "sd1-inpaint")


def test_weights_that_the_model_computes_nothing_with(tmp_path: Path) -> None:
    """SDXL's first encoder ends before its last layer, which LoRAs were trained on all the same."""
    shapes = encoder_shapes(layers=2)
    model = {"text_encoder": {name: None if ".layers.1." in name else shape for name, shape in shapes.items()}}
    paths = (ENCODER[0], ENCODER[0].replace("layers.1", "layers.0"))
    path = save(tmp_path / "x.safetensors", spelled(flat("lora_te1"), shapes, paths))
    adapter = adapter_from_path(path, "x", model, "SDXL")
    assert list(adapter.parts["text_encoder"]) == [f"{paths[1]}.weight"]


CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8}


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        (CONFIG, (4.0, 4.0)),
        ({**CONFIG, "use_rslora": True}, (8 / RANK**0.5,) * 2),
        ({**CONFIG, "alpha_pattern": {"attn1.to_q": 2}}, (1.0, 4.0)),
        ({**CONFIG, "alpha_pattern": {r"down_blocks\.\d.*to_q": 2, "net.0.proj": 1}}, (1.0, 0.5)),
        ({**CONFIG, "alpha_pattern": {"to_q.": 2, "o_q": 2}}, (4.0, 4.0)),
        ({**CONFIG, "fan_in_fan_out": True}, (4.0, 4.0)),
        ({**CONFIG, "rank_pattern": {"to_q": 77}}, (4.0, 4.0)),
    ],
)
@pytest.mark.parametrize("where", ["beside", "folder", "header", "unet", "text_encoder"])
def test_peft_configs(config: Mapping[str, Any], scales: tuple[float, float], where: str, tmp_path: Path) -> None:
    """In PEFT's own folder, given as such or by its file; in a header as diffusers writes it; in InvokeAI's folders."""
    model, base = MODELS["sd1"]
    component, paths = "unet", (UNET[0], UNET[2])
    if where == "text_encoder":
        component, paths = "text_encoder", (ENCODER[0], ENCODER[2])
        names = ("self_attn.q_proj", "encoder.layers.1.mlp.fc2")
        pattern = {names[0]: 2} if scales[0] == 1 else {}
        config = {**config, "alpha_pattern": pattern | ({names[1]: 1} if scales[1] == 0.5 else {})}
    tensors = spelled(dotted("base_model.model."), model[component], paths)
    if where == "header":
        header = {f"unet.{key}": value for key, value in config.items()}
        path = save(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(header)})
    else:
        folder = tmp_path / "style"
        save_peft(folder / where if where in model else folder, tensors, config)
        path = folder / "adapter_model.safetensors" if where == "beside" else folder
    expected = {}
    for one, scale in zip(paths, scales, strict=True):
        expected[f"{component}.{one}.weight"] = (
            scale * products(component, model[component], paths)[f"{component}.{one}.weight"]
        )
    assert_same(changes(adapter_from_path(path, "x", model, base), model), expected)


def test_factors_of_transposed_weights(tmp_path: Path) -> None:
    """Where PEFT's config says so and nothing else fits: of a square weight, too."""
    shapes = MODELS["sd1"][0]["unet"]
    tensors = {}
    for path, pair in factors(shapes, (UNET[0], UNET[2])).items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = np.ascontiguousarray(pair["up"].T)
        tensors[f"base_model.model.{path}.lora_B.weight"] = np.ascontiguousarray(pair["down"].T)
    folder = save_peft(tmp_path / "style", tensors, {**CONFIG, "lora_alpha": RANK, "fan_in_fan_out": True})
    assert_same(read(folder), products("unet", shapes, (UNET[0], UNET[2])))


def test_modules_that_were_trained_whole(tmp_path: Path) -> None:
    """PEFT's ``modules_to_save`` and biases are new values."""
    shapes = MODELS["sd1"][0]["unet"]
    generator = np.random.default_rng(0)
    whole = {
        name: generator.normal(size=shapes[name]).astype(np.float32) for name in ("conv_in.weight", "conv_in.bias")
    }
    bias = f"{UNET[2]}.bias"
    tensors = spelled(dotted("base_model.model."), shapes, (UNET[2],))
    tensors |= {f"base_model.model.{name}": tensor for name, tensor in whole.items()}
    tensors[f"base_model.model.{bias}"] = np.ones(shapes[bias], np.float32)
    config = {**CONFIG, "modules_to_save": ["conv_in"], "bias": "lora_only"}
    expected = products("unet", shapes, (UNET[2],), 4.0) | {f"unet.{name}": tensor for name, tensor in whole.items()}
    expected[f"unet.{bias}"] = np.ones(shapes[bias], np.float32)
    assert_same(read(save_peft(tmp_path / "style", tensors, config)), expected)


def test_folders(tmp_path: Path) -> None:
    """InvokeAI's with several parts, diffusers' file, and a folder of one file."""
    model, _ = MODELS["sd1"]
    peft = {component: spelled(dotted("base_model.model."), model[component], paths) for component, paths in PARTS}
    for component, tensors in peft.items():
        save_peft(tmp_path / "invoke" / component, tensors, {**CONFIG, "lora_alpha": RANK})
    expected = products("unet", model["unet"], UNET) | products("text_encoder", model["text_encoder"], ENCODER)
    assert_same(read(tmp_path / "invoke"), expected)
    kohya = spelled(flat("lora_unet"), model["unet"], UNET) | spelled(flat("lora_te"), model["text_encoder"], ENCODER)
    for name in ("pytorch_lora_weights.safetensors", "whatever.safetensors"):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "README.md").write_text("not a tensor")
        save(tmp_path / "one" / name, kohya)
        assert_same(read(tmp_path / "one"), expected)
        shutil.rmtree(tmp_path / "one")


PARTS = (("unet", UNET), ("text_encoder", ENCODER))


def test_digests(tmp_path: Path) -> None:
    """A1111's short hash leaves the header out, unless the file brings its own; a pickle's is that of the file."""
    model, base = MODELS["sd1"]
    tensors = lora_of("lora_unet_conv_in", (32, 4, 3, 3))
    digests = {}
    for name, metadata in (("a", {}), ("b", {"ss_output_name": "b"}), ("c", {"sshs_model_hash": "0xAB" * 16})):
        path = save(tmp_path / f"{name}.safetensors", tensors, metadata)
        adapter = adapter_from_path(path, "style", model, base)
        content = path.read_bytes()
        assert adapter.sha256 == hashlib.sha256(content).hexdigest()
        assert (adapter.name, adapter.file, adapter.metadata) == ("style", path.name, metadata)
        digests[name] = adapter.short_hash
    begin = 8 + int.from_bytes(content[:8], "little")
    assert digests == {**dict.fromkeys("ab", hashlib.sha256(content[begin:]).hexdigest()[:12]), "c": "0xAB" * 3}


def test_a_file_that_is_written_again_changes_no_adapter(tmp_path: Path) -> None:
    """Its tensors are in memory, also those that are as large as the weight itself."""
    model, base = MODELS["sd1"]
    path = tmp_path / "x.safetensors"
    tensors = lora_of(f"lora_unet_{UNET[0].replace('.', '_')}", (32, 32)) | {
        "lora_unet_conv_in.diff": np.ones((32, 4, 3, 3), np.float16)
    }
    adapter = adapter_from_path(save(path, tensors), "x", model, base)
    before = changes(adapter, model)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(len(content)))
        file.truncate(100)
    assert_same(changes(adapter, model), before)


def test_what_is_known_of_bundles(tiny_bundle: Path, family_bundle: Callable[..., Path]) -> None:
    """Shapes by name of what adapters change; SDXL's first encoder was exported without its last layer."""
    weights, base = model_weights_of(open_bundle(tiny_bundle))
    assert base == "Stable Diffusion 1.x"
    assert weights.keys() == {"unet", "text_encoder"}
    assert weights["unet"]["conv_in.weight"] == (32, 4, 3, 3)
    assert None not in weights["text_encoder"].values()
    weights, base = model_weights_of(open_bundle(family_bundle("sdxl")))
    assert base == "SDXL"
    unused = [name for name, shape in weights["text_encoder"].items() if shape is None]
    assert all(".layers.2." in name or "final_layer_norm" in name for name in unused)
    assert "text_model.encoder.layers.2.mlp.fc1.weight" in unused
    assert None not in weights["text_encoder_2"].values()
