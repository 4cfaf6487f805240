"""Models that are told a picture, on the hub and in folders of one part: which files are read, and what tells."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, hub_stand_in, lighter
from picture_model_files import view_tensors
from same_checkpoints import assert_equal_parts
from single_files import save_tensors

from latentrt.engines.bundle.records.conditioning import PoseKind
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_headers, checkpoint_from_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without a repository."""
    with hub_stand_in(tmp_path / "cache", monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize(
    ("family", "projection"), [("svd", ()), ("zero123", ("cc_projection/diffusion_pytorch_model.safetensors",))]
)
def test_a_folder_on_the_hub(
    family: str,
    projection: tuple[str, ...],
    hub: Hub,
    picture_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Its image encoder is fetched, with the settings of its pictures, and single files beside the folder are not."""
    folder = picture_checkpoint(family)
    remote = hub.add("owner/name", lighter(folder, tmp_path / "remote"))
    (remote / "svd.safetensors").write_bytes(b"large")
    found, own = checkpoint_from_headers("owner/name"), checkpoint_from_headers(str(folder))
    assert "feature_extractor/preprocessor_config.json" in hub.fetched
    assert hub.weights() == {
        "image_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        *projection,
    }
    assert found.family is own.family
    assert found.image_encoder == own.image_encoder
    assert found.unread == own.unread


def test_a_file_on_the_hub(hub: Hub, picture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Of two in a repository one is named; the repository's name tells as the file's does."""
    remote = hub.add("stabilityai/stable-zero123", tmp_path / "remote")
    remote.mkdir()
    path = save_tensors(view_tensors(picture_checkpoint("zero123")), remote / "model.ckpt")
    (remote / "other.ckpt").write_bytes(b"large")
    found = checkpoint_from_headers("stabilityai/stable-zero123/model.ckpt")
    assert hub.weights() == {"model.ckpt"}
    assert found.family.pose is PoseKind.IMAGE_ELEVATION
    assert "'stabilityai/stable-zero123/model.ckpt'" in found.decisions["family"].reason
    assert checkpoint_from_headers(str(path)).family.pose is PoseKind.DISTANCE


def test_parts_of_a_video_model(picture_checkpoint: Callable[[str], Path]) -> None:
    """Its U-Net's folder takes the rest from a base; its autoencoder stands in for another's."""
    folder = picture_checkpoint("svd")
    whole = checkpoint_from_model(str(folder))
    found = checkpoint_from_model(str(folder / "unet"), Choices(base=str(folder)))
    assert found.family.name == "svd"
    assert_equal_parts(found, whole)
    for vae in (folder / "vae", folder / "vae" / "diffusion_pytorch_model.safetensors"):
        replaced = checkpoint_from_model(str(folder), Choices(vae=str(vae)))
        assert replaced.decisions["vae"].value == vae.name
        assert_equal_parts(replaced, whole)
