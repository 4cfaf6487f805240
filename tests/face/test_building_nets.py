"""``latentrt build NET --for BUNDLE``: kept, compiled, verified, described; precision and profiles are the model's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Ran
from ldm_nets import control_lora, saved
from safetensors.torch import load_file, save_file
from tiny_nets import save_control_net, save_t2i_adapter, save_union_net

import latentrt
from latentrt.building.based_nets import with_base_weights
from latentrt.building.destination import destination_from_argument
from latentrt.engines.bundle.bundle import AddonBundle, BundleSort, open_addon, open_bundle
from latentrt.engines.bundle.kinds import CONTROL, FEATURES, HINT
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ControlRecord
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.components import OpenComponents
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.based_net import BasedControlNet
from latentrt.export.addons.finding import addon_from_headers
from latentrt.models import EMOJI

Command = Callable[..., Ran]


def test_a_net_is_kept_and_its_engines_are_made_anew(
    tiny_net: Path,
    tiny_bundle: Path,
    net_checkpoint: Callable[[str], Path],
    command: Callable[..., object],
    tmp_path: Path,
) -> None:
    """Up to date where nothing changed; else only what changed is made."""
    copy = shutil.copytree(tiny_net, tmp_path / "net.bundle")
    net = net_checkpoint("sd1")
    assert latentrt.build(net, copy, for_bundle=tiny_bundle).up_to_date
    assert latentrt.build(copy).up_to_date
    shutil.rmtree(next(copy.glob("engines/*")))
    made = latentrt.build(net, copy, for_bundle=tiny_bundle)
    assert not made.up_to_date
    assert isinstance(made.bundle, AddonBundle)
    manifest = made.bundle.manifest
    assert manifest.addon is AddonKind.CONTROL_NET
    assert manifest.control == ControlRecord()
    assert manifest.family == "sd1"
    assert [str(profile) for profile in manifest.profiles] == ["32x32x2", "48x32"]
    assert set(manifest.source.files) == {
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
    }
    for row in manifest.components.values():
        assert row.parity.relative_error < 1e-5
    latentrt.build(copy)


def test_commands(
    tiny_net: Path,
    tiny_bundle: Path,
    net_checkpoint: Callable[[str], Path],
    command: Callable[..., object],
    tmp_path: Path,
) -> None:
    """build, inspect and verify on the command line; a net is no model."""
    copy = shutil.copytree(tiny_net, tmp_path / "net.bundle")
    built = command("build", net_checkpoint("sd1"), "-o", copy, "--for", tiny_bundle, "--json")
    assert json.loads(built.stdout)["up_to_date"] is True
    shown = command("inspect", copy)
    assert "(a ControlNet for sd1)" in shown.stdout
    told = json.loads(command("inspect", copy, "--json").stdout)
    assert told["addon"] == "control-net"
    assert list(told["components"]) == [HINT, CONTROL]
    checked = command("verify", copy)
    assert "its engines agree with torch" in checked.stdout
    drawn = command("generate", copy, "a cat", "-o", tmp_path / "cat.png")
    assert drawn.status == 2
    assert "which is the bundle of a ControlNet, expected that of a model" in drawn.stderr
    refused = command("build", "emoji", "-o", copy)
    assert refused.status == 2
    assert "is the bundle of a net or an adapter, which a model does not replace" in refused.stderr
    refused = command("build", copy, "--precision", "fp16", "--for", tiny_bundle)
    assert "got precision, a model's bundle (--for) for the bundle of a ControlNet" in refused.stderr


def test_a_damaged_net_is_called_that_and_may_be_replaced(tiny_bundle: Path, tiny_net: Path, tmp_path: Path) -> None:
    """Whose manifest cannot be read is no model's for that."""
    copy = shutil.copytree(tiny_net, tmp_path / "net.bundle")
    whole = (copy / "bundle.json").read_bytes()
    (copy / "bundle.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(latentrt.BundleError, match="cut short"):
        latentrt.open_addon(copy)
    for sort, other in ((BundleSort.ADDON, tiny_bundle), (BundleSort.MODEL, tiny_net)):
        assert destination_from_argument(copy, sort) == copy.resolve()
        with pytest.raises(latentrt.OutputError, match="does not replace"):
            destination_from_argument(other, sort)


def test_precision_is_the_models(half_bundle: Path, net_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """fp16 with islands where the model is; components that stay in fp32 by choice."""
    made = latentrt.build(net_checkpoint("sd1"), tmp_path / "net.bundle", for_bundle=half_bundle, fp32=["hint"])
    manifest = made.bundle.manifest
    assert manifest.precision is Precision.FP16
    assert manifest.kept_fp32 == ("hint",)
    assert manifest.components[HINT].precision is Precision.FP32
    control = manifest.components[CONTROL]
    assert control.precision is Precision.FP16
    assert control.islands["sines of timesteps and sizes"] > 0
    graph = onnx.load(made.bundle.root / control.onnx, load_external_data=False).graph
    defaults = {value.name for value in graph.initializer} & {value.name for value in graph.input}
    assert defaults == {name for name, row in control.inputs.items() if row.neutral is not None}
    assert {name.removeprefix("previous_") for name in defaults} == set(control.outputs)


def test_t2i_adapters(tiny_bundle: Path, tmp_path: Path) -> None:
    """One component, which runs once per picture."""
    import diffusers

    folder = save_t2i_adapter(tmp_path / "t2i")
    made = latentrt.build(folder, tmp_path / "t2i.bundle", for_bundle=tiny_bundle)
    manifest = open_addon(made.bundle.root).manifest
    assert manifest.addon is AddonKind.T2I_ADAPTER
    assert list(manifest.components) == [FEATURES]
    picture = np.random.default_rng(2).random((1, 3, 32, 48), np.float32)
    components = OpenComponents(open_addon(made.bundle.root), Backend.ORT_CPU, threads=1)
    try:
        got = components.engine(FEATURES, Shapes(profile=manifest.profiles[1])).run({"picture": picture})
    finally:
        components.close()
    with torch.inference_mode():
        expected = diffusers.T2IAdapter.from_pretrained(folder)(torch.from_numpy(picture))
    assert list(got) == ["feature_0", "feature_1"]
    for one, other in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_control_loras_follow_the_models_weights(
    tiny_bundle: Path, half_bundle: Path, net_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Built again where the model's weights are others."""
    save_file(control_lora(saved(net_checkpoint("sd1")), 1), tmp_path / "lora.safetensors")
    out = tmp_path / "lora.bundle"
    first = latentrt.build(tmp_path / "lora.safetensors", out, for_bundle=tiny_bundle, profiles=["32x32x2"])
    assert first.bundle.manifest.source.decisions["layout"].value == "a Control-LoRA"
    assert latentrt.build(tmp_path / "lora.safetensors", out, for_bundle=tiny_bundle, profiles=["32x32x2"]).up_to_date
    assert not latentrt.build(tmp_path / "lora.safetensors", out, for_bundle=half_bundle, precision="fp32").up_to_date


@pytest.mark.slow
def test_union_nets(
    family_checkpoint: Callable[[str], Path], family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """The kinds of pictures are inputs of both components; in fp16 their sines stay in fp32."""
    folder = save_union_net(tmp_path / "union", family_checkpoint("sdxl"))
    for precision in ("fp32", "fp16"):
        made = latentrt.build(folder, tmp_path / "u.bundle", for_bundle=family_bundle("sdxl"), precision=precision)
        components = made.bundle.manifest.components
        assert list(components[HINT].inputs) == ["picture", "control_index", "condition_scale"]
        assert components[CONTROL].inputs["control_type"].shape == ("batch", 6)
    assert components[CONTROL].islands["sines of control types"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "net"),
    [
        ("sd1-inpaint", "sd1"),
        ("lcm-sd1", "sd1"),
        ("sd-turbo", "sd2"),
        ("sdxl-turbo", "sdxl"),
        ("lcm-sdxl", "sdxl"),
        ("sdxl-inpaint", "sdxl"),
    ],
)
def test_relatives_take_the_nets_of_their_family(
    family: str, net: str, net_checkpoint: Callable[[str], Path], family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    made = latentrt.build(net_checkpoint(net), tmp_path / "n.bundle", for_bundle=family_bundle(family))
    assert made.bundle.manifest.family == family
    assert made.bundle.manifest.components[CONTROL].inputs["sample"].shape[1] == 4


@pytest.mark.slow
def test_a_net_for_an_int8_model(int8_bundle: Path, tmp_path: Path) -> None:
    """fp32, as what else an int8 model for CPUs computes; a Control-LoRA finds its weights in eight bits."""
    net = save_control_net(tmp_path / "net", EMOJI, hints=(16, 32, 96))
    made = latentrt.build(net, tmp_path / "net.bundle", for_bundle=int8_bundle)
    assert made.bundle.manifest.precision is Precision.FP32
    save_file(control_lora(saved(net), 2), tmp_path / "lora.safetensors")
    base = BaseModel(open_bundle(int8_bundle))
    addon = addon_from_headers(str(tmp_path / "lora.safetensors"), base)
    assert isinstance(addon, BasedControlNet)
    addon = with_base_weights(addon)
    addon.check()
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    tensors = load_file(tmp_path / "lora.safetensors")
    up, down = (tensors[f"input_blocks.4.1.transformer_blocks.0.attn2.to_q.{side}"] for side in ("up", "down"))
    expected = load_file(EMOJI / "unet" / "diffusion_pytorch_model.safetensors")[name].float() + up @ down
    torch.testing.assert_close(addon.part.module().state_dict()[name], expected, rtol=0.02, atol=0.002)
