"""Checkpoints in one file are the same models as the folders they were made from."""

import json
import shutil
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TINY
from same_checkpoints import assert_equal_configs, assert_equal_parts
from shared import no_preview_fitted
from single_files import averaged, ldm_tensors, open_clip, save_single_file, save_tensors

import latentrt
import latentrt.engines.bundle.bundle
from latentrt.engines.bundle.records.schedule_config import PredictionType
from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.tensor_file import StoredTensor, open_tensor_file
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.single_file.schedule import STANDARD
from latentrt.export.sources.source import checkpoint_from_model


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a socket fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def opened(path: Path, base: Path, **choices: Any) -> Checkpoint:
    """The checkpoint in a file; the tiny tokenizers are of no CLIP, so that the folder supplies them."""
    return checkpoint_from_model(str(path), Choices(base=str(base), **choices))


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.grid(most=8)
def test_equal_to_the_folder(
    family: str, suffix: str, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Weights bit for bit, configs, family, schedule, and what a part's module is made of."""
    folder = family_checkpoint(family)
    path = save_single_file(folder, tmp_path / f"model{suffix}", global_step=1)
    ours, theirs = opened(path, folder), checkpoint_from_model(str(folder))
    assert ours.family is theirs.family
    assert ours.schedule() == theirs.schedule()
    assert ours.sampler == theirs.sampler
    assert ours.latents.model_copy(update={"tile_pixels": 32}) == theirs.latents
    assert [ours.parts[name].parameters for name in ("unet", "vae")] == [
        theirs.parts[name].parameters for name in ("unet", "vae")
    ]
    assert_equal_parts(ours, theirs)
    assert_equal_configs(ours, theirs)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_without_a_base_the_family_supplies_the_schedule(
    family: str, family_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And CLIP's own vocabulary the tokenizer, where it is embedded."""
    monkeypatch.setattr("latentrt.export.sources.single_file.single_file.VOCABULARY", 100)
    path = save_single_file(family_checkpoint(family), tmp_path / "model.safetensors")
    found = checkpoint_from_model(str(path))
    assert found.family.name == family
    assert {key: found.scheduler[key] for key in STANDARD} == STANDARD
    assert found.scheduler["prediction_type"] == "epsilon"
    assert "--prediction-type" in found.decisions["prediction type"].reason
    assert found.tokenizers.keys() == {row.tokenizer for row in found.family.text_encoders}
    assert found.decisions["tokenizer"].value == "CLIP's own"


def test_another_vocabulary_needs_a_base(family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """The tiny models embed fewer tokens than CLIP has."""
    path = save_single_file(family_checkpoint("sd1"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tokenizer is missing: text_encoder embeds \d+ tokens.*add --base"):
        checkpoint_from_model(str(path))


@pytest.mark.slow
def test_draws_the_same_picture(
    tiny_checkpoint: Path, tiny_pipe: latentrt.Pipeline, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Built on the command line; the bundle says how the file was understood, and other choices build it anew."""
    path = save_single_file(tiny_checkpoint, tmp_path / "model.ckpt")
    bundle = tmp_path / "file.bundle"
    arguments = ("build", path, "-o", bundle, "--base", tiny_checkpoint, "--profile", "32x32", "--json")
    done = command(*arguments)
    assert done.status == 0, done.stderr
    assert_same_picture(bundle, tiny_pipe, drawn_by("sd1"))
    written = json.loads((bundle / "bundle.json").read_text())
    decisions = written["source"]["decisions"]
    assert decisions["family"]["value"] == "sd1"
    assert json.loads(done.stdout)["decisions"] == decisions
    for name, row in decisions.items():
        assert f"{name}: {row['value']} ({row['reason']})" in done.stderr
        assert f"{row['value']} ({row['reason']})" in command("inspect", bundle).stdout
    assert written["source"]["files"]["model.ckpt"]["size"] == path.stat().st_size
    assert "base/model_index.json" in written["source"]["files"]
    with latentrt.open(bundle, threads=1) as pipe:
        settings = pipe("a cat", num_inference_steps=1, output_type="latent").metadata[0].parameters()
    assert f"Model hash: {sha256(path.read_bytes()).hexdigest()[:10]}, Model: model," in settings  # as A1111 does
    assert json.loads(command(*arguments).stdout)["up_to_date"]


def test_other_choices_are_another_build(tiny_checkpoint: Path, tiny_copy: Path) -> None:
    """The same files, understood otherwise, are not up to date."""
    same = {"profiles": ["32x32x2", "48x32"]}
    assert latentrt.build(tiny_checkpoint, tiny_copy, **same, family="sd1").up_to_date
    from latentrt.building.plan import BundlePlan, existing_bundle
    from latentrt.engines.bundle.records.seamless import Seamless
    from latentrt.engines.precision import Precision
    from latentrt.export.tracing.versions import exporter_versions

    def up_to_date(choices: Choices) -> bool:
        profiles = latentrt.engines.bundle.bundle.open_bundle(tiny_copy).manifest.profiles
        checkpoint = checkpoint_from_model(str(tiny_checkpoint), choices)
        plan = BundlePlan(
            checkpoint=checkpoint,
            versions=exporter_versions(),
            precision=Precision.FP32,
            kept_fp32=(),
            profiles=profiles,
            seamless=Seamless.NONE,
        )
        return existing_bundle(tiny_copy, plan) is not None

    assert up_to_date(Choices())
    assert not up_to_date(Choices(prediction_type=PredictionType.V_PREDICTION))
    assert not up_to_date(Choices(vae=str(tiny_checkpoint / "vae")))


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_every_family_draws_the_same_picture(
    family: str,
    family_checkpoint: Callable[[str], Path],
    family_pipe: Callable[[str], latentrt.Pipeline],
    tmp_path: Path,
) -> None:
    """From the file and from the folder."""
    folder = family_checkpoint(family)
    path = save_single_file(folder, tmp_path / "model.safetensors")
    with no_preview_fitted():
        latentrt.build(path, tmp_path / "file.bundle", base=folder, profiles=["32x32x2"])
    assert_same_picture(tmp_path / "file.bundle", family_pipe(family), drawn_by(family))


Drawn = Callable[[latentrt.Pipeline], Any]


def drawn_by(family: str) -> Drawn:
    """Two steps of one seed, by the call that the family has."""
    image, mask = np.full((32, 32, 3), 0.3, np.float32), np.eye(32, dtype=np.float32)
    steps: dict[str, Any] = {"num_inference_steps": 2, "seed": 1}
    if family.endswith("-inpaint"):
        return lambda pipe: pipe.inpaint("a cat", image=image, mask_image=mask, **steps)
    if family == "sdxl-refiner":
        return lambda pipe: pipe.img2img("a cat", image=image, strength=1.0, **steps)
    return lambda pipe: pipe("a cat", **steps)


def assert_same_picture(bundle: Path, pipe: latentrt.Pipeline, drawn: Drawn) -> None:
    """What both draw, bit for bit."""
    with latentrt.open(bundle, threads=1) as other:
        pictures = [np.asarray(drawn(p).images[0]) for p in (pipe, other)]
    assert np.array_equal(*pictures)


class TestWhatTheFileTells:
    """Prediction type, schedule, averaged weights, distillation: from the file, and overridden."""

    @pytest.fixture
    def sd1(self, family_checkpoint: Callable[[str], Path]) -> Path:
        return family_checkpoint("sd1")

    @pytest.fixture
    def sd2(self, family_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
        """Its folder, without a stated prediction type."""
        folder = shutil.copytree(family_checkpoint("sd2"), tmp_path / "sd2")
        scheduler = folder / "scheduler" / "scheduler_config.json"
        config = json.loads(scheduler.read_text())
        config.pop("prediction_type")
        scheduler.write_text(json.dumps(config))
        return folder

    @pytest.mark.parametrize(
        ("metadata", "marks", "step", "name", "expected", "reason"),
        [
            (
                {"modelspec.prediction_type": "v"},
                (),
                0,
                "a.safetensors",
                "v_prediction",
                "modelspec.prediction_type 'v'",
            ),
            ({"modelspec.prediction_type": "epsilon"}, ("v_pred",), 0, "a.safetensors", "epsilon", "modelspec"),
            ({"modelspec.predict_key": "v"}, (), 0, "a.safetensors", "v_prediction", "modelspec.predict_key 'v'"),
            ({}, ("v_pred", "ztsnr"), 0, "a.safetensors", "v_prediction", "tensor v_pred"),
            ({}, (), 110000, "a.ckpt", "v_prediction", "global_step 110000"),
            ({}, (), 875000, "a.ckpt", "epsilon", "global_step 875000"),
            ({}, (), 0, "my-vpred-model.safetensors", "v_prediction", "nothing but the file's name"),
            ({}, (), 5, "a.ckpt", "epsilon", "the usual"),
        ],
    )
    def test_prediction_type(
        self, metadata: dict[str, str], marks: tuple[str, ...], step: int, name: str, expected: str, reason: str,
        sd2: Path, tmp_path: Path,
    ) -> None:  # fmt: skip
        """Metadata goes before marks, marks before the training step, the name comes last."""
        tensors = ldm_tensors(sd2) | {mark: torch.zeros(0) for mark in marks}
        path = save_tensors(tensors, tmp_path / name, metadata=metadata, global_step=step)
        found = opened(path, sd2)
        assert found.schedule().prediction_type == expected
        assert found.decisions["prediction type"].value == expected
        assert reason in found.decisions["prediction type"].reason
        assert found.schedule().rescale_betas_zero_snr == ("ztsnr" in marks)
        chosen = opened(path, sd2, prediction_type=PredictionType.SAMPLE)
        assert chosen.schedule().prediction_type == "sample"

    def test_sd_2_by_a_bias(self, tmp_path: Path) -> None:
        """The deviation of one bias tells SD 2.x's two kinds apart; a U-Net of true width has it."""
        from latentrt.export.sources.single_file.schedule import schedule_in_file
        from latentrt.export.sources.single_file.unet_structure import DIFFUSERS, LDM
        from latentrt.export.sources.weights_file import open_weights_file

        unet = {"use_linear_projection": True, "in_channels": 4, "cross_attention_dim": 1024}
        for layout, scale, expected in (
            (LDM, 0.2, "v_prediction"),
            (LDM, 0.01, "epsilon"),
            (DIFFUSERS, 0.2, "v_prediction"),
        ):
            path = save_tensors({layout.bias: scale * torch.randn(320)}, tmp_path / "bias.safetensors")
            found = schedule_in_file(open_weights_file(path), unet, "")
            assert found.training["prediction_type"] == expected
            assert "deviation" in str(found.prediction)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_own_noise_schedules(self, dtype: torch.dtype, sd1: Path, tmp_path: Path) -> None:
        """SD's is recognised, rescaled or not, even rounded; another is taken as it is, unless it is rounded."""
        from diffusers import DDPMScheduler
        from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        linear = DDPMScheduler().alphas_cumprod.double()
        tensors = ldm_tensors(sd1)

        def schedule(alphas_cumprod: torch.Tensor) -> Any:
            path = tmp_path / "model.safetensors"
            save_tensors({**tensors, "alphas_cumprod": alphas_cumprod.to(dtype)}, path)
            return opened(path, sd1).schedule()

        own = schedule(torch.cumprod(1 - betas, 0))
        assert (own.beta_schedule, own.trained_betas, own.rescale_betas_zero_snr) == ("scaled_linear", None, False)
        assert schedule(torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)).rescale_betas_zero_snr
        if dtype == torch.float32:
            assert np.allclose(schedule(linear).trained_betas, DDPMScheduler().betas, atol=1e-6)
        else:
            with pytest.raises(CheckpointError, match="take the model in fp32"):
                schedule(linear)

    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_averaged_weights(self, suffix: str, sd1: Path, tmp_path: Path) -> None:
        """Not taken unless they are asked for, and the choice is said."""
        tensors = ldm_tensors(sd1)
        unet = {key.removeprefix("model.diffusion_model."): t for key, t in tensors.items() if "diffusion_model" in key}
        path = save_tensors(tensors | averaged(unet), tmp_path / f"model{suffix}")
        weight = checkpoint_from_model(str(sd1)).parts["unet"].module().conv_in.weight

        def taken(ema: Ema | None) -> tuple[torch.Tensor, str]:
            found = opened(path, sd1, ema=ema)
            return found.parts["unet"].module().conv_in.weight, found.decisions["weights"].value

        for ema, factor, value in ((None, 1, "non-ema"), (Ema.NON_EMA, 1, "non-ema"), (Ema.EMA, 2, "ema")):
            tensor, said = taken(ema)
            assert torch.equal(tensor, factor * weight)
            assert said == value

    def test_averaged_weights_that_are_not_there(self, sd1: Path, tmp_path: Path) -> None:
        """None, some, and nothing else."""
        tensors = ldm_tensors(sd1)
        path = save_tensors(tensors, tmp_path / "none.safetensors")
        with pytest.raises(CheckpointError, match=r"--ema .*no averaged weights"):
            opened(path, sd1, ema=Ema.EMA)
        unet = {key.removeprefix("model.diffusion_model."): t for key, t in tensors.items() if "diffusion_model" in key}
        some = dict(list(averaged(unet).items())[:5])
        with pytest.raises(CheckpointError, match=r"5 of \d+ averaged"):
            opened(save_tensors(tensors | some, tmp_path / "some.safetensors"), sd1, ema=Ema.EMA)
        with pytest.raises(CheckpointError, match="averaged weights of a U-Net"):
            opened(save_tensors(averaged(unet), tmp_path / "only.safetensors"), sd1)

    @pytest.mark.parametrize(("family", "plain"), [("sd-turbo", "sd2"), ("sdxl-turbo", "sdxl")])
    def test_distilled_models(
        self,
        family: str,
        plain: str,
        family_checkpoint: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Told by metadata or by the name alone, which is said; --family goes before both."""
        monkeypatch.setattr("latentrt.export.sources.single_file.single_file.VOCABULARY", 100)
        tensors = ldm_tensors(family_checkpoint(family))
        named = save_tensors(tensors, tmp_path / "my_turbo_v2.safetensors")
        told = save_tensors(tensors, tmp_path / "a.safetensors", metadata={"modelspec.title": "Some Turbo"})
        silent = save_tensors(tensors, tmp_path / "turbot.safetensors")
        found = checkpoint_from_model(str(named))
        assert found.family.name == family
        assert found.scheduler["timestep_spacing"] == "trailing"
        assert "nothing but the file's name" in found.decisions["family"].reason
        assert "modelspec.title" in checkpoint_from_model(str(told)).decisions["family"].reason
        assert checkpoint_from_model(str(silent)).family.name == plain
        assert checkpoint_from_model(str(named), Choices(family=plain)).family.name == plain
        assert checkpoint_from_model(str(silent), Choices(family=family)).scheduler["timestep_spacing"] == "trailing"

    def test_a_family_of_another_build_is_refused(self, sd1: Path, tmp_path: Path) -> None:
        """--family cannot make an SD 1.x of an XL, and not of a word."""
        path = save_single_file(sd1, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"got family 'sdxl'.*are sd1"):
            opened(path, sd1, family="sdxl")
        with pytest.raises(CheckpointError, match=r"got family 'sd9', expected one of .*sd1"):
            opened(path, sd1, family="sd9")

    def test_half_precision_becomes_single(self, sd1: Path, tmp_path: Path) -> None:
        """And the decisions say what was stored."""
        halves = {key: t.half() if t.is_floating_point() else t for key, t in ldm_tensors(sd1).items()}
        found = opened(save_tensors(halves, tmp_path / "model.safetensors"), sd1)
        weight = checkpoint_from_model(str(sd1)).parts["unet"].module().conv_in.weight
        assert torch.equal(found.parts["unet"].module().conv_in.weight, weight.half().float())
        assert found.decisions["dtype"].value == "float16"


@pytest.mark.parametrize(("suffix", "kind"), [(".ckpt", "safetensors"), (".safetensors", "torch.save's archive")])
def test_read_by_content(suffix: str, kind: str, family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A file of the other kind under the wrong name is read, and said to be."""
    folder = family_checkpoint("sd1")
    written = save_single_file(folder, tmp_path / ("a.ckpt" if suffix == ".safetensors" else "a.safetensors"))
    renamed = written.rename(tmp_path / f"b{suffix}")
    found = opened(renamed, folder)
    assert_equal_parts(found, checkpoint_from_model(str(folder)))
    assert found.decisions["format"].value == kind


def test_pickles_of_both_layouts(family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """torch's older stream, and a bare dict of tensors."""
    folder = family_checkpoint("sd1")
    tensors = ldm_tensors(folder)
    torch.save({"state_dict": tensors}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    torch.save(tensors, tmp_path / "bare.ckpt")
    for name in ("old.ckpt", "bare.ckpt"):
        assert_equal_parts(opened(tmp_path / name, folder), checkpoint_from_model(str(folder)))


def test_names_of_other_times(family_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """CLIP without ``text_model.``, and tensors for which a U-Net has no place, which are told."""
    folder = family_checkpoint("sd1")
    tensors = {key.replace("transformer.text_model.", "transformer."): t for key, t in ldm_tensors(folder).items()}
    tensors["model.diffusion_model.output_blocks.0.9.alpha"] = torch.zeros(1)
    found = opened(save_tensors(tensors, tmp_path / "model.safetensors"), folder)
    assert_equal_parts(found, checkpoint_from_model(str(folder)))
    assert found.unread == {"unet": ("model.diffusion_model.output_blocks.0.9.alpha",)}


def test_only_a_parts_tensors_are_read(
    family_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking reads none at all, loading the autoencoder its own."""
    read: list[int] = []
    bits = StoredTensor.bits

    def watched(tensor: StoredTensor) -> Any:
        read.append(tensor.block.offset)
        return bits(tensor)

    monkeypatch.setattr(StoredTensor, "bits", watched)
    folder = family_checkpoint("sd1")
    found = opened(save_single_file(folder, tmp_path / "model.safetensors"), folder)
    assert read == []
    found.parts["vae"].module()
    assert read
    names = {t.block.offset: key for key, t in open_tensor_file(tmp_path / "model.safetensors").tensors.items()}
    assert all(names[offset].startswith("first_stage_model.") for offset in read)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("names", ["transformers", "OpenCLIP"])
def test_a_text_encoder_in_any_names(
    family: str, names: str, family_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Has the activation and the layers that belong beside the U-Net, not those that the spelling is usual for."""
    folder = family_checkpoint(family)
    module = checkpoint_from_model(str(folder)).parts["text_encoder"].module()
    state = {key.removeprefix("text_model."): tensor for key, tensor in module.state_dict().items()}
    tensors = {key: t for key, t in ldm_tensors(folder).items() if not key.startswith("cond_stage_model.")}
    if names == "transformers":
        tensors |= {f"cond_stage_model.transformer.text_model.{key}": tensor for key, tensor in state.items()}
    else:
        theirs = open_clip(state, extra_layer=family == "sd2")
        tensors |= {f"cond_stage_model.model.{key}": tensor for key, tensor in theirs.items()}
    found = opened(save_tensors(tensors, tmp_path / "model.safetensors"), folder)
    made = found.parts["text_encoder"].module()
    assert made.config.hidden_act == module.config.hidden_act
    assert_equal_parts(found, checkpoint_from_model(str(folder)))
    assert found.unread == {}


@pytest.mark.parametrize(("width", "act"), [(768, "quick_gelu"), (1024, "gelu"), (1280, "gelu")])
@pytest.mark.parametrize("linear", [False, True])
def test_a_width_tells_the_activation(width: int, act: str, linear: bool, tmp_path: Path) -> None:
    """Of CLIP's ViT-L and OpenCLIP's ViT-H and ViT-bigG, in whoever's names and beside whichever U-Net."""
    from latentrt.export.sources.single_file.encoders import encoders_in
    from latentrt.export.sources.weights_file import open_weights_file

    clip = {"embeddings.token_embedding.weight": (5, width), "embeddings.position_embedding.weight": (7, width)}
    clip |= {"encoder.layers.0.mlp.fc1.weight": (8, width)}
    theirs = {"token_embedding.weight": (5, width), "positional_embedding": (7, width)}
    theirs |= {"transformer.resblocks.0.mlp.c_fc.weight": (8, width)}
    for prefix, shapes in (("cond_stage_model.transformer.", clip), ("cond_stage_model.model.", theirs)):
        tensors = {prefix + key: torch.zeros(shape) for key, shape in shapes.items()}
        file = open_weights_file(save_tensors(tensors, tmp_path / "model.safetensors"))
        assert encoders_in(file, "model", linear_unet=linear)["text_encoder"].config["hidden_act"] == act
