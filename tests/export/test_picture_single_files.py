"""Single files of models that are told a picture are the same models as the folders they were made from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from picture_checkpoints import save_svd
from picture_model_files import CLIP, OPEN_CLIP, SECOND_ENCODER, svd_tensors, view_tensors
from same_checkpoints import assert_equal_configs, assert_equal_parts
from shared import no_preview_fitted
from single_files import Tensors, ldm_tensors, save_tensors

import latentrt
from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_headers, checkpoint_from_model

# What their authors called them
FILES = {
    "svd": "svd.safetensors",
    "zero123": "zero123-xl.ckpt",
    "stable-zero123": "stable_zero123.ckpt",
    "instruct-pix2pix": "instruct-pix2pix-00-22000.ckpt",
    "sd-image-variations": "sd-clip-vit-l14-img-embed_ema_only.ckpt",
}


@pytest.fixture(scope="module")
def svd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video model whose heads are 64 channels wide, as all have that come in single files."""
    return save_svd(
        tmp_path_factory.mktemp("svd") / "svd",
        blocks={"block_out_channels": (64, 128), "num_attention_heads": (1, 2)},
        frames=14,
    )


@pytest.fixture(scope="module")
def svd(svd_folder: Path) -> Tensors:
    """Its tensors in SGM's names. Do not write to them."""
    return svd_tensors(svd_folder)


@pytest.fixture(scope="module")
def zero123(picture_checkpoint: Callable[[str], Path]) -> Tensors:
    """The tensors of a model of views in LDM's names. Do not write to them."""
    return view_tensors(picture_checkpoint("zero123"))


@pytest.fixture
def folder_and_tensors(
    picture_checkpoint: Callable[[str], Path], svd_folder: Path
) -> Callable[[str], tuple[Path, Tensors]]:
    """The folder of a family, and its tensors in the names of its authors."""

    def made(family: str) -> tuple[Path, Tensors]:
        folder = svd_folder if family == "svd" else picture_checkpoint(family)
        written = {"svd": svd_tensors, "instruct-pix2pix": ldm_tensors}.get(family, view_tensors)
        return folder, written(folder)

    return made


def opened(path: Path, family: str, folder: Path) -> Checkpoint:
    """The checkpoint in a file; the tiny tokenizer is of no CLIP, so that the folder supplies it."""
    return checkpoint_from_model(str(path), Choices(base=str(folder)) if family == "instruct-pix2pix" else Choices())


def refusal(tensors: Tensors, path: Path) -> str:
    """The one sentence with which a file is refused."""
    save_tensors(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_model(str(path))
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert "; " in message
    return message


@pytest.mark.parametrize("family", [family for family in FILES if family != "stable-zero123"])  # whose parts are equal
def test_equal_to_the_folder(
    family: str, folder_and_tensors: Callable[[str], tuple[Path, Tensors]], tmp_path: Path
) -> None:
    """Weights bit for bit, configs, family, schedule; and no tensor is left that nobody knows."""
    folder, tensors = folder_and_tensors(family)
    path = save_tensors(tensors, tmp_path / FILES[family])
    ours, theirs = opened(path, family, folder), checkpoint_from_model(str(folder))
    assert ours.family is theirs.family
    assert ours.family.name == family
    spacing = {"timestep_spacing": None} if family == "sd-image-variations" else {}  # each sampler's, as published
    assert ours.schedule() == theirs.schedule().model_copy(update=spacing)
    assert ours.sampler == theirs.sampler
    assert ours.latents.model_copy(update={"tile_pixels": 32}) == theirs.latents
    assert_equal_parts(ours, theirs)
    assert_equal_configs(ours, theirs)
    assert ours.unread == {}


class TestVideos:
    """What SGM's files have of their own."""

    @pytest.mark.parametrize(
        ("name", "frames"),
        [("svd", 14), ("svd_xt", 25), ("svd_xt_1_1", 25), ("svd-xt-fp16", 25), ("my_sxt", 14), ("XT", 25)],
    )
    def test_frames_by_the_name(self, name: str, frames: int, svd: Tensors, tmp_path: Path) -> None:
        """No shape tells 14 from 25; the decision says so, and what to do."""
        found = checkpoint_from_headers(str(save_tensors(svd, tmp_path / f"{name}.safetensors")))
        decided = found.decisions["frames"]
        assert found.unet["num_frames"] == frames
        assert decided.value == f"{frames} by default"
        assert (name in decided.reason) == (frames == 25)
        assert "--profile" in decided.reason

    def test_the_encoder_is_the_one_that_the_authors_encode_with(
        self, svd: Tensors, svd_folder: Path, tmp_path: Path
    ) -> None:
        """The autoencoder's own where a tool left the other out; it has no convolution behind it then."""
        plain = checkpoint_from_model(str(svd_folder)).parts["vae"].module().encoder.conv_in.weight
        whole = checkpoint_from_model(str(save_tensors(svd, tmp_path / "whole.safetensors")))
        assert torch.equal(whole.parts["vae"].module().encoder.conv_in.weight, plain)
        assert "embedders.3" in whole.decisions["encoder"].value
        less = {key: tensor for key, tensor in svd.items() if not key.startswith(SECOND_ENCODER)}
        found = checkpoint_from_model(str(save_tensors(less, tmp_path / "less.safetensors")))
        vae = found.parts["vae"].module()
        assert torch.equal(vae.encoder.conv_in.weight, 2 * plain)
        assert torch.equal(vae.quant_conv.weight[:, :, 0, 0], torch.eye(8))
        assert "encoder" not in found.decisions
        assert found.unread == {}

    @pytest.mark.parametrize("told", [256, 1280])
    def test_sv3d_is_refused(self, told: int, svd: Tensors, tmp_path: Path) -> None:
        """Which is told where the camera goes, by its two models."""
        key = "model.diffusion_model.label_emb.0.0.weight"
        changed = svd | {key: torch.zeros(svd[key].shape[0], told)}
        assert "it is SV3D" in refusal(changed, tmp_path / "sv3d_u.safetensors")

    def test_image_decoders_are_refused(self, svd: Tensors, svd_folder: Path, tmp_path: Path) -> None:
        """With what helps: the file beside it, or its autoencoder."""
        plain = {key: t for key, t in svd.items() if not _is_of_temporal_decoder(key)}
        path = tmp_path / "svd_image_decoder.safetensors"
        message = refusal(plain, path)
        assert "image_decoder" in message
        assert "--vae" in message
        whole = save_tensors(svd, tmp_path / "svd.safetensors")
        found = checkpoint_from_model(str(path), Choices(vae=str(whole)))
        assert_equal_parts(found, checkpoint_from_model(str(svd_folder)))

    @pytest.mark.parametrize(
        ("gone", "said"),
        [
            ("model.diffusion_model.label_emb.0.0.weight", "lacks label_emb.0.0.weight"),
            ("model.diffusion_model.middle_block.1.time_stack.0.norm_in.weight", "norm_in.weight is missing"),
            ("model.diffusion_model.input_blocks.1.0.time_mixer.mix_factor", "time_mixer.mix_factor is missing"),
            ("first_stage_model.decoder.conv_out.time_mix_conv.weight", "lacks decoder.conv_out.time_mix_conv.weight"),
            ("first_stage_model.decoder.mid.block_1.mix_factor", "time_mixer.mix_factor is missing"),
            ("conditioner.embedders.0.open_clip.model.visual.proj", "lacks proj"),
            ("conditioner.embedders.0.open_clip.model.visual.class_embedding", "embeddings.class_embedding is missing"),
        ],
    )
    def test_tensors_that_are_missing(self, gone: str, said: str, svd: Tensors, tmp_path: Path) -> None:
        """Are named."""
        assert said in refusal({key: t for key, t in svd.items() if key != gone}, tmp_path / "svd.safetensors")

    def test_without_its_image_encoder(self, svd: Tensors, tmp_path: Path) -> None:
        """Which no tensor stands for: what a base has to supply is named."""
        left = {key: t for key, t in svd.items() if not key.startswith(OPEN_CLIP)}
        message = refusal(left, tmp_path / "svd.safetensors")
        assert "image_encoder is missing" in message
        assert "--base" in message


def _is_of_temporal_decoder(key: str) -> bool:
    return key.startswith("first_stage_model.decoder.") and any(
        mark in key for mark in (".time_stack.", ".mix_factor", ".time_mix_conv.")
    )


class TestViews:
    """Zero123 and Stable Zero123, which have the same tensors."""

    @pytest.mark.parametrize(
        ("name", "pose"),
        [
            ("stable_zero123", PoseKind.IMAGE_ELEVATION),
            ("Stable-Zero123-C", PoseKind.IMAGE_ELEVATION),
            ("zero123-xl", PoseKind.DISTANCE),
            ("105000", PoseKind.DISTANCE),
            ("zero123_of_stable_diffusion", PoseKind.DISTANCE),
        ],
    )
    def test_the_fourth_number_by_the_name(self, name: str, pose: PoseKind, zero123: Tensors, tmp_path: Path) -> None:
        """And by --family, which goes before it; the decision says which and why."""
        folder = tmp_path / "stable"  # which is not the file's name
        folder.mkdir()
        path = save_tensors(zero123, folder / f"{name}.ckpt")
        found = checkpoint_from_headers(str(path))
        assert found.family.pose is pose
        decided = found.decisions["family"]
        assert decided.value == found.family.name
        assert (name if pose is PoseKind.IMAGE_ELEVATION else "--family stable-zero123") in decided.reason
        for family, chosen in (("zero123", PoseKind.DISTANCE), ("stable-zero123", PoseKind.IMAGE_ELEVATION)):
            assert checkpoint_from_headers(str(path), Choices(family=family)).family.pose is chosen

    @pytest.mark.parametrize(
        ("key", "shape", "said"),
        [
            ("cc_projection.weight", (32, 33), "cc_projection takes 33 numbers and gives 32"),
            ("cc_projection.weight", (16, 20), "out_features 16"),
            ("cc_projection.bias", (4,), "bias"),
        ],
    )
    def test_projections_of_other_shapes(
        self, key: str, shape: tuple[int, ...], said: str, zero123: Tensors, tmp_path: Path
    ) -> None:
        """Are named."""
        assert said in refusal(zero123 | {key: torch.zeros(shape)}, tmp_path / "zero123.ckpt")

    def test_without_its_image_encoder(self, zero123: Tensors, tmp_path: Path) -> None:
        """Another model's file."""
        left = {key: t for key, t in zero123.items() if not key.startswith(CLIP)}
        message = refusal(left, tmp_path / "zero123.ckpt")
        assert "needs image_encoder and pose_projection, but it has pose_projection" in message

    def test_a_converters_betas_are_warned_of(self, picture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
        """0.02 is what a script falls back to that reads the schedule in the wrong place."""
        folder = shutil.copytree(picture_checkpoint("zero123"), tmp_path / "zero123")
        assert "noise schedule" not in checkpoint_from_headers(str(folder)).decisions
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "beta_start": 0.02, "beta_end": 0.085}))
        warned = checkpoint_from_headers(str(folder)).decisions["noise schedule"]
        assert "0.02 to 0.085" in warned.value
        assert "0.00085" in warned.reason
        assert "scheduler_config.json" in warned.reason


def test_a_picture_encoder_that_kept_its_other_half_is_one_of_texts(
    picture_checkpoint: Callable[[str], Path], zero123: Tensors, tmp_path: Path
) -> None:
    """As SD 2.x keeps OpenCLIP, of which tools left the half that takes pictures."""
    from latentrt.export.sources.single_file.picture_conditions import picture_conditions_in
    from latentrt.export.sources.weights_file import open_weights_file

    text = {"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": torch.zeros(4)}
    visual = {key: tensor for key, tensor in zero123.items() if ".visual." in key}
    for tensors, found in ((visual, {"image_encoder"}), (visual | text, set())):
        file = open_weights_file(save_tensors(tensors, tmp_path / "model.safetensors"))
        assert set(picture_conditions_in(file, "model")) == found


@pytest.mark.slow
@pytest.mark.parametrize(("family", "profile"), [("svd", "32x32x3f"), ("zero123", "32x32")])
def test_the_same_bundle(
    family: str, profile: str, folder_and_tensors: Callable[[str], tuple[Path, Tensors]], tmp_path: Path
) -> None:
    """Every component's weights, and what torch makes of the probes that its ONNX is held against."""
    folder, tensors = folder_and_tensors(family)
    path = save_tensors(tensors, tmp_path / FILES[family])
    manifests = []
    for model in (folder, path):
        with no_preview_fitted():
            made = latentrt.build(model, tmp_path / f"{model.stem}.bundle", profiles=[profile])
        manifests.append(made.bundle.manifest)
    one, two = manifests
    assert one.conditioning == two.conditioning
    assert one.components.keys() == two.components.keys()
    compared = [name for name in one.files if name.startswith("probes/") or name.endswith(".data")]
    assert len(compared) == 2 * len(one.components)
    assert {name: one.files[name] for name in compared} == {name: two.files[name] for name in compared}
