"""Checkpoints as other tools name, store and round them are the same models as the folders they were made from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from single_files import Tensors, ldm_tensors, save_tensors

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.source import checkpoint_from_model


def opened(path: Path, base: Path | None = None, **choices: Any) -> Checkpoint:
    """The checkpoint; the tiny tokenizers are of no CLIP, so that a folder supplies them."""
    return checkpoint_from_model(str(path), Choices(base=None if base is None else str(base), **choices))


def part_tensors(folder: Path, prefixes: dict[str, str]) -> Tensors:
    """The tensors of some of a folder's parts in the library's names, under a prefix each."""
    return {
        f"{prefix}{key}": tensor
        for part, prefix in prefixes.items()
        for path in (folder / part).glob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def assert_equal(one: Checkpoint, two: Checkpoint, *parts: str) -> None:
    """Every weight of some parts, bit for bit."""
    for part in parts:
        states = one.parts[part].module().state_dict(), two.parts[part].module().state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items()), part


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner", "lcm-sdxl", "sd1-inpaint", "lcm-sd1"])
@pytest.mark.parametrize("name", ["unet.safetensors", "unet.bin"])
@pytest.mark.parametrize("prefix", ["", "unet.", "model.diffusion_model."])
@pytest.mark.grid(most=7)
def test_a_u_net_alone_in_diffusers_names(
    family: str, name: str, prefix: str, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """As few-step models of SDXL are published: the config is the one that LDM's names tell, the weights the same."""
    folder = family_checkpoint(family)
    unet = part_tensors(folder, {"unet": prefix})
    path = tmp_path / name
    torch.save(unet, path) if name.endswith(".bin") else save_file(unet, path)
    found, whole = opened(path, folder), opened(folder)
    assert found.family.name == family
    assert_equal(found, whole, "unet")
    ldm = {key: tensor for key, tensor in ldm_tensors(folder).items() if key.startswith("model.diffusion_model.")}
    assert opened(save_tensors(ldm, tmp_path / "ldm.safetensors"), folder).unet == found.unet
    if family == "sd1" and not prefix:
        with pytest.raises(CheckpointError, match=r"text_encoder is missing.*add --base"):
            opened(path)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_a_pipeline_in_one_file(
    family: str, family_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts under the names of their folders; tokenizers are CLIP's own."""
    monkeypatch.setattr("latentrt.export.sources.single_file.single_file.VOCABULARY", 100)
    folder = family_checkpoint(family)
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    parts = [name for name in names if (folder / name).is_dir()]
    path = save_tensors(part_tensors(folder, {name: f"{name}." for name in parts}), tmp_path / "model.safetensors")
    found, whole = opened(path), opened(folder)
    assert found.family.name == family
    assert_equal(found, whole, *parts)
    for name, tokenizer in found.tokenizers.items():
        config = json.loads((tokenizer / "tokenizer_config.json").read_text())
        original = json.loads((whole.tokenizers[name] / "tokenizer_config.json").read_text())
        assert config["pad_token"] == original["pad_token"], name


_ATTENTION = {
    "half converted": (("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")),
    "as diffusers": (
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
    ),
    "as diffusers was": (("q.", "query."), ("k.", "key."), ("v.", "value."), ("proj_out.", "proj_attn.")),
}


@pytest.mark.parametrize("names", _ATTENTION)
@pytest.mark.parametrize("linear", [True, False])
def test_a_vae_whose_attention_kept_diffusers_names(
    names: str, linear: bool, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Converters that rename the rest to LDM's names leave those, with matrices or with convolutions."""
    folder, renamed = family_checkpoint("sd1"), {}
    for key, tensor in ldm_tensors(folder).items():
        block, dot, rest = key.partition(".attn_1.")
        for ours, theirs in _ATTENTION[names] if dot else ():
            rest = theirs + rest.removeprefix(ours) if rest.startswith(ours) else rest
        flat = dot and linear and tensor.ndim == 4
        renamed[f"{block}{dot}{rest}"] = tensor[:, :, 0, 0].contiguous() if flat else tensor
    assert any("to_q" in key or "query" in key for key in renamed)
    path = save_tensors(renamed, tmp_path / "model.safetensors")
    assert_equal(opened(path, folder), opened(folder), "vae")
    vae = {key: tensor for key, tensor in renamed.items() if key.startswith("first_stage_model.")}
    replaced = opened(folder, vae=str(save_tensors(vae, tmp_path / "vae.safetensors")))
    assert_equal(replaced, opened(folder), "vae")


@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner"])
def test_a_projection_that_is_a_linear_layer(
    family: str, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """``text_projection.weight`` in place of a matrix, which is its transpose."""
    folder = family_checkpoint(family)
    tensors = ldm_tensors(folder)
    (key,) = (key for key in tensors if key.endswith(".text_projection"))
    tensors[f"{key}.weight"] = tensors.pop(key).T.contiguous()
    found = opened(save_tensors(tensors, tmp_path / "model.safetensors"), folder)
    assert found.parts["text_encoder_2"].config["projection_dim"] == 96
    assert_equal(found, opened(folder), "text_encoder_2")


@pytest.mark.parametrize("fault", ["nothing but a piece", "another width"])
def test_a_vae_rescues_a_file_whose_own_is_bad(
    fault: str, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """As it does for folders."""
    folder = family_checkpoint("sd1")
    tensors = ldm_tensors(folder)
    for key in [key for key in tensors if key.startswith("first_stage_model.")]:
        if fault == "another width":
            tensors[key] = torch.zeros(7)
        elif "encoder.down.0.block.0.conv1" not in key:
            del tensors[key]
    path = save_tensors(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        opened(path, folder)
    found = opened(path, folder, vae=str(folder / "vae"))
    assert_equal(found, opened(folder), "vae", "unet")


def in_float8(tensors: Tensors, *, scaled: bool, rows: bool = False, name: str = "scale_weight") -> Tensors:
    """A model in float8 as ComfyUI saves it: weights divided by what brings them into the type's range."""
    stored = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)} if scaled else {}
    for key, tensor in tensors.items():
        matrix = tensor.ndim == 2 and key.endswith(".weight") and "embedding" not in key
        if not (scaled and matrix):
            stored[key] = tensor.to(torch.float8_e4m3fn)
            continue
        largest = tensor.abs().amax(dim=1) if rows else tensor.abs().max()
        scale = largest / 448
        stored[key] = (tensor / (scale[:, None] if rows else scale)).to(torch.float8_e4m3fn)
        stem = key.removesuffix("weight")
        stored[f"{stem}{name}"] = scale
        stored[f"{stem}{'scale_input' if name == 'scale_weight' else 'comfy_quant'}"] = torch.ones(1)
    return stored


@pytest.mark.parametrize(
    "form",
    [{"scaled": False}, {"scaled": True}, {"scaled": True, "name": "weight_scale"}, {"scaled": True, "rows": True}],
)
def test_a_model_in_float8(form: dict[str, Any], family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """With scales beside the weights or without: each weight times its scale, exactly."""
    folder = family_checkpoint("sdxl")
    tensors = ldm_tensors(folder)
    tensors["alphas_cumprod"] = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    stored = in_float8(tensors, **form)
    found = opened(save_tensors(stored, tmp_path / "model.safetensors"), folder)
    assert found.decisions["dtype"].value == "float8_e4m3fn"
    assert found.schedule().beta_schedule == "scaled_linear"
    unet = found.parts["unet"].module().state_dict()
    weight = unet["down_blocks.1.attentions.0.proj_in.weight"]
    key = "model.diffusion_model.input_blocks.3.1.proj_in."
    assert key + "weight" in tensors
    scale = next(
        (stored[key + name] for name in ("scale_weight", "weight_scale") if key + name in stored), torch.ones(1)
    )
    assert torch.equal(weight, stored[key + "weight"].float() * scale.reshape(-1, 1))
    assert (weight - tensors[key + "weight"]).abs().max() <= 0.07 * tensors[key + "weight"].abs().max()


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float16, torch.uint8, torch.bool, torch.int16])
def test_tensors_that_nothing_reads_refuse_no_file(
    dtype: torch.dtype, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The positions' numbers in whatever type."""
    folder = family_checkpoint("sd1")
    tensors = ldm_tensors(folder)
    positions = [key for key in tensors if key.endswith("position_ids")]
    assert positions
    tensors |= {key: tensors[key].to(dtype) for key in positions}
    assert_equal(opened(save_tensors(tensors, tmp_path / "model.safetensors"), folder), opened(folder), "text_encoder")


_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
_STANDARD = torch.cumprod(1 - _BETAS, 0)


@pytest.mark.parametrize(
    ("alphas", "said"),
    [
        (_STANDARD.to(torch.float8_e4m3fn), None),
        (_STANDARD.to(torch.float8_e5m2), None),
        (_STANDARD.to(torch.bfloat16), None),
        (torch.linspace(0.9, 0.1, 1000).to(torch.float8_e5m2), "rounded to float8_e5m2"),
        (torch.full((1000,), torch.nan), "no noise schedule"),
        (torch.zeros(1000), "do not fall"),
        (torch.linspace(0.1, 0.9, 1000), "do not fall"),
        (torch.zeros(3, 7), "no noise schedule"),
        (torch.tensor(0.5), "no noise schedule"),
        (torch.zeros(0), "no noise schedule"),
        (torch.arange(1000), "no noise schedule"),
        (torch.zeros(1000, dtype=torch.bool), "no noise schedule"),
    ],
    ids=[
        "e4m3",
        "e5m2",
        "bf16",
        "another's",
        "NaN",
        "zeros",
        "rising",
        "a matrix",
        "a number",
        "empty",
        "whole",
        "bool",
    ],
)
def test_a_noise_schedule_that_only_hints(
    alphas: torch.Tensor, said: str | None, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Recognised however it is rounded; else passed over, which is said."""
    folder = family_checkpoint("sd1")
    path = save_tensors({**ldm_tensors(folder), "alphas_cumprod": alphas}, tmp_path / "model.safetensors")
    found = opened(path, folder)
    assert found.schedule().beta_schedule == "scaled_linear"
    assert ("noise schedule" in found.decisions) == (said is not None)
    assert said is None or said in found.decisions["noise schedule"].reason


@pytest.mark.parametrize(
    "step", [torch.tensor(float("nan")), torch.tensor(float("inf")), torch.zeros(3, 2), torch.tensor([110000])]
)
def test_a_training_step_of_another_shape(
    step: torch.Tensor, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Says nothing, unless it is one whole number."""
    path = save_tensors({**ldm_tensors(family_checkpoint("sd2")), "global_step": step}, tmp_path / "model.safetensors")
    found = opened(path, family_checkpoint("sd2"))
    assert ("global_step" in found.decisions["prediction type"].reason) == (step.numel() == 1 and bool(step.isfinite()))


def test_averaged_weights_in_a_folder_of_their_own(family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """``unet_ema/`` beside ``unet/``, as diffusers' training scripts save a state: --ema takes it."""
    folder = shutil.copytree(family_checkpoint("sd1"), tmp_path / "checkpoint-500")
    averaged = shutil.copytree(folder / "unet", folder / "unet_ema")
    config = json.loads((averaged / "config.json").read_text())
    # as EMAModel.save_pretrained adds them
    config |= {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 500, "power": 2 / 3}
    config |= {"update_after_step": 0, "use_ema_warmup": False}
    (averaged / "config.json").write_text(json.dumps(config))
    weights = averaged / "diffusion_pytorch_model.safetensors"
    doubled = {key: 2 * tensor for key, tensor in load_file(weights).items()}
    save_file(doubled, weights, metadata={"format": "pt"})

    def weight(**choices: Any) -> torch.Tensor:
        return opened(folder, **choices).parts["unet"].module().conv_in.weight

    plain = weight()
    assert torch.equal(weight(ema=Ema.NON_EMA), plain)
    assert torch.equal(weight(ema=Ema.EMA), 2 * plain)
    found = opened(folder, ema=Ema.EMA)
    assert "unet_ema/diffusion_pytorch_model.safetensors" in found.files
    assert "unet/diffusion_pytorch_model.safetensors" not in found.files
    assert "--ema" in found.decisions["weights"].reason
    assert "--no-ema" in opened(folder, ema=Ema.NON_EMA).decisions["weights"].reason
    assert "unet_ema" in opened(folder).decisions["weights"].reason
    (folder / "model_index.json").unlink()
    assert torch.equal(weight(ema=Ema.EMA, base=family_checkpoint("sd1")), 2 * plain)
