"""Folders of models that are told of a picture become bundles."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_checkpoints import IMAGE_SIZE, WIDTH, save_svd, save_zero123, tiny_image_encoder
from shared import linked_copy

import latentrt
from latentrt.building.plan import _profiles_for
from latentrt.engines.backends.ort_cpu.halves import HalvedEngine
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.conditioning import PoseKind, Resizing, Task
from latentrt.engines.errors import CheckpointError, RequestError
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.variants.variant import add_inputs
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes, profile_from_text
from latentrt.engines.store.components import OpenComponents
from latentrt.export.modules.one_token import fold_cross_attentions
from latentrt.export.modules.video_unet import VideoUnetModule
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_model
from latentrt.verifying import verify

TASKS = {
    "svd": Task.VIDEOS,
    "zero123": Task.VIEWS,
    "stable-zero123": Task.VIEWS,
    "instruct-pix2pix": Task.EDITS,
    "sd-image-variations": Task.VARIATIONS,
}
COMPONENTS = {
    "svd": {"image_encoder"},
    "zero123": {"image_encoder", "pose_projection"},
    "stable-zero123": {"image_encoder", "pose_projection"},
    "instruct-pix2pix": {"text_encoder"},
    "sd-image-variations": {"image_encoder"},
}


@pytest.mark.parametrize("family", TASKS)
def test_a_folder_becomes_a_bundle(picture_bundle: Callable[[str], Path], family: str) -> None:
    """With what the family needs, and records of how pictures get into it."""
    manifest = open_bundle(picture_bundle(family)).manifest
    told = manifest.conditioning
    assert manifest.family == family
    assert told.task is TASKS[family]
    assert manifest.components.keys() == COMPONENTS[family] | {"unet", "vae_encoder", "vae_decoder"}
    assert bool(manifest.tokenizers) is (family == "instruct-pix2pix")
    if told.image_encoder is not None:
        ways = {"svd": Resizing.BLURRED, "sd-image-variations": Resizing.CENTER_CROP}
        assert told.image_encoder.resizing is ways.get(family, Resizing.SQUEEZED)
        assert told.image_encoder.size == IMAGE_SIZE
        assert told.image_encoder.mean == (0.48145466, 0.4578275, 0.40821073)
    assert (told.concatenated is None) is (family == "sd-image-variations")
    if told.concatenated is not None:
        assert (told.concatenated.scaled, told.concatenated.zeroed) == (False, True)
        assert told.concatenated.noised is (family == "svd")
    kinds = {"zero123": PoseKind.DISTANCE, "stable-zero123": PoseKind.IMAGE_ELEVATION}
    assert (told.pose.kind if told.pose else None) is kinds.get(family)


@pytest.mark.parametrize("family", ["svd", pytest.param("zero123", marks=pytest.mark.slow)])
def test_it_verifies(picture_bundle: Callable[[str], Path], family: str) -> None:
    """Every component repeats its recorded runs."""
    assert verify(picture_bundle(family)).keys() >= {"unet", "vae_decoder", "image_encoder"}


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_have_a_name(tiny_svd_bundle: Path, tiny_svd_checkpoint: Path, threads: int) -> None:
    """One graph answers as diffusers does for frames and sizes that no profile has; so do the halves of guidance."""
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel.from_pretrained(tiny_svd_checkpoint / "unet")
    opened: OpenComponents[Bundle] = OpenComponents(open_bundle(tiny_svd_bundle), Backend.ORT_CPU, threads=threads)
    random = np.random.default_rng(0)
    for frames, (width, height) in ((2, (32, 32)), (6, (40, 24))):
        engine = opened.engine(UNET, Shapes(profile=Profile(width=width, height=height, frames=frames)))
        assert isinstance(engine, HalvedEngine) is (threads > 1)
        inputs = {
            name: random.standard_normal(tensor.sized(2)).astype(np.float32)
            for name, tensor in engine.spec.inputs.items()
        }
        inputs["timestep"][:] = (1.6378, -1.5537)
        inputs["time_ids"][:] = ((6, 127, 0.02), (24, 30, 0.1))
        sample, timestep, states, ids = map(torch.from_numpy, inputs.values())
        with torch.inference_mode():
            expected = unet(sample, timestep, states, added_time_ids=ids).sample.numpy()
        found = engine.run(inputs)["out_sample"]
        assert found.shape == expected.shape == (2, frames, 4, height // 2, width // 2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    opened.close()


class TestOneToken:
    """A softmax over one key is 1, so that queries and keys say nothing."""

    def test_of_views(self, tiny_zero123_checkpoint: Path) -> None:
        """The folded U-Net answers to the last digits, without the weights that are dead; two tokens are another."""
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(tiny_zero123_checkpoint / "unet")
        torch.manual_seed(0)
        given = (torch.randn(2, 8, 16, 16), torch.tensor([700.0, 3.0]), torch.randn(2, 1, WIDTH))
        with torch.inference_mode():
            expected = unet(*given).sample
            before = sum(parameter.numel() for parameter in unet.parameters())
            fold_cross_attentions(unet)
            torch.testing.assert_close(unet(*given).sample, expected, rtol=0, atol=2e-6)
        assert sum(parameter.numel() for parameter in unet.parameters()) < before
        assert not [name for name, _ in unet.named_parameters() if "attn2.to_q" in name or "attn2.to_k" in name]

    def test_of_videos(self, tiny_svd_checkpoint: Path) -> None:
        """In the blocks over pixels and in those over frames."""
        from diffusers import UNetSpatioTemporalConditionModel

        unet = UNetSpatioTemporalConditionModel.from_pretrained(tiny_svd_checkpoint / "unet")
        torch.manual_seed(0)
        sample, states = torch.randn(2, 5, 8, 8, 12), torch.randn(2, 1, WIDTH)
        timestep, ids = torch.tensor([1.6, -1.5]), torch.tensor([[6, 127, 0.02], [7, 30, 0.1]])
        with torch.inference_mode():
            expected = unet(sample, timestep, states, added_time_ids=ids).sample
            (found,) = VideoUnetModule(unet)(sample, timestep, states, ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)

    def test_nothing_is_left_for_image_prompts(self, tiny_zero123_bundle: Path) -> None:
        """All else may be added; nor has the engine inputs of no width, which OpenVINO does not read."""
        component = Component(root=tiny_zero123_bundle, manifest=open_bundle(tiny_zero123_bundle).manifest, name=UNET)
        assert component.structure.cross_attentions == ()
        assert [block.attentions for block in component.structure.down] == [True, False]
        shapes = Shapes(profile=component.manifest.profiles[0], added=frozenset(AddedInputs))
        assert not [name for name in component.spec_of_any_batch(shapes).inputs if name.startswith("image_prompt")]
        model = load_graph(component.onnx)
        add_inputs(model, component.structure, frozenset(AddedInputs))
        names = {str(value.name) for value in model.graph.inputs}
        assert "perturbed_attentions" in names
        assert not [name for name in names if name.startswith("image_prompt")]

    def test_what_is_dead_is_not_in_the_bundle(self, picture_bundle: Callable[[str], Path]) -> None:
        """Its weights are left out; those of a model that reads prompts are all there."""
        for family, folded in (("svd", True), ("zero123", True), ("instruct-pix2pix", False)):
            weights = open_bundle(picture_bundle(family)).weights(UNET).named.weights
            dead = [name for name in weights if "attn2.to_q" in name or "attn2.to_k" in name or ".norm2" in name]
            assert bool([name for name in dead if "transformer_blocks" in name]) is not folded
            assert [name for name in weights if "attn2.to_v" in name]


def found(folder: Path, **choices: Any) -> Checkpoint:
    """The checkpoint, checked."""
    return checkpoint_from_model(str(folder), Choices(**choices))


class TestZero123:
    """One architecture, two classes of pipelines, two meanings of the fourth number."""

    def test_both_classes(self, tiny_zero123_checkpoint: Path, tmp_path: Path) -> None:
        """They call the projection and its tensors by different names; it is the same part."""
        other = save_zero123(tmp_path / "other", pipeline="Zero123Pipeline")
        first, second = (found(folder).parts["pose_projection"] for folder in (tiny_zero123_checkpoint, other))
        assert [set(part.files) for part in (first, second)] == [
            {f"{name}/config.json", f"{name}/diffusion_pytorch_model.safetensors"}
            for name in ("cc_projection", "clip_camera_projection")
        ]
        assert torch.equal(first.module().weight, second.module().weight)
        assert first.weight_shapes == second.weight_shapes == {"weight": (WIDTH, WIDTH + 4), "bias": (WIDTH,)}

    @pytest.mark.parametrize(
        ("name", "chosen", "family"),
        [
            ("zero123-xl", None, "zero123"),
            ("Stable-Zero123-diffusers", None, "stable-zero123"),
            ("zero123-xl", "stable-zero123", "stable-zero123"),
            ("stable-zero123", "zero123", "zero123"),
        ],
    )
    def test_a_name_or_the_user_tells_which(
        self, tiny_zero123_checkpoint: Path, tmp_path: Path, name: str, chosen: str | None, family: str
    ) -> None:
        """And what was decided is recorded."""
        folder = linked_copy(tiny_zero123_checkpoint, tmp_path / name)
        checkpoint = found(folder, family=chosen)
        assert checkpoint.family.name == checkpoint.decisions["family"].value == family
        reason = checkpoint.decisions["family"].reason
        assert ("--family" in reason) is True
        assert ("chosen" in reason) is (chosen is not None)

    def test_a_projection_of_something_else(self, tiny_zero123_checkpoint: Path, tmp_path: Path) -> None:
        """Two matrices, and one that does not give what the U-Net attends to."""
        from safetensors.torch import load_file, save_file

        folder = Path(shutil.copytree(tiny_zero123_checkpoint, tmp_path / "zero123"))
        file = folder / "cc_projection" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        save_file({**tensors, "more": torch.zeros(2, 2)}, file)
        with pytest.raises(CheckpointError, match="holds 2 matrices, expected the one of Zero123's cc_projection"):
            found(folder)
        save_file({"projection.weight": torch.zeros(WIDTH + 1, WIDTH + 4), "projection.bias": torch.zeros(33)}, file)
        with pytest.raises(CheckpointError, match=r"has out_features 33 but unet has cross_attention_dim 32"):
            found(folder)


@pytest.mark.parametrize(
    ("family", "part"), [("svd", "image_encoder"), ("zero123", "cc_projection"), ("sd-image-variations", "vae")]
)
def test_a_part_that_is_missing(
    picture_checkpoint: Callable[[str], Path], tmp_path: Path, family: str, part: str
) -> None:
    """It is named."""
    folder = linked_copy(picture_checkpoint(family), tmp_path / family)
    shutil.rmtree(folder / part)
    named = "pose_projection" if part == "cc_projection" else part
    with pytest.raises(CheckpointError, match=rf"{named}/config\.json is missing"):
        found(folder)


def test_a_decoder_of_pictures(tiny_svd_checkpoint: Path, tiny_zero123_checkpoint: Path, tmp_path: Path) -> None:
    """A model of videos with an autoencoder of pictures is none."""
    folder = linked_copy(tiny_svd_checkpoint, tmp_path / "svd")
    shutil.rmtree(folder / "vae")
    shutil.copytree(tiny_zero123_checkpoint / "vae", folder / "vae")
    with pytest.raises(CheckpointError, match="the VAE is a AutoencoderKL, expected AutoencoderKLTemporalDecoder"):
        found(folder)


def test_an_image_encoder_of_a_model_for_text(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """It is an IP-Adapter's, which diffusers saves beside the model's parts: none of it is read."""
    folder = linked_copy(tiny_checkpoint, tmp_path / "sd1")
    tiny_image_encoder("gelu").save_pretrained(folder / "image_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index))
    checkpoint = found(folder)
    assert checkpoint.family.name == "sd1"
    assert "image_encoder" not in checkpoint.parts


def test_settings_of_pictures(tiny_svd_checkpoint: Path, tmp_path: Path) -> None:
    """Mean and deviation are those of feature_extractor/, which must be numbers."""
    folder = linked_copy(tiny_svd_checkpoint, tmp_path / "svd")
    file = folder / "feature_extractor" / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    record = found(folder).image_encoder
    assert record is not None
    assert record.mean == (0.1, 0.2, 0.3)
    file.write_text(json.dumps({**settings, "image_std": [0.1, 0.0, 0.3]}))
    with pytest.raises(CheckpointError, match=r"image_std .*expected three numbers above 0"):
        found(folder).image_encoder  # noqa: B018


class TestProfiles:
    """Frames are part of a profile, of models that draw videos."""

    def test_of_videos(self, tiny_svd_checkpoint: Path, tmp_path: Path) -> None:
        """Without any, 16 : 9 with as many pixels as the U-Net's square, and the frames that it was trained on."""
        checkpoint = found(tiny_svd_checkpoint)
        assert [str(one) for one in _profiles_for(checkpoint, ())] == ["44x24x4f"]
        given = [profile_from_text(text) for text in ("32x32", "32x32x6f", "64x32x2x3f")]
        assert [str(one) for one in _profiles_for(checkpoint, given)] == ["32x32x4f", "32x32x6f", "64x32x2x3f"]
        with pytest.raises(RequestError, match="a size twice"):
            _profiles_for(checkpoint, [profile_from_text("32x32"), profile_from_text("32x32x4f")])
        assert found(save_svd(tmp_path / "xt", frames=25)).default_frames == 25

    def test_of_pictures(self, tiny_zero123_checkpoint: Path) -> None:
        """They have none."""
        with pytest.raises(RequestError, match="32x32x3f for a model of Zero123, which draws no videos"):
            latentrt.build(tiny_zero123_checkpoint, "never", profiles=["32x32x3f"])


def test_the_schedule_of_videos(tiny_svd_checkpoint: Path) -> None:
    """EDM's levels, from the scheduler's ends of Karras' curve."""
    checkpoint = found(tiny_svd_checkpoint)
    edm = checkpoint.schedule().edm
    assert edm is not None
    assert (edm.sigma_min, edm.sigma_max, edm.sigma_data) == (0.002, 700.0, 1.0)
    assert checkpoint.sampler == "euler"
    assert checkpoint.guided
