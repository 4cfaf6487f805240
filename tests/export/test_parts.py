"""Every part, from wherever, is compared with its module before anything is traced; the file that is given is used."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from safetensors.torch import load_file, save_file
from single_files import averaged, ldm_tensors, save_tensors

import latentrt
from latentrt.benchmarks.studies.architectures import ARCHITECTURES, part_module
from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.dtypes import DTYPES
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.checks.fitting import header_faults
from latentrt.export.sources.partial_model import Choices, Ema
from latentrt.export.sources.source import checkpoint_from_headers, checkpoint_from_model

_UNET = "unet/diffusion_pytorch_model.safetensors"
_VAE = "vae/diffusion_pytorch_model.safetensors"
_ENCODER = "text_encoder/model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder. Do not write to it."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("parts") / "sd1")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return shutil.copytree(saved, tmp_path / "model")


def change(path: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """Writes a file of weights again."""
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def without(*fragments: str) -> Callable[[Tensors], Tensors]:
    """Leaves out the tensors whose names hold one of the fragments."""
    return lambda tensors: {key: t for key, t in tensors.items() if not any(part in key for part in fragments)}


def below(prefix: str) -> Callable[[Tensors], Tensors]:
    """Puts all names under a prefix."""
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


# The file, what is done to it, what the refusal names, and whether its config tells without the module
SPOILED: dict[str, tuple[str, Callable[[Tensors], Tensors], str, bool]] = {
    "another prefix": (_ENCODER, below("text_model.text_model."), "under the prefix 'text_model.text_model.'", True),
    "a wrapper's prefix": (_UNET, below("module."), "under the prefix 'module.'", True),
    "a dropped layer": (_ENCODER, without("layers.1."), "encoder.layers.1.self_attn.q_proj.weight is missing", True),
    "one tensor of a layer": (_ENCODER, without("layers.0.mlp.fc1.bias"), "layers.0.mlp.fc1.bias is missing", True),
    "no quant_conv": (_VAE, without("quant_conv"), "quant_conv.weight is missing", True),
    "a level": (_UNET, without("up_blocks.1."), "up_blocks.1.resnets.0.conv1.weight is missing", True),
    "a norm": (_UNET, without("mid_block.resnets.1.norm2"), "mid_block.resnets.1.norm2.weight is missing", False),
    "another width": (
        _UNET,
        lambda tensors: {**tensors, "time_embedding.linear_2.bias": torch.zeros(5)},
        "time_embedding.linear_2.bias (5,) instead of (128,)",
        False,
    ),
    "whole numbers": (
        _VAE,
        lambda tensors: {**tensors, "encoder.conv_in.bias": torch.zeros(32, dtype=torch.int32)},
        "stored as int32 (encoder.conv_in.bias)",
        False,
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_folders_part_is_compared_with_its_module(kind: str, folder: Path) -> None:
    """Nothing is filled up at random: what is missing, odd or elsewhere is named with its file."""
    file, edit, fragment, at_once = SPOILED[kind]
    change(folder / file, edit)
    with pytest.raises(CheckpointError) as caught:
        (checkpoint_from_headers if at_once else checkpoint_from_model)(str(folder))
    assert fragment in str(caught.value)
    assert file in str(caught.value)
    assert "download" not in str(caught.value)


def test_every_faulty_part_is_named_at_once(folder: Path) -> None:
    """With the first tensors of each, and how many more."""
    change(folder / _ENCODER, without("layers.1."))
    change(folder / _VAE, without("quant_conv"))
    with pytest.raises(CheckpointError, match=r"text_encoder \(.*and 13 more; vae \(.*post_quant_conv\.weight"):
        checkpoint_from_model(str(folder))


@pytest.mark.parametrize("way", ["base", "vae", "vae in a file"])
def test_parts_from_elsewhere_are_compared_likewise(way: str, saved: Path, folder: Path, tmp_path: Path) -> None:
    """A base's and a replaced autoencoder."""
    change(folder / _VAE, without("decoder.mid_block.attentions.0.to_q"))
    choices = {
        "base": Choices(base=str(folder)),
        "vae": Choices(vae=str(folder / "vae")),
        "vae in a file": Choices(vae=str(shutil.copy(folder / _VAE, tmp_path / "vae.safetensors"))),
    }[way]
    model = saved / "unet" if way == "base" else saved
    with pytest.raises(CheckpointError, match=r"decoder\.mid_block\.attentions\.0\.to_q\.weight is missing"):
        checkpoint_from_model(str(model), choices)


def test_a_spoiled_part_that_is_replaced_does_not_matter(saved: Path, folder: Path, tmp_path: Path) -> None:
    """Of a folder and of a single file."""
    change(folder / _VAE, without("decoder.conv_in.bias"))
    file = save_tensors(ldm_tensors(folder), tmp_path / "model.safetensors")
    for model in (folder, file):
        found = checkpoint_from_model(str(model), Choices(vae=str(saved / "vae"), base=str(saved)))
        assert found.decisions["vae"].value == "vae"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_modules_are_those_that_the_libraries_load(family: str, tmp_path: Path) -> None:
    """Weight for weight, and in their configs."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    folder = save_tiny_checkpoint(tmp_path / "model", family)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(folder)
    for name, part in checkpoint_from_model(str(folder)).parts.items():
        ours, theirs = part.module(), getattr(pipe, name)
        assert type(ours) is type(theirs)
        assert not ours.training
        states = ours.state_dict(), theirs.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
        assert all(
            getattr(ours.config, key) == getattr(theirs.config, key)
            for key in part.config
            if not key.startswith("_") and key not in ("architectures", "torch_dtype", "transformers_version")
        )


def test_names_of_earlier_releases(folder: Path, saved: Path) -> None:
    """An autoencoder's attention, as diffusers renames it; positions' numbers beside a text encoder's tensors."""
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def renamed(tensors: Tensors) -> Tensors:
        for new, name in old.items():
            tensors = {key.replace(f".{new}", f".{name}"): tensor for key, tensor in tensors.items()}
        return tensors

    change(folder / _VAE, renamed)
    change(folder / _ENCODER, lambda tensors: {**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]})
    found, whole = checkpoint_from_model(str(folder)), checkpoint_from_model(str(saved))
    assert found.unread == {}
    for part in ("vae", "text_encoder"):
        states = [checkpoint.parts[part].module().state_dict() for checkpoint in (found, whole)]
        assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_configs_tell_of_true_sizes(family: str) -> None:
    """Agrees with the modules."""
    from accelerate import init_empty_weights

    row = ARCHITECTURES[family]
    for part in (*row.text_encoders, "unet", "vae"):
        with init_empty_weights():
            module = part_module(row, part)
        config = module.config.to_dict() if part.startswith("text_encoder") else dict(module.config)
        config.setdefault("_class_name", type(module).__name__)  # as save_pretrained writes it
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        assert header_faults(part, config, shapes) == []


def test_headers_are_refused_without_torch(folder: Path) -> None:
    """In a process that does not have it."""
    change(folder / _ENCODER, below("text_model.text_model."))
    code = f"""
import sys
sys.modules["torch"] = None
from latentrt.export.sources.source import checkpoint_from_headers
from latentrt.engines.errors import CheckpointError
try:
    checkpoint_from_headers({str(folder)!r})
except CheckpointError as error:
    print(error)
print([name for name in ("diffusers", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    message, libraries = done.stdout.splitlines() or ("", "")
    assert "text_model.text_model." in message, done.stderr
    assert libraries == "[]"


def test_fewer_embeddings_than_tokens(folder: Path) -> None:
    """Tokens that were added to a tokenizer alone, which transformers would look up in vain."""
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    rows = config["vocab_size"]
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat-toy>": rows}))
    with pytest.raises(CheckpointError, match=rf"embeds {rows} tokens and the tokenizer has {rows + 1}, expected"):
        checkpoint_from_model(str(folder)).check_tokenizers()


class TestValues:
    """Weights that are no numbers are found before anything is traced."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
    def test_every_type(self, dtype: Any) -> None:
        """What torch calls finite once it is float32, for every pattern of bits or a million of them."""
        kind = getattr(torch, dtype.name)
        if dtype.size == 1:
            numbers = torch.arange(256).to(torch.uint8).view(kind)
        else:
            generator = torch.Generator().manual_seed(0)
            numbers = torch.randint(0, 256, (4096, dtype.size), dtype=torch.uint8, generator=generator).view(kind)
        for number in numbers.reshape(-1):
            bits = number.reshape(1).view(torch.uint8).numpy().view(dtype.bits)
            assert dtype.is_finite(bits) == bool(torch.isfinite(number.float())), number

    def test_among_many(self) -> None:
        """Wherever it stands."""
        import numpy as np

        dtype = next(dtype for dtype in DTYPES if dtype.name == "float32")
        numbers = np.ones((700_000,), np.float32)
        assert dtype.is_finite(numbers)
        assert dtype.is_finite(numbers[:0])
        numbers[-1] = -np.inf
        assert not dtype.is_finite(numbers)

    @pytest.mark.parametrize("way", ["folder", "file", "vae"])
    def test_are_named(self, way: str, folder: Path, saved: Path, tmp_path: Path) -> None:
        """With the file's own name of the tensor; those that nothing reads do not matter."""

        def spoiled(tensors: Tensors) -> Tensors:
            tensors["decoder.conv_in.bias"][3] = torch.inf
            return {**tensors, "loss.logvar": torch.full((1,), torch.nan)}

        change(folder / _VAE, spoiled)
        model, choices = folder, Choices()
        if way == "vae":
            model, choices = saved, Choices(vae=str(folder / "vae"))
        elif way == "file":
            change(folder / _VAE, without("loss."))
            tensors = ldm_tensors(folder) | {"model_ema.decay": torch.tensor(torch.nan)}
            model, choices = save_tensors(tensors, tmp_path / "a.safetensors"), Choices(base=str(saved))
        found = checkpoint_from_model(str(model), choices)
        key = "first_stage_model.decoder.conv_in.bias" if way == "file" else "decoder.conv_in.bias"
        with pytest.raises(CheckpointError, match=rf"NaN or infinite numbers in {key}; choose"):
            found.check_values()

    def test_before_anything_is_traced(self, folder: Path, tmp_path: Path) -> None:
        """Though the U-Net comes last."""

        def spoiled(tensors: Tensors) -> Tensors:
            tensors["conv_out.weight"].fill_(torch.nan)
            return tensors

        change(folder / _UNET, spoiled)
        stages: list[str] = []

        class Stages:
            @contextmanager
            def stage(self, name: str) -> Iterator[None]:
                stages.append(name)
                yield

        with pytest.raises(CheckpointError, match=r"unet .*NaN or infinite numbers in conv_out\.weight"):
            latentrt.build(folder, tmp_path / "new.bundle", profiles=["32x32"], progress=Stages())
        assert stages == ["weights: check"]
        assert not (tmp_path / "new.bundle").exists()


class TestUnread:
    """What the files hold and nothing reads is listed, unless it is known to be idle."""

    def test_of_a_folder(self, folder: Path) -> None:
        """By part."""
        change(folder / _UNET, lambda tensors: {**tensors, "conv_out.alpha": torch.zeros(1)})
        assert checkpoint_from_model(str(folder)).unread == {"unet": ("conv_out.alpha",)}

    @pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
    def test_of_a_file(self, family: str, tmp_path: Path) -> None:
        """By part, and outside of all parts; schedules, averaged weights and CLIP's scale are idle."""
        folder = save_tiny_checkpoint(tmp_path / "folder", family)
        tensors = ldm_tensors(folder)
        unet = {key.removeprefix("model.diffusion_model."): t for key, t in tensors.items() if "diffusion_model" in key}
        idle = ("betas", "sqrt_alphas_cumprod", "posterior_variance", "first_stage_model.loss.logvar", "v_pred")
        tensors |= averaged(unet) | {name: torch.zeros(3) for name in idle}
        path = save_tensors(tensors, tmp_path / "model.safetensors")
        assert checkpoint_from_model(str(path), Choices(base=str(folder))).unread == {}
        assert checkpoint_from_model(str(path), Choices(base=str(folder), ema=Ema.EMA)).unread == {}
        more = {"first_stage_model.decoder.extra.weight": torch.zeros(1), "lora.up": torch.zeros(1)}
        save_tensors(tensors | more, path)
        assert checkpoint_from_model(str(path), Choices(base=str(folder))).unread == {
            "vae": ("first_stage_model.decoder.extra.weight",),
            "model.safetensors": ("lora.up",),
        }

    def test_inspect_shows_them(self, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The first few, and how many there are."""
        from latentrt.cli.tables.description import print_description
        from latentrt.describing import describe

        description = describe(tiny_bundle)
        assert description["unread"] == {}
        description["unread"] = {"unet": [f"extra.{number}" for number in range(11)]}
        print_description(description)
        assert "11 tensors of unet: extra.0, extra.1" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.slow
    def test_a_build_records_them(self, folder: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
        """And says so; so does the next build, which finds the bundle up to date."""
        change(folder / _UNET, lambda tensors: {**tensors, "conv_out.alpha": torch.zeros(1)})
        bundle = tmp_path / "new.bundle"
        for _ in range(2):
            done = command("build", folder, "-o", bundle, "--profile", "32x32")
            assert "unread: 1 of the tensors (no part has a place for conv_out.alpha)" in done.stderr
        assert json.loads((bundle / "bundle.json").read_text())["source"]["unread"] == {"unet": ["conv_out.alpha"]}
        assert "conv_out.alpha" in command("inspect", bundle).stdout


class TestTheFileThatIsGiven:
    """Its weights are taken, or it is refused; never its neighbour's."""

    def weight(self, checkpoint: Checkpoint, part: str = "unet") -> torch.Tensor:
        module = checkpoint.parts[part].module()
        return module.conv_in.weight if part == "unet" else module.encoder.conv_in.weight

    def neighbour(self, path: Path, name: str) -> Path:
        """The same weights doubled beside a file, in the form that the name says."""
        tensors = {key: 2 * tensor for key, tensor in load_file(path).items()}
        return (
            save_tensors(tensors, path.with_name(name))
            if name.endswith("tensors")
            else self.pickled(tensors, path, name)
        )

    def pickled(self, tensors: Tensors, path: Path, name: str) -> Path:
        torch.save(tensors, path.with_name(name))
        return path.with_name(name)

    @pytest.mark.parametrize(
        "name",
        [
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.non_ema.bin",
            "diffusion_pytorch_model-00001-of-00001.safetensors",
            "my_finetune.safetensors",
            "diffusion_pytorch_model_epoch3.safetensors",
        ],
    )
    def test_of_a_u_net(self, name: str, folder: Path, saved: Path) -> None:
        """Beside the plain one, whatever it is called."""
        path = self.neighbour(folder / _UNET, name)
        found = checkpoint_from_model(str(path), Choices(base=str(saved)))
        assert torch.equal(self.weight(found), 2 * self.weight(checkpoint_from_model(str(saved))))
        assert found.decisions["weights"].value == name
        assert f"unet/{name}" in found.files
        assert _UNET not in found.files

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "other.bin"])
    def test_of_an_autoencoder(self, name: str, folder: Path, saved: Path) -> None:
        """With the config beside it, whose scale counts."""
        path = self.neighbour(folder / _VAE, name)
        found = checkpoint_from_model(str(saved), Choices(vae=str(path)))
        assert torch.equal(self.weight(found, "vae"), 2 * self.weight(checkpoint_from_model(str(saved)), "vae"))
        config = folder / "vae" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.13025}))
        with pytest.raises(CheckpointError, match=r"scaling_factor 0\.13025, expected 0\.18215"):
            checkpoint_from_model(str(saved), Choices(vae=str(path)))

    def test_a_shard_is_no_model(self, folder: Path, saved: Path) -> None:
        """The folder is asked for."""
        path = self.neighbour(folder / _UNET, "diffusion_pytorch_model-00001-of-00003.safetensors")
        with pytest.raises(CheckpointError, match=r"one of 3 shards of a unet.*give the folder"):
            checkpoint_from_model(str(path), Choices(base=str(saved)))

    def test_another_layout_beside_a_config(self, folder: Path, saved: Path) -> None:
        """Is read as the single file that it is."""
        tensors = {key: 2 * t for key, t in ldm_tensors(saved).items() if key.startswith("model.diffusion_model.")}
        path = save_tensors(tensors, folder / "unet" / "diffusion_pytorch_model.ldm.safetensors")
        found = checkpoint_from_model(str(path), Choices(base=str(saved)))
        assert torch.equal(self.weight(found), 2 * self.weight(checkpoint_from_model(str(saved))))

    @pytest.mark.parametrize("choices", [{"variant": "fp16"}, {"ema": Ema.EMA}])
    def test_choices_among_weights_are_refused(self, choices: dict[str, Any], folder: Path, saved: Path) -> None:
        """A file has one set."""
        with pytest.raises(CheckpointError, match="leave it out"):
            checkpoint_from_model(str(folder / _UNET), Choices(base=str(saved), **choices))
