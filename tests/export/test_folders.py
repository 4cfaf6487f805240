"""Diffusers folders in variants and in pieces; a U-Net with a base; a replaced autoencoder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from safetensors.torch import load_file, save_file
from single_files import ldm_tensors, ldm_vae, save_single_file, save_tensors

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.source import checkpoint_from_model

_UNET = "unet/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder. Do not write to it."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("folders") / "sd1")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return shutil.copytree(saved, tmp_path / "model")


def weight(checkpoint: Checkpoint, part: str = "unet") -> torch.Tensor:
    """A weight that tells variants apart."""
    module = checkpoint.parts[part].module()
    return module.conv_in.weight if part == "unet" else module.encoder.conv_in.weight


def opened(folder: Path, **choices: Any) -> Checkpoint:
    """The checkpoint in a folder."""
    return checkpoint_from_model(str(folder), Choices(**choices))


def variant_of(folder: Path, part: str, variant: str, factor: float, stem: str = "diffusion_pytorch_model") -> Path:
    """Saves a part's weights times a factor beside them, in fp16."""
    plain = load_file(folder / part / f"{stem}.safetensors")
    path = folder / part / f"{stem}.{variant}.safetensors"
    save_file({key: (factor * tensor).half() for key, tensor in plain.items()}, path, metadata={"format": "pt"})
    return path


def test_a_variant_is_read_where_it_is_chosen(folder: Path) -> None:
    """Parts without it come plain, as in diffusers, and it is said."""
    plain = weight(opened(folder))
    variant_of(folder, "unet", "fp16", 2)
    found = opened(folder, variant="fp16")
    assert torch.equal(weight(found), (2 * plain).half().float())
    assert found.decisions["variant"].value == "fp16"
    assert "plain for text_encoder, vae" in found.decisions["variant"].reason
    assert f"{_UNET}.fp16.safetensors" in found.files
    assert f"{_UNET}.safetensors" not in found.files
    assert "unet float16" in found.decisions["dtype"].value
    untouched = opened(folder)
    assert torch.equal(weight(untouched), plain)
    assert "fp16 with --variant" in untouched.decisions["variant"].reason
    with pytest.raises(CheckpointError, match=r"got variant 'bf16'.*has fp16; choose"):
        opened(folder, variant="bf16")


def test_the_only_variant_is_taken_by_itself(folder: Path) -> None:
    """Of all parts that have no plain weights; of two, one has to be chosen."""
    plain = weight(opened(folder))
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        variant_of(folder, part, "fp16", 1, stem)
        (folder / part / f"{stem}.safetensors").unlink()
    found = opened(folder)
    assert torch.equal(weight(found), plain.half().float())
    assert found.decisions["variant"].value == "fp16"
    assert "the only one" in found.decisions["variant"].reason
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = folder / part / f"{stem}.fp16.safetensors"
        shutil.copy(path, path.with_name(f"{stem}.other.safetensors"))
    with pytest.raises(CheckpointError, match=r"variants fp16, other and no plain weights of .*unet"):
        opened(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(folder: Path, variant: str | None) -> None:
    """As diffusers writes them, whole and with one missing."""
    from diffusers import UNet2DConditionModel

    before = weight(opened(folder))
    module = UNet2DConditionModel.from_pretrained(folder / "unet")
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    module.save_pretrained(folder / "unet", max_shard_size="500KB", variant=variant)
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    found = opened(folder)
    assert torch.equal(weight(found), before)
    assert found.parts["unet"].parameters == sum(tensor.numel() for tensor in module.state_dict().values())
    assert {f"unet/{path.name}" for path in shards} < found.files.keys()
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"of {len(shards)} shards unet lacks 2"):
        opened(folder)


def test_averaged_weights_of_a_folder_are_a_variant(folder: Path) -> None:
    """--no-ema is diffusers' variant non_ema, --ema the plain weights beside it."""
    with pytest.raises(CheckpointError, match=r"got --no-ema .*variant non_ema"):
        opened(folder, ema=Ema.NON_EMA)
    plain = weight(opened(folder))
    variant_of(folder, "unet", "non_ema", 4)
    found = opened(folder, ema=Ema.NON_EMA)
    assert torch.equal(weight(found), (4 * plain).half().float())
    assert found.decisions["weights"].value == opened(folder, variant="non_ema").decisions["weights"].value == "non-ema"
    assert "chosen with --no-ema" in found.decisions["variant"].reason
    chosen = opened(folder, ema=Ema.EMA)
    assert torch.equal(weight(chosen), plain)
    assert "chosen with --ema" in chosen.decisions["variant"].reason
    assert chosen.decisions["weights"].value == opened(folder).decisions["weights"].value == "ema"


def test_pickles_alone_are_read(folder: Path) -> None:
    """Old fine-tunes have nothing else; safetensors go first where both are there."""
    before = weight(opened(folder))
    for part, stem, pickled in (
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
    ):
        path = folder / part / f"{stem}.safetensors"
        torch.save(load_file(path), folder / part / f"{pickled}.bin")
        if part == "unet":
            assert "format" not in opened(folder).decisions
        path.unlink()
    found = opened(folder)
    assert torch.equal(weight(found), before)
    found.parts["text_encoder"].module()
    assert "unet" in found.decisions["format"].reason
    assert "text_encoder/pytorch_model.bin" in found.files


@pytest.mark.parametrize("form", ["unet/ alone", "the unet's own folder", "its file", "a single file", "bare names"])
@pytest.mark.parametrize("base", ["a folder", "a single file"])
@pytest.mark.grid
def test_a_u_net_with_a_base(
    form: str, base: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The U-Net is the model's, everything else the base's; files of both are recorded."""
    monkeypatch.setattr("latentrt.export.sources.single_file.single_file.VOCABULARY", 100)
    unet = shutil.copytree(saved / "unet", tmp_path / "tuned" / "unet")
    weights = unet / "diffusion_pytorch_model.safetensors"
    save_file({key: 2 * tensor for key, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    tensors = {
        key: 2 * tensor for key, tensor in ldm_tensors(saved).items() if key.startswith("model.diffusion_model.")
    }
    bare = {key.removeprefix("model.diffusion_model."): tensor for key, tensor in tensors.items()}
    model: dict[str, Callable[[], Path]] = {
        "unet/ alone": lambda: unet.parent,
        "the unet's own folder": lambda: unet,
        "its file": lambda: weights,
        "a single file": lambda: save_tensors(tensors, tmp_path / "unet.safetensors"),
        "bare names": lambda: save_tensors(bare, tmp_path / "unet.safetensors"),
    }
    given = saved if base == "a folder" else save_single_file(saved, tmp_path / "base.ckpt")
    found, whole = opened(model[form](), base=str(given)), opened(saved)
    assert torch.equal(weight(found), 2 * weight(whole))
    assert torch.equal(weight(found, "vae"), weight(whole, "vae"))
    assert found.family.name == "sd1"
    spacing = {"timestep_spacing": found.schedule().timestep_spacing}  # SD 1.5's own folder does not state one
    assert found.schedule() == whole.schedule().model_copy(update=spacing)
    assert "supplies text_encoder, vae" in found.decisions["base"].reason
    assert any(name.startswith("base/") for name in found.files)
    with pytest.raises(CheckpointError, match=r"text_encoder is missing.*add --base"):
        opened(model[form]())


def test_a_base_of_another_width(saved: Path, tmp_path: Path) -> None:
    """Both are named."""
    sd2 = save_tiny_checkpoint(tmp_path / "sd2", "sd2")
    with pytest.raises(CheckpointError) as caught:
        opened(saved / "unet", base=str(sd2))
    assert f"text_encoder of {str(sd2)!r} has hidden_size 128" in str(caught.value)
    assert f"unet of {str(saved / 'unet')!r} has cross_attention_dim 64" in str(caught.value)


def test_what_a_base_in_one_file_tells_of_its_training(saved: Path, tmp_path: Path) -> None:
    """Holds for a U-Net that does not say."""
    base = save_tensors({**ldm_tensors(saved), "v_pred": torch.zeros(0)}, tmp_path / "base.safetensors")
    tokenizer = {"tokenizer": saved / "tokenizer"}
    from latentrt.export.sources.folder.folder import partial_model_from_folder
    from latentrt.export.sources.partial_model import PartialModel
    from latentrt.export.sources.single_file.single_file import partial_model_from_file
    from latentrt.export.sources.source import _assembled

    unet = partial_model_from_folder(saved / "unet", Choices())
    offered = partial_model_from_file(base, ema=None, recorded="base/")
    whole = PartialModel(**{**vars(offered), "tokenizers": tokenizer})
    found = _assembled(unet, whole, Choices())
    assert found.schedule().prediction_type == "v_prediction"
    assert "of the base: the file's tensor v_pred" in found.decisions["prediction type"].reason


@pytest.mark.parametrize(
    ("family", "base", "choices", "sampler"),
    [
        ("lcm-sdxl", "sdxl", {}, "lcm"),
        ("lcm-sd1", "sd1", {}, "lcm"),
        ("sdxl", "sdxl", {"family": "sdxl-turbo"}, "euler_a"),
        ("sdxl-turbo", "sdxl-turbo", {}, "euler_a"),
        ("sdxl", "sdxl", {}, "euler"),
    ],
)
def test_a_distilled_u_net_keeps_its_own_scheduler(
    family: str, base: str, choices: dict[str, str], sampler: str, tmp_path: Path
) -> None:
    """Beside a teacher; a base of the same family supplies its own."""
    unet = save_tiny_checkpoint(tmp_path / "model", family) / "unet"
    scheduler = {"beta_end": 0.0125}
    teacher = save_tiny_checkpoint(tmp_path / "teacher", base, scheduler=scheduler)
    found = opened(unet, base=str(teacher), **choices)
    same = choices.get("family", family) == base
    assert found.family.name == choices.get("family", family)
    assert found.sampler == sampler
    assert found.schedule().beta_end == (0.0125 if same else 0.012)
    assert ("not its scheduler" in found.decisions["base"].reason) == (not same)
    if sampler == "euler_a":
        assert found.schedule().timestep_spacing == "trailing"


@pytest.mark.parametrize(("stated", "expected"), [(False, False), (True, True), (None, True)])
def test_zeros_for_an_empty_prompt(stated: bool | None, expected: bool, tmp_path: Path) -> None:
    """As model_index.json says, of the model or of a U-Net's base; the family's row where it is silent."""
    folder = save_tiny_checkpoint(tmp_path / "model", "sdxl")
    changed(folder, force_zeros_for_empty_prompt=stated)
    assert opened(folder).zero_empty_negative is expected
    assert opened(folder / "unet", base=str(folder)).zero_empty_negative is expected


def test_an_index_that_contradicts_the_u_net(saved: Path, tmp_path: Path) -> None:
    """Is refused; SD's pipelines and SDXL's from text do not read these settings."""
    folder = save_tiny_checkpoint(tmp_path / "model", "sdxl", pipeline="StableDiffusionXLImg2ImgPipeline")
    changed(folder, requires_aesthetics_score=True)
    with pytest.raises(CheckpointError, match="requires_aesthetics_score true, but its U-Net takes a target size"):
        opened(folder)
    changed(folder, _class_name="StableDiffusionXLPipeline")
    assert opened(folder).family.name == "sdxl"
    refiner = save_tiny_checkpoint(tmp_path / "refiner", "sdxl-refiner")
    changed(refiner, requires_aesthetics_score=False)
    with pytest.raises(
        CheckpointError, match="requires_aesthetics_score false, but its U-Net takes an aesthetic score"
    ):
        opened(refiner)
    changed(refiner, requires_aesthetics_score=True, force_zeros_for_empty_prompt="no")
    with pytest.raises(CheckpointError, match="force_zeros_for_empty_prompt 'no', expected true or false"):
        opened(refiner)
    assert not opened(saved).zero_empty_negative


def changed(folder: Path, **settings: object) -> None:
    """Writes settings into model_index.json."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_folder_of_parts_has_its_own_tokenizer(folder: Path) -> None:
    """Without an index and a scheduler, too: nothing is said of CLIP's."""
    (folder / "model_index.json").unlink()
    shutil.rmtree(folder / "scheduler")
    found = opened(folder)
    assert found.tokenizers["tokenizer"] == folder / "tokenizer"
    assert "tokenizer" not in found.decisions


def test_a_base_that_is_not_needed(saved: Path) -> None:
    """Is said to be."""
    found = opened(saved, base=str(saved))
    assert "nothing" in found.decisions["base"].reason
    assert not any(name.startswith("base/") for name in found.files)


@pytest.mark.parametrize(
    "form", ["folder", "pipeline", "diffusers names", "ldm names", "with prefix", "ckpt", "a whole checkpoint"]
)
@pytest.mark.parametrize("of", ["folder", "single file"])
@pytest.mark.grid
def test_a_replaced_vae(form: str, of: str, saved: Path, tmp_path: Path) -> None:
    """In every form, beside every form of model; the scale stays the model's."""
    tuned = shutil.copytree(saved, tmp_path / "tuned")
    weights = tuned / "vae" / "diffusion_pytorch_model.safetensors"
    doubled = {key: 2 * tensor for key, tensor in load_file(weights).items()}
    save_file(doubled, weights, metadata={"format": "pt"})
    ldm = ldm_vae(doubled)
    prefixed = {f"first_stage_model.{key}": tensor for key, tensor in ldm.items()}
    rest = {"loss.logvar": torch.zeros(1), **ldm}
    vae: dict[str, Callable[[], Path]] = {
        "folder": lambda: tuned / "vae",
        "pipeline": lambda: tuned,
        "diffusers names": lambda: save_tensors(doubled, tmp_path / "vae.safetensors"),
        "ldm names": lambda: save_tensors(rest, tmp_path / "vae.safetensors"),
        "with prefix": lambda: save_tensors(prefixed, tmp_path / "vae.safetensors"),
        "ckpt": lambda: save_tensors(rest, tmp_path / "vae.ckpt"),
        "a whole checkpoint": lambda: save_single_file(tuned, tmp_path / "whole.safetensors"),
    }
    model = saved if of == "folder" else save_single_file(saved, tmp_path / "model.safetensors")
    found, whole = opened(model, vae=str(vae[form]()), base=str(saved)), opened(saved)
    assert torch.equal(weight(found, "vae"), 2 * weight(whole, "vae"))
    assert torch.equal(weight(found), weight(whole))
    assert found.latents.scaling_factor == whole.latents.scaling_factor
    assert found.decisions["vae"].value == vae[form]().name
    assert any(name.startswith("replaced/vae") for name in found.files)


def test_a_vae_that_does_not_fit(saved: Path, tmp_path: Path) -> None:
    """Of another scale, of other latents, none at all, nowhere; both sides are named."""
    sdxl = save_tiny_checkpoint(tmp_path / "sdxl", "sdxl")
    with pytest.raises(CheckpointError, match=r"scaling_factor 0\.13025, expected 0\.18215.*VAE of SD 1\.x"):
        opened(saved, vae=str(sdxl / "vae"))
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    AutoencoderKL(**blocks, block_out_channels=(32,), latent_channels=16).save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError) as caught:
        opened(saved, vae=str(tmp_path / "wide"))
    assert f"vae of {str(tmp_path / 'wide')!r} has latent_channels 16" in str(caught.value)
    assert f"unet of {str(saved)!r} has out_channels 4" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"got --vae .*a text encoder alone"):
        opened(saved, vae=str(saved / "text_encoder" / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"no usable vae \(it holds unet\)"):
        opened(saved, vae=str(saved / "unet"))
    with pytest.raises(CheckpointError, match="check the path"):
        opened(saved, vae=str(tmp_path / "nowhere"))


def test_a_spoiled_vae_that_is_replaced_does_not_matter(folder: Path, saved: Path) -> None:
    """And one that is missing neither."""
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"spoiled")
    assert opened(folder, vae=str(saved / "vae")).parts["vae"].config == opened(saved).vae
    shutil.rmtree(folder / "vae")
    assert opened(folder, vae=str(saved / "vae")).parts["vae"].config == opened(saved).vae


def test_folders_of_other_kinds(tmp_path: Path, saved: Path) -> None:
    """A part that is no U-Net, a VAE alone, a folder with a single file in it."""
    with pytest.raises(CheckpointError, match=r"holds vae and no U-Net.*--vae"):
        opened(saved / "vae")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(CheckpointError, match="holds a FluxTransformer2DModel"):
        opened(other)
    (other / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no model_index\.json.*give the folder that holds it"):
        opened(other)


def test_a_folder_with_nothing_but_a_single_file(saved: Path, tmp_path: Path) -> None:
    """Is that file, also as a VAE; of two the user has to choose."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "README.md").write_text("A model")
    file = save_single_file(saved, folder / "model.safetensors")
    whole = opened(saved)
    found = opened(folder, base=str(saved))
    assert torch.equal(weight(found), weight(whole))
    assert found.source == str(file)
    shutil.copy(file, folder / "model.ckpt")  # the same in another form, as many publish it
    assert opened(folder, base=str(saved)).source == str(file)
    assert torch.equal(weight(opened(saved, vae=str(folder)), "vae"), weight(whole, "vae"))
    shutil.copy(file, folder / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"the files model\.safetensors, other\.ckpt, expected one; give one"):
        opened(folder)
