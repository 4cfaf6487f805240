"""Nets as people have them: folders, single files in several names, low ranks; what each computes is diffusers' own."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hub_stand_in import Hub, commit_of, hub_stand_in
from ldm_nets import control_lora, ldm_control, original_adapter, saved
from safetensors.torch import save_file
from tiny_nets import control_net_of, save_control_net, save_t2i_adapter, save_union_net

from latentrt.building.based_nets import with_base_weights
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.errors import CheckpointError
from latentrt.export.addons.addon import Addon, NetAddon
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.based_net import BasedControlNet
from latentrt.export.addons.finding import addon_from_headers
from latentrt.export.modules.control_net import (
    ControlModule,
    HintModule,
    TextTimeControlModule,
    UnionControlModule,
    UnionHintModule,
)
from latentrt.export.modules.t2i_adapter import FeaturesModule

Base = Callable[[str], BaseModel]


@pytest.fixture(scope="session")
def base(family_bundle: Callable[[str], Path]) -> Base:
    """The tiny bundle of a family, as nets see it."""
    return lambda family: BaseModel(open_bundle(family_bundle(family)))


def found(net: Path | str, base: BaseModel, **more: Any) -> NetAddon:
    addon: Addon = addon_from_headers(str(net), base, **more)
    assert isinstance(addon, NetAddon)
    if isinstance(addon, BasedControlNet):
        addon = with_base_weights(addon)
    addon.check()
    return addon


def same(one: Any, other: Any) -> None:
    """Whether two modules have the same settings, as far as they compute, and the same weights."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-6, atol=1e-6)


def step(base: BaseModel) -> dict[str, torch.Tensor]:
    """What the U-Net was given in its first recorded run."""
    inputs = {name: torch.from_numpy(array) for name, array in base.bundle.probes("unet")[0].inputs.items()}
    return {**inputs, "sample": inputs["sample"][:, :4]}


def residuals(net: Any, given: dict[str, torch.Tensor], picture: torch.Tensor, **more: Any) -> list[torch.Tensor]:
    """diffusers' own, of a whole net."""
    told = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    with torch.inference_mode():
        down, mid = net(
            given["sample"],
            given["timestep"],
            given["encoder_hidden_states"],
            more.pop("pictures", picture),
            added_cond_kwargs=told or None,
            return_dict=False,
            **more,
        )
    return [*down, mid]


def close(got: Any, expected: Any) -> None:
    got, expected = list(got), list(expected)
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.expand_as(one), rtol=1e-4, atol=1e-5)


PICTURE = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(6))


def of_ours(net: Any, given: dict[str, torch.Tensor], scales: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """What our two modules make of a net and the picture; the net is taken apart."""
    with torch.inference_mode():
        (hint,) = HintModule(net)(PICTURE)
        told = [given[name] for name in ("text_embeds", "time_ids") if name in given]
        count = len(net.controlnet_down_blocks) + 1
        module = (TextTimeControlModule if told else ControlModule)(net)
        scales = torch.ones(2, count) if scales is None else scales
        made: tuple[torch.Tensor, ...] = module(
            given["sample"], given["timestep"], given["encoder_hidden_states"], *told, hint, scales
        )
    return made


@pytest.mark.parametrize("family", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_ldm_files(family: str, prefix: str, net_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """A file in LDM's names is the net that diffusers' folder is, with a config that follows from its shapes."""
    folder = net_checkpoint(family)
    tensors = {prefix + key: tensor for key, tensor in ldm_control(saved(folder), 1).items()}
    save_file(tensors, tmp_path / "control.safetensors")
    addon = found(tmp_path / "control.safetensors", base(family))
    own = diffusers.ControlNetModel.from_pretrained(folder)
    net = addon.part.module()
    same(net, own)
    for setting in ("block_out_channels", "attention_head_dim", "use_linear_projection", "cross_attention_dim"):
        got, expected = net.config[setting], own.config[setting]
        assert got == expected or list(got) == list(expected), setting
    given = step(base(family))
    close(of_ours(net, given), residuals(own, given, PICTURE))
    assert addon.decisions["layout"].value == "LDM"
    assert addon.unread == {}


@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_pickled_files_and_diffusers_names(
    suffix: str, net_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path
) -> None:
    """ControlNet's own files are pickles; SDXL's are published in diffusers' names without a config."""
    tensors = saved(net_checkpoint("sd1"))
    path = tmp_path / f"control{suffix}"
    torch.save({"state_dict": ldm_control(tensors, 1)} if suffix == ".pth" else tensors, path)
    same(found(path, base("sd1")).part.module(), diffusers.ControlNetModel.from_pretrained(net_checkpoint("sd1")))


def test_a_whole_checkpoint_with_a_control_net(
    net_checkpoint: Callable[[str], Path], family_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path
) -> None:
    """ControlNet 1.0's files hold the model, too; the net alone is read, and the rest is told of."""
    from single_files import ldm_tensors

    net = {f"control_model.{key}": one for key, one in ldm_control(saved(net_checkpoint("sd1")), 1).items()}
    save_file({**ldm_tensors(family_checkpoint("sd1")), **net}, tmp_path / "control_sd15.safetensors")
    addon = found(tmp_path / "control_sd15.safetensors", base("sd1"))
    same(addon.part.module(), diffusers.ControlNetModel.from_pretrained(net_checkpoint("sd1")))


def test_guess_mode_is_scales_and_scales_are_each_residuals_own(
    net_checkpoint: Callable[[str], Path], base: Base
) -> None:
    given = step(base("sd1"))
    own = diffusers.ControlNetModel.from_pretrained(net_checkpoint("sd1"))
    plain = residuals(own, given, PICTURE)
    guessed = residuals(own, given, PICTURE, guess_mode=True, conditioning_scale=0.6)
    scales = 0.6 * torch.logspace(-1, 0, len(plain)).expand(2, -1)
    close(of_ours(own, given, scales), guessed)
    own = diffusers.ControlNetModel.from_pretrained(net_checkpoint("sd1"))
    scales = torch.arange(2 * len(plain)).reshape(2, -1) + 1.0
    expected = [one * scales[:, index, None, None, None] for index, one in enumerate(plain)]
    close(of_ours(own, given, scales), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"global_pool_conditions": True},
        {"controlnet_conditioning_channel_order": "bgr"},
        {"mid_block_type": "UNetMidBlock2D", "down_block_types": ("DownBlock2D", "DownBlock2D")},  # SDXL small
        {"transformer_layers_per_block": (0, 1), "down_block_types": ("CrossAttnDownBlock2D",) * 2},  # SDXL mid
    ],
    ids=["shuffle", "bgr", "small", "mid"],
)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_settings_of_a_net(
    settings: dict[str, Any], family: str, family_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path
) -> None:
    """Averages in full planes, colours in another order, no attention."""
    save_control_net(tmp_path / "net", family_checkpoint(family), **settings)
    addon = found(tmp_path / "net", base(family))
    given = step(base(family))
    expected = residuals(diffusers.ControlNetModel.from_pretrained(tmp_path / "net"), given, PICTURE)
    made = of_ours(addon.part.module(), given)
    close(made, expected)
    assert made[0].shape[2:] == given["sample"].shape[2:]
    assert addon.control is not None
    assert addon.control.conditional_only == ("global_pool_conditions" in settings)
    # The same without its config
    save_file(saved(tmp_path / "net"), tmp_path / f"{'shuffle' if 'global_pool_conditions' in settings else 'n'}.bin")
    file = found(next(tmp_path.glob("*.bin")), base(family))
    assert file.control == addon.control
    if "bgr" not in str(settings):
        close(of_ours(file.part.module(), given), expected)


@pytest.mark.parametrize("family", ["sd1", "sd1-inpaint", "sdxl"])
def test_control_loras(family: str, family_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """The model's own weights with low ranks added, and all that a net has beside them in full."""
    net = control_net_of(family_checkpoint(family)).state_dict()
    lora = control_lora(net, 1)
    save_file(lora, tmp_path / "lora.safetensors")
    addon = found(tmp_path / "lora.safetensors", base(family))
    ldm = ldm_control(net, 1)
    unet = ldm_control(
        {**net, **{key: row for key, row in saved(family_checkpoint(family) / "unet").items() if key in net}}, 1
    )
    expected = {}
    for key, tensor in ldm.items():
        start = key.removesuffix("weight")
        if key.endswith("weight") and f"{start}up" in lora:
            up, down = lora[f"{start}up"], lora[f"{start}down"]
            own = unet[key][:, : tensor.shape[1]]
            expected[key] = own + (up.flatten(1) @ down.flatten(1)).reshape(tensor.shape)
        else:
            expected[key] = tensor
    got = ldm_control(addon.part.module().state_dict(), 1)
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-5, atol=1e-6, msg=key)
    assert addon.unread == {}
    assert any(name.startswith("for/onnx/") for name in addon.files)
    assert addon.parameters >= sum(tensor.numel() for tensor in net.values())


def test_a_net_stored_as_a_difference(family_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """What the model has too is added to the model's."""
    net = control_net_of(family_checkpoint("sd1")).state_dict()
    unet = saved(family_checkpoint("sd1") / "unet")
    tensors = ldm_control({key: one - unet[key] if key in unet else one for key, one in net.items()}, 1)
    tensors = {f"control_model.{key}": one.contiguous() for key, one in tensors.items()}
    save_file({**tensors, "difference": torch.zeros(1)}, tmp_path / "diff.safetensors")
    got = found(tmp_path / "diff.safetensors", base("sd1")).part.module().state_dict()
    for key, tensor in net.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("config", [True, False], ids=["folder", "file"])
def test_union_nets(config: bool, family_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """One picture of a kind, and two of different kinds with scales of their own, whose hints are summed."""
    folder = save_union_net(tmp_path / "union", family_checkpoint("sdxl"))
    own = diffusers.ControlNetUnionModel.from_pretrained(folder)
    path = folder
    if not config:
        path = tmp_path / "union.safetensors"
        shutil.copy(folder / "diffusion_pytorch_model.safetensors", path)
    addon = found(path, base("sdxl"))
    assert addon.control is not None
    assert addon.control.types == 6
    given = {name: one[:1].repeat(2, *(1,) * (one.ndim - 1)) for name, one in step(base("sdxl")).items()}
    first, second = PICTURE[:1].repeat(2, 1, 1, 1), PICTURE[1:].repeat(2, 1, 1, 1)
    net = addon.part.module()
    ours = UnionHintModule(net)
    count = len(net.controlnet_down_blocks) + 1
    control = UnionControlModule(net)

    def run(pictures: dict[int, tuple[torch.Tensor, float]], scale: float) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            hints = [
                ours(picture, torch.tensor([index] * 2), torch.full((2,), share))[0]
                for index, (picture, share) in pictures.items()
            ]
            types = torch.zeros(2, 6)
            types[:, list(pictures)] = 1.0
            told = [given[name] for name in ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")]
            made: tuple[torch.Tensor, ...] = control(*told, types, sum(hints), torch.full((2, count), scale))
        return made

    one = torch.zeros(2, 6)
    one[:, 4] = 1.0
    expected = residuals(
        own, given, first, pictures=[first], control_type=one, control_type_idx=[4], conditioning_scale=0.8
    )
    close(run({4: (first, 1.0)}, 0.8), expected)
    one[:, 1] = 1.0
    expected = residuals(
        own,
        given,
        first,
        pictures=[first, second],
        control_type=one,
        control_type_idx=[1, 4],
        conditioning_scale=[0.5, 0.9],
    )
    close(run({1: (first, 0.5), 4: (second, 0.9)}, 1.0), expected)


def test_t2i_adapters_in_diffusers_folders(base: Base, tmp_path: Path) -> None:
    save_t2i_adapter(tmp_path / "t2i")
    addon = found(tmp_path / "t2i", base("sd1"))
    own = diffusers.T2IAdapter.from_pretrained(tmp_path / "t2i")
    with torch.inference_mode():
        close(FeaturesModule(addon.part.module())(PICTURE), own(PICTURE))


@pytest.mark.parametrize(
    ("settings", "picture"),
    [
        ({"adapter_type": "full_adapter", "num_res_blocks": 2}, "colour"),
        ({"adapter_type": "full_adapter", "num_res_blocks": 1, "in_channels": 1}, "grey"),
        ({"adapter_type": "light_adapter", "num_res_blocks": 4, "channels": [32, 64, 96]}, "colour"),
        ({"adapter_type": "full_adapter_xl", "num_res_blocks": 2, "downscale_factor": 16}, "colour"),
    ],
    ids=["full", "grey", "light", "xl"],
)
def test_t2i_adapters_in_their_own_names(settings: dict[str, Any], picture: str, tmp_path: Path) -> None:
    """The file alone tells the config."""
    from latentrt.export.addons.t2i_adapter import _part
    from latentrt.export.sources.addons.files import addon_files

    channels = {"channels": [32, 64, 96, 96], "downscale_factor": 8}
    folder = save_t2i_adapter(tmp_path / "t2i", **{**channels, **settings})
    own = diffusers.T2IAdapter.from_pretrained(folder)
    torch.save(original_adapter(saved(folder), settings["num_res_blocks"]), tmp_path / "t2iadapter.pth")
    part, _ = _part(addon_files(str(tmp_path / "t2iadapter.pth"), None, frozenset()))
    net = part.module()
    same(net, own)
    pictures = torch.rand((1, 3, 64, 64))
    if picture == "grey":
        pictures = pictures[:, :1].repeat(1, 3, 1, 1)
    with torch.inference_mode():
        close(FeaturesModule(net)(pictures), own(pictures[:, : own.config.in_channels]))


def test_variants_of_a_folder(net_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """fp16 with --variant, or where it is the only one; pickles; a file of the folder."""
    folder = tmp_path / "net"
    shutil.copytree(net_checkpoint("sd1"), folder)
    plain = folder / "diffusion_pytorch_model.safetensors"
    halves = {key: tensor.half() for key, tensor in saved(folder).items()}
    save_file(halves, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert found(folder, base("sd1")).part.dtypes == {"float32"}
    assert found(folder, base("sd1"), variant="fp16").part.dtypes == {"float16"}
    assert found(folder / "diffusion_pytorch_model.fp16.safetensors", base("sd1")).part.dtypes == {"float16"}
    with pytest.raises(CheckpointError, match="got variant 'bf16'"):
        addon_from_headers(str(folder), base("sd1"), variant="bf16")
    plain.unlink()
    assert found(folder, base("sd1")).part.dtypes == {"float16"}
    (folder / "diffusion_pytorch_model.fp16.safetensors").unlink()
    torch.save(halves, folder / "diffusion_pytorch_model.bin")
    assert found(folder, base("sd1")).part.dtypes == {"float16"}
    # A config that only counts downloads, beside a file in LDM's names
    (folder / "config.json").write_text(json.dumps({"downloads": 1}))
    (folder / "diffusion_pytorch_model.bin").unlink()
    save_file(ldm_control(halves, 1), folder / "canny.safetensors")
    assert found(folder, base("sd1")).decisions["layout"].value == "LDM"


_SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_NO_ATTENTION: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "SD 1.5": ("sd1", {"cross_attention_dim": 768}),
    "SD 2.1": (
        "sd2",
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    ),
    "SDXL": ("sdxl", _SDXL),
    "SDXL mid": ("sdxl", {**_SDXL, "transformer_layers_per_block": (0, 0, 1)}),
    "SDXL small": ("sdxl", {**_SDXL, **_NO_ATTENTION}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_nets_of_the_true_sizes(name: str) -> None:
    """Every tensor finds its place, the residuals are the U-Net's, and diffusers' own converter agrees."""
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    from latentrt.benchmarks.studies.architectures import ARCHITECTURES, part_module
    from latentrt.engines.bundle.unet.structure import unet_structure
    from latentrt.export.sources.addons.control_layout import control_config, diffusers_names

    family, settings = PUBLISHED[name]
    with init_empty_weights():
        net = diffusers.ControlNetModel(**settings)
        unet = part_module(ARCHITECTURES[family], "unet")
    own = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    ldm = ldm_control(net.state_dict(), 2)
    names = diffusers_names(ldm)
    assert {ours: tuple(ldm[key].shape) for ours, key in names.items()} == own
    if "sdxl" not in family:  # whose converter knows no files in LDM's names of these
        converted = convert_controlnet_checkpoint(dict(ldm), {"layers_per_block": 2})
        assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == own
    config = control_config(own, 256)
    with init_empty_weights():
        again = diffusers.ControlNetModel.from_config(config)
    assert {key: tuple(tensor.shape) for key, tensor in again.state_dict().items()} == own
    whole = unet_structure({key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()})
    assert (*unet_structure(own).skips, unet_structure(own).middle) == (*whole.skips, whole.middle)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("sd1", {"adapter_type": "full_adapter", "channels": [320, 640, 1280, 1280], "downscale_factor": 8}),
        ("sd1", {"adapter_type": "light_adapter", "channels": [320, 640, 1280], "downscale_factor": 8}),
        ("sdxl", {"adapter_type": "full_adapter_xl", "channels": [320, 640, 1280, 1280], "downscale_factor": 16}),
    ],
)
def test_adapters_of_the_true_sizes(family: str, config: dict[str, Any]) -> None:
    """Their features are the planes to which diffusers' U-Nets add them."""
    from accelerate import init_empty_weights

    from latentrt.benchmarks.studies.architectures import ARCHITECTURES, part_module
    from latentrt.engines.bundle.unet.added_inputs import feature_planes
    from latentrt.engines.bundle.unet.structure import unet_structure
    from latentrt.export.sources.addons.t2i_layout import feature_levels

    with init_empty_weights():
        unet = part_module(ARCHITECTURES[family], "unet")
    whole = unet_structure({key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()})
    got = feature_levels({"in_channels": 3, **config}, 8)
    assert got == [(plane.channels, plane.level) for plane in feature_planes(whole)][: len(got)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without a repository."""
    with hub_stand_in(tmp_path / "cache", monkeypatch) as hub:
        yield hub


def test_nets_on_the_hub(hub: Hub, net_checkpoint: Callable[[str], Path], base: Base, tmp_path: Path) -> None:
    """A folder with its config, one of its files, a file among many, a subfolder; nothing else is fetched."""
    remote = hub.add("owner/net", tmp_path / "remote")
    shutil.copytree(net_checkpoint("sd1"), remote)
    tensors = saved(remote)
    save_file({key: one.half() for key, one in tensors.items()}, remote / "diffusion_pytorch_model.fp16.safetensors")
    (remote / "README.md").write_text("a net")
    addon = found("owner/net", base("sd1"))
    assert (addon.name, addon.revision) == ("owner/net", commit_of("main"))
    assert hub.weights() == {"diffusion_pytorch_model.safetensors"}
    assert found("owner/net", base("sd1"), variant="fp16").part.dtypes == {"float16"}
    one = found("owner/net/diffusion_pytorch_model.fp16.safetensors", base("sd1"))
    assert one.name == "owner/net/diffusion_pytorch_model.fp16.safetensors"
    assert one.part.config["_class_name"] == "ControlNetModel"
    hub.weights()
    many = hub.add("owner/many", tmp_path / "many")
    many.mkdir()
    ldm = ldm_control(tensors, 1)
    for name in ("control_v11p_sd15_canny.pth", "control_v11e_sd15_shuffle.pth"):
        torch.save(ldm, many / name)
    shutil.copytree(net_checkpoint("sd1"), many / "canny")
    shuffle = found("owner/many/control_v11e_sd15_shuffle.pth", base("sd1"))
    assert shuffle.control is not None
    assert shuffle.control.conditional_only
    assert hub.weights() == {"control_v11e_sd15_shuffle.pth"}
    assert found("owner/many/canny", base("sd1")).name == "owner/many/canny"
    with pytest.raises(CheckpointError, match=r"holds the files control_v11e_sd15_shuffle\.pth, control_v11p"):
        addon_from_headers("owner/many", base("sd1"))
    with pytest.raises(CheckpointError, match="has no depth; it holds"):
        addon_from_headers("owner/many/depth", base("sd1"))
    model = hub.add("owner/model", tmp_path / "model")
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(CheckpointError, match="a whole model's folder"):
        addon_from_headers("owner/model", base("sd1"))
