"""Models on the hub and in its cache: how they are named, which files are fetched, what is refused."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from hub_stand_in import Hub, commit_of, hub_stand_in, lighter
from safetensors.torch import load_file, save_file
from single_files import save_single_file

from latentrt.engines.errors import CheckpointError
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.hub.reference import HubReference, reference_from_text
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.source import checkpoint_from_model

NAME = "owner/name"
UNET = "unet/diffusion_pytorch_model"
PLAIN = {f"{UNET}.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
FP16 = {name.replace(".safetensors", ".fp16.safetensors") for name in PLAIN}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder. Do not write to it."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("hub") / "sd1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without a repository."""
    with hub_stand_in(tmp_path / "cache", monkeypatch) as hub:
        yield hub


@pytest.fixture
def remote(hub: Hub, saved: Path, tmp_path: Path) -> Path:
    """The files of its only repository, to change."""
    return hub.add(NAME, lighter(saved, tmp_path / "remote"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids connections from then on."""
    return lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def opened(model: object, **choices: Any) -> Checkpoint:
    """The checkpoint of a model."""
    return checkpoint_from_model(str(model), Choices(**choices))


def first(checkpoint: Checkpoint, part: str = "unet") -> torch.Tensor:
    """A weight that tells models apart."""
    module = checkpoint.parts[part].module()
    return module.conv_in.weight if part == "unet" else module.encoder.conv_in.weight


def as_variant(folder: Path, name: str, variant: str, *, alone: bool = False, factor: float = 1) -> None:
    """Publishes a file in fp16, beside the plain one or in its place."""
    path = folder / name
    target = path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors"))
    save_file({key: (factor * tensor).half() for key, tensor in load_file(path).items()}, target)
    if alone:
        path.unlink()


ADDRESS = "https://huggingface.co/owner/name"
REFERENCES = {
    "owner/name": (None, None),
    "owner/name/": (None, None),
    "owner/name@fp16": ("fp16", None),
    "owner/name/unet": (None, "unet"),
    "owner/name@v1.0/a/unet": ("v1.0", "a/unet"),
    "owner/name/a/unet@v1.0": ("v1.0", "a/unet"),
    "owner/name@refs/pr/3": ("refs/pr/3", None),
    "owner/name@refs/pr/3/vae": ("refs/pr/3", "vae"),
    "owner/name/x.safetensors": (None, "x.safetensors"),
    ADDRESS: (None, None),
    f"{ADDRESS}/": (None, None),
    f"{ADDRESS}?library=diffusers#files": (None, None),
    f"{ADDRESS}/tree/main": ("main", None),
    f"{ADDRESS}/tree/fp16/unet": ("fp16", "unet"),
    f"{ADDRESS}/blob/main/a%20b.safetensors": ("main", "a b.safetensors"),
    f"{ADDRESS}/resolve/refs%2Fpr%2F3/x.ckpt?download=true": ("refs/pr/3", "x.ckpt"),
    f"{ADDRESS}/resolve/refs/pr/3/x.ckpt": ("refs/pr/3", "x.ckpt"),
    f"{ADDRESS}/raw/main/unet/x.safetensors": ("main", "unet/x.safetensors"),
    "http:/huggingface.co/owner/name": (None, None),  # as pathlib writes it
    "huggingface.co/owner/name/blob/main/x.safetensors": ("main", "x.safetensors"),
    "hf.co/owner/name": (None, None),
    "hf://owner/name@fp16/unet": ("fp16", "unet"),
}


@pytest.mark.parametrize("text", REFERENCES)
def test_spellings(text: str) -> None:
    """Ids, paths in repositories and addresses that people copy from their browsers."""
    revision, path = REFERENCES[text]
    assert reference_from_text(text) == HubReference(repository=NAME, revision=revision, path=path)


@pytest.mark.parametrize(
    "text", ["name", "/owner/name", "./owner/name", "../owner/name", "~/name", "a b/c", "models/sd.ckpt", "a//b", ""]
)
def test_paths_are_no_references(text: str) -> None:
    """Whoever mistypes a path is not told about the hub."""
    assert reference_from_text(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.com/model.safetensors", r"example\.com.*download the file and give its path"),
        ("https://huggingface.co/datasets/owner/name", "no model's page"),
        ("https://huggingface.co/models", "no model's page"),
        ("https://huggingface.co/owner/name/discussions/3", "no model's page"),
        ("hf://datasets/owner/name", "no model's page"),
    ],
)
def test_other_addresses(text: str, reason: str) -> None:
    """Are refused with what to do."""
    with pytest.raises(CheckpointError, match=reason):
        opened(text)


class TestWhatIsFetched:
    """Of each part one set of weights, and of nothing else any."""

    def test_the_plain_weights_or_a_variant(self, hub: Hub, remote: Path, saved: Path) -> None:
        """Whatever else the repository has; and the folder says the same."""
        for name in PLAIN:
            as_variant(remote, name, "fp16", factor=2)
        for name in ("safety_checker/model", "unet/diffusion_flax_model", "sd-v1-5", "unet/openvino_model"):
            (remote / name).parent.mkdir(exist_ok=True)
            (remote / f"{name}.safetensors").write_bytes(b"large")
        torch.save(load_file(saved / f"{UNET}.safetensors"), remote / f"{UNET}.bin")
        found = opened(NAME)
        assert hub.weights() == PLAIN
        assert (found.name, found.revision) == (NAME, commit_of("main"))
        assert found.decisions == opened(remote).decisions
        assert found.files == opened(remote).files
        assert torch.equal(first(opened(NAME, variant="fp16")), 2 * first(found).half().float())
        assert hub.weights() == FP16
        with pytest.raises(CheckpointError, match=r"got variant 'bf16', 'owner/name' has fp16; choose"):
            opened(NAME, variant="bf16")
        assert hub.weights() == set()

    def test_fp16_alone(self, hub: Hub, remote: Path) -> None:
        """Is taken by itself, as of a folder."""
        for name in PLAIN:
            as_variant(remote, name, "fp16", alone=True)
        assert opened(NAME).decisions["variant"] == opened(remote).decisions["variant"]
        assert hub.weights() == FP16

    def test_two_variants_and_no_plain_weights(self, hub: Hub, remote: Path) -> None:
        """Have to be chosen from, before gigabytes are fetched."""
        for name in PLAIN:
            as_variant(remote, name, "bf16")
            as_variant(remote, name, "fp16", alone=True)
        with pytest.raises(CheckpointError, match=r"'owner/name' has the variants bf16, fp16 .*--variant"):
            opened(NAME)
        assert hub.weights() == set()

    def test_an_averaged_u_net_in_a_folder_of_its_own(self, hub: Hub, remote: Path) -> None:
        """As training scripts leave it; of the two U-Nets one is fetched."""
        lighter(remote / "unet", remote / "unet_ema")
        (remote / f"{UNET}.safetensors").unlink()
        save_file({"conv_in.weight": torch.zeros(1)}, remote / f"{UNET}.safetensors")
        opened(NAME, ema=Ema.EMA)
        ema = f"unet_ema{UNET.removeprefix('unet')}.safetensors"
        assert hub.weights() == PLAIN - {f"{UNET}.safetensors"} | {ema}

    @pytest.mark.parametrize("form", ["safetensors", "bin"])
    def test_averaged_weights(self, hub: Hub, remote: Path, form: str) -> None:
        """The others only where they are asked for, and then alone."""
        as_variant(remote, f"{UNET}.safetensors", "non_ema", factor=4)
        if form == "bin":
            path = remote / f"{UNET}.non_ema.safetensors"
            torch.save(load_file(path), path.with_suffix(".bin"))
            path.unlink()
        plain = first(opened(NAME, ema=Ema.EMA))
        assert hub.weights() == PLAIN
        assert torch.equal(first(opened(NAME, ema=Ema.NON_EMA)), (4 * plain).half().float())
        assert hub.weights() == {f"{UNET}.non_ema.{form}"}

    def test_pickles_where_there_is_nothing_else(self, hub: Hub, remote: Path, saved: Path) -> None:
        """Old models."""
        torch.save(load_file(saved / f"{UNET}.safetensors"), remote / f"{UNET}.bin")
        (remote / f"{UNET}.safetensors").unlink()
        assert opened(NAME).decisions["format"].value == "pickles"
        assert hub.weights() == PLAIN - {f"{UNET}.safetensors"} | {f"{UNET}.bin"}

    def test_shards(self, hub: Hub, remote: Path, saved: Path) -> None:
        """All of them and their index."""
        from diffusers import UNet2DConditionModel

        (remote / f"{UNET}.safetensors").unlink()
        module = UNet2DConditionModel.from_pretrained(saved / "unet")
        module.save_pretrained(remote / "unet", max_shard_size="500KB")
        assert torch.equal(first(opened(NAME)), first(opened(saved)))
        shards = {path.relative_to(remote).as_posix() for path in (remote / "unet").glob("*-of-*.safetensors")}
        assert len(shards) > 2
        assert hub.weights() == PLAIN - {f"{UNET}.safetensors"} | shards

    def test_a_base_supplies_what_is_lacking(self, hub: Hub, remote: Path, saved: Path) -> None:
        """Its U-Net, the largest part, stays where it is."""
        found = opened(saved / "unet", base=NAME)
        assert hub.weights() == PLAIN - {f"{UNET}.safetensors"}
        assert "base/text_encoder/model.safetensors" in found.files
        assert not any(name.startswith("base/unet") for name in found.files)
        assert found.family.name == "sd1"

    def test_a_part_alone(self, hub: Hub, saved: Path, tmp_path: Path) -> None:
        """As LCM for SDXL is published: its config and its weights lie at the top."""
        remote = hub.add(NAME, lighter(saved / "unet", tmp_path / "remote"))
        (remote / "other_model.safetensors").write_bytes(b"large")
        assert torch.equal(first(opened(NAME, base=str(saved))), first(opened(saved)))
        assert hub.weights() == {"diffusion_pytorch_model.safetensors"}

    def test_an_autoencoder(self, hub: Hub, remote: Path, saved: Path, tmp_path: Path) -> None:
        """Of a whole model, alone, in a file, and one file of a folder."""
        hub.add("owner/vae", lighter(saved / "vae", tmp_path / "vae"))
        single = hub.add("owner/single", tmp_path / "single")
        single.mkdir()
        save_single_file(saved, single / "vae.safetensors")
        forms = {
            NAME: {"vae/diffusion_pytorch_model.safetensors"},
            f"{NAME}/vae": set(),  # is there
            "owner/vae": {"diffusion_pytorch_model.safetensors"},
            "owner/single": {"vae.safetensors"},
            "https://huggingface.co/owner/single/blob/main/vae.safetensors": set(),
        }
        expected = first(opened(saved), "vae")
        for form, fetched in forms.items():
            found = opened(saved, vae=form)
            assert torch.equal(first(found, "vae"), expected)
            assert hub.weights() == fetched
            assert found.decisions["vae"].value in form.replace("/blob/main", "")
        with pytest.raises(CheckpointError, match=r"--vae: got model 'owner/none'"):
            opened(saved, vae="owner/none")

    def test_its_own_autoencoder_stays_where_another_is_given(self, hub: Hub, remote: Path, saved: Path) -> None:
        """Only its config is read."""
        opened(NAME, vae=str(saved / "vae"))
        assert hub.weights() == PLAIN - {"vae/diffusion_pytorch_model.safetensors"}

    def test_a_single_file(self, hub: Hub, saved: Path, tmp_path: Path) -> None:
        """Alone it needs no name; of several one is named, in the id or by its address."""
        remote = hub.add(NAME, tmp_path / "remote")
        (remote / "old").mkdir(parents=True)
        path = save_single_file(saved, remote / "model.safetensors")
        (remote / "README.md").write_text("A model")
        (remote / "config.json").write_text("{}")  # there to count downloads
        found = opened(NAME, base=str(saved))
        assert hub.weights() == {"model.safetensors"}
        assert (found.name, found.revision) == (NAME, commit_of("main"))
        assert "model.safetensors" in found.files
        several = "owner/several"
        hub.add(several, lighter(remote, tmp_path / "several"))
        for name in ("other.ckpt", "old/third.safetensors"):
            (tmp_path / "several" / name).hardlink_to(path)
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors, other\.ckpt.* owner/several/model\.safetensors"
        ):
            opened(several)
        assert hub.weights() == set()
        for name in ("other.ckpt", "old/third.safetensors"):
            assert opened(f"{several}/{name}", base=str(saved)).name == f"{several}/{name}"
            assert hub.weights() <= {name}  # of equal files one is fetched
        opened(f"https://huggingface.co/{several}/resolve/main/other.ckpt?download=true", base=str(saved))

    def test_a_folder_in_a_repository(self, hub: Hub, saved: Path, tmp_path: Path) -> None:
        """A whole model, a part, and the weights of a part."""
        remote = hub.add(NAME, tmp_path / "remote")
        lighter(saved, remote / "v1" / "diffusers")
        (remote / "other.safetensors").write_bytes(b"large")
        inside = f"{NAME}/v1/diffusers"
        for form in (inside, f"{inside}/unet", f"{inside}/{UNET}.safetensors"):
            found = opened(form, base=str(saved))
            assert torch.equal(first(found), first(opened(saved)))
            assert (found.name, found.revision) == (form, commit_of("main"))
        assert hub.weights() == {f"v1/diffusers/{name}" for name in PLAIN}
        with pytest.raises(CheckpointError, match=r"owner/name has no v2; it holds other\.safetensors, v1/"):
            opened(f"{NAME}/v2")

    def test_a_model_that_lies_deeper(self, hub: Hub, saved: Path, tmp_path: Path) -> None:
        """Is named."""
        remote = hub.add(NAME, tmp_path / "remote")
        lighter(saved, remote / "diffusers")
        with pytest.raises(CheckpointError, match=r"expected a diffusers folder .* such as owner/name/diffusers"):
            opened(NAME)

    def test_weights_of_another_framework(self, hub: Hub, remote: Path) -> None:
        """Are named, before the weights of the other parts are fetched."""
        (remote / f"{UNET}.safetensors").rename(remote / "unet" / "openvino_model.bin")
        with pytest.raises(CheckpointError, match=r"no weights of unet .*unet/openvino_model\.bin.*choose a model"):
            opened(NAME)
        assert hub.weights() == set()

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ('"KandinskyPipeline"', r"'owner/name' is a KandinskyPipeline, expected one of"),
            ('["pipeline", "Mine"]', r"has a pipeline of its own \(pipeline\.Mine"),
        ],
    )
    def test_another_pipeline(self, hub: Hub, remote: Path, kind: str, reason: str) -> None:
        """Is named, before its weights are fetched."""
        (remote / "model_index.json").unlink()
        (remote / "model_index.json").write_text(f'{{"_class_name": {kind}, "unet": ["diffusers", "X"]}}')
        with pytest.raises(CheckpointError, match=reason):
            opened(NAME)
        assert hub.weights() == set()

    def test_other_models_are_refused_by_their_configs(self, hub: Hub, remote: Path) -> None:
        """Before their weights are fetched."""
        (remote / "model_index.json").unlink()
        shutil.rmtree(remote / "unet")
        for part in ("vae", "text_encoder", "text_encoder_2"):
            shutil.rmtree(remote / part, ignore_errors=True)
        (remote / "config.json").write_text('{"_class_name": "ControlNetModel"}')
        (remote / "diffusion_pytorch_model.safetensors").write_bytes(b"large")
        with pytest.raises(CheckpointError, match="holds a ControlNetModel"):
            opened(NAME)
        assert hub.weights() == set()


def test_a_revision(hub: Hub, remote: Path, saved: Path, tmp_path: Path) -> None:
    """A branch, a commit, a pull request; in an id and in an address."""
    other = hub.add(NAME, lighter(saved, tmp_path / "other"), "refs/pr/1")
    (other / f"{UNET}.safetensors").unlink()
    weights = load_file(saved / f"{UNET}.safetensors")
    save_file({key: 2 * tensor for key, tensor in weights.items()}, other / f"{UNET}.safetensors")
    plain = first(opened(NAME))
    address = f"https://huggingface.co/{NAME}/tree/refs%2Fpr%2F1"
    for form in (f"{NAME}@refs/pr/1", f"{NAME}@{commit_of('refs/pr/1')}", address):
        found = opened(form)
        assert torch.equal(first(found), 2 * plain)
        assert (found.name, found.revision) == (NAME, commit_of("refs/pr/1"))
    with pytest.raises(CheckpointError, match=r"owner/name has no revision 'fp32'; choose"):
        opened(f"{NAME}@fp32")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("owner/none", r"no file or folder here and no repository that the hub shows.*hf auth login"),
        ("owner/gated", r"refuses 'owner/gated' without its licence accepted.*hf auth login"),
        ("owner/a..b", "no name that a repository can have"),
    ],
)
def test_refusals(hub: Hub, remote: Path, model: str, reason: str) -> None:
    """By name, with what to do."""
    hub.add("owner/gated", remote)
    hub.gated.add("owner/gated")
    with pytest.raises(CheckpointError, match=reason):
        opened(model)


class TestTheCache:
    """Without a connection, and by paths."""

    def test_offline(self, hub: Hub, remote: Path, offline: Callable[[], None]) -> None:
        """What is there is used; what is not is named."""
        opened(NAME)
        offline()
        assert opened(NAME).revision == commit_of("main")
        assert opened(f"{NAME}/unet", base=NAME).name == f"{NAME}/unet"
        with pytest.raises(CheckpointError, match=r"'owner/none'.*\(owner/name\), and HF_HUB_OFFLINE.*hf download"):
            opened("owner/none")
        with pytest.raises(CheckpointError, match=r"hf download owner/none a\.safetensors --revision v2$"):
            opened("owner/none@v2/a.safetensors")
        with pytest.raises(CheckpointError, match=rf"revision 'v2' of owner/name, the cache has {commit_of('main')}"):
            opened(f"{NAME}@v2")
        with pytest.raises(CheckpointError, match=r"got variant 'fp16'"):
            opened(NAME, variant="fp16")

    def test_fp16_alone_is_in_the_cache(self, hub: Hub, remote: Path, offline: Callable[[], None]) -> None:
        """As diffusers leaves it after ``variant="fp16"``; offline there is nothing else."""
        for name in PLAIN:
            as_variant(remote, name, "fp16")
        opened(NAME, variant="fp16")
        offline()
        assert opened(NAME).decisions["variant"].value == "fp16"

    def test_no_connection(self, hub: Hub, remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As offline, with a warning; what is not there could not be fetched."""
        opened(NAME)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.warns(UserWarning, match=r"the hub gives no answer about 'owner/name' \(ConnectError\)"):
            assert opened(NAME).revision == commit_of("main")
        with pytest.raises(CheckpointError, match=r"'owner/none'.*could not be fetched.*\(ConnectError\).*connection"):
            opened("owner/none")

    def test_folders_of_the_cache_as_paths(
        self, hub: Hub, remote: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The repository's, its snapshots, one of these, a part in it, and a file."""
        opened(NAME)
        folder = hub.cached(NAME)
        snapshot = folder / "snapshots" / commit_of("main")
        for path in (folder, f"{folder}/", folder / "snapshots", snapshot, f"{folder}@main"):
            found = opened(path)
            assert (found.name, found.revision) == (NAME, commit_of("main"))
            assert torch.equal(first(found), first(opened(saved)))
        part = opened(snapshot / "unet", base=str(folder))
        assert (part.name, part.decisions["base"].value) == (f"{NAME}/unet", NAME)
        file = snapshot / f"{UNET}.safetensors"
        assert opened(file, base=str(saved)).revision == commit_of("main")
        vae = opened(saved, vae=str(snapshot / "vae" / "diffusion_pytorch_model.safetensors"))
        assert vae.decisions["vae"].value == f"{NAME}/vae/diffusion_pytorch_model.safetensors"
        monkeypatch.chdir(folder)
        assert opened("snapshots").name == NAME
        with pytest.raises(CheckpointError, match=r"is the hub's cache of owner/name, expected one model"):
            opened(hub.cache)

    def test_several_snapshots(self, hub: Hub, remote: Path, saved: Path, tmp_path: Path) -> None:
        """The main branch's is taken; where none is, the user chooses."""
        other = hub.add(NAME, lighter(saved, tmp_path / "other"), "fp16")
        for name in PLAIN:
            as_variant(other, name, "fp16", alone=True)
        opened(f"{NAME}@fp16")
        folder = hub.cached(NAME)
        assert opened(folder).revision == commit_of("fp16")  # the only one
        opened(NAME)
        assert opened(folder).revision == commit_of("main")
        for revision in ("fp16", commit_of("fp16"), commit_of("fp16")[:8]):
            assert opened(f"{folder}@{revision}").revision == commit_of("fp16")
        (folder / "refs" / "main").unlink()
        with pytest.raises(CheckpointError) as refused:
            opened(folder)
        assert f"{commit_of('fp16')} (fp16)" in str(refused.value)
        assert f"{commit_of('main')}" in str(refused.value)
        assert "none is the main branch's; give one, such as" in str(refused.value)
        shutil.rmtree(folder / "snapshots" / commit_of("fp16"))
        assert opened(folder).revision == commit_of("main")
        shutil.rmtree(folder / "snapshots" / commit_of("main"))
        with pytest.raises(CheckpointError, match=r"holds no snapshot.*hf download owner/name"):
            opened(folder)

    def test_a_single_file(self, hub: Hub, saved: Path, tmp_path: Path, offline: Callable[[], None]) -> None:
        """In a cache that was copied by hand: files in place of links, no refs, a name that is no commit's."""
        offline()
        snapshot = hub.cached(NAME) / "snapshots" / "copied"
        snapshot.mkdir(parents=True)
        save_single_file(saved, snapshot / "model.safetensors")
        for form in (NAME, f"{NAME}/model.safetensors", hub.cached(NAME), snapshot, snapshot / "model.safetensors"):
            found = opened(form, base=str(saved))
            assert found.revision == "copied"
            assert found.name in (NAME, f"{NAME}/model.safetensors")
        renamed = hub.cached(NAME).rename(tmp_path / "mine")
        (renamed / "snapshots" / "copied").rename(renamed / "snapshots" / commit_of("main"))
        assert opened(renamed, base=str(saved)).name == "mine"

    def test_a_link_to_a_file_that_is_gone(self, hub: Hub, remote: Path) -> None:
        """As after the cache was cleaned by hand."""
        opened(NAME)
        shutil.rmtree(hub.cached(NAME) / "blobs")
        file = hub.cached(NAME) / "snapshots" / commit_of("main") / f"{UNET}.safetensors"
        with pytest.raises(CheckpointError, match=r"a link to .*which is not there; download the model again"):
            opened(file)
