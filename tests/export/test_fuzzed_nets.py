"""Whatever stands in a net's config and headers: a sentence of ours, or a checked net. Bounded runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import documents, fuzzed, refused_in_a_sentence
from hypothesis import given
from hypothesis import strategies as st
from ldm_nets import control_lora, ldm_control, original_adapter, saved
from safetensors.torch import save_file
from tiny_nets import save_control_net, save_t2i_adapter, save_union_net

from latentrt.building.based_nets import with_base_weights
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.based_net import BasedControlNet
from latentrt.export.addons.finding import addon_from_headers

pytestmark = pytest.mark.slow


def looked_at(net: Path, base: BaseModel) -> None:
    """Checks a net and asks it for all that a build asks, but for its modules."""
    with refused_in_a_sentence():
        addon = addon_from_headers(str(net), base)
        if isinstance(addon, BasedControlNet):
            addon = with_base_weights(addon)
        addon.check()
        for name in ("kind", "components", "control", "files", "parameters", "unread", "decisions"):
            getattr(addon, name)


def nets(root: Path, family_checkpoint: Callable[[str], Path]) -> dict[str, tuple[str, Path]]:
    """Folders by kind, with the family that each is for."""
    return {
        "control": ("sd1", save_control_net(root / "control", family_checkpoint("sd1"))),
        "union": ("sdxl", save_union_net(root / "union", family_checkpoint("sdxl"))),
        "t2i": ("sd1", save_t2i_adapter(root / "t2i")),
    }


@pytest.mark.parametrize("kind", ["control", "union", "t2i"])
def test_configs(
    kind: str, family_checkpoint: Callable[[str], Path], family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    family, folder = nets(tmp_path, family_checkpoint)[kind]
    base = BaseModel(open_bundle(family_bundle(family)))
    good = json.loads((folder / "config.json").read_text("utf-8"))

    @fuzzed(120)
    @given(document=documents(good))
    def read(document: Any) -> None:
        (folder / "config.json").write_text(json.dumps(document), "utf-8")
        looked_at(folder, base)

    read()


@st.composite
def tensors(draw: st.DrawFn, good: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of which a few have other shapes and types, and a few names are missing or new."""
    found = dict(good)
    names = list(good)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        change = draw(st.integers(0, 4))
        if change == 0:
            found.pop(name, None)
        elif change == 1:
            found[name] = good[name].to(draw(st.sampled_from([torch.float64, torch.int64, torch.bool, torch.bfloat16])))
        elif change == 2:
            found[name] = torch.zeros(draw(st.lists(st.integers(0, 70), max_size=4)))
        elif change == 3:
            found[draw(st.sampled_from(["x", "control_model.", "input_blocks.99.", "body.7."])) + name] = good[name]
        else:
            found[name.replace("0", "9", 1)] = found.pop(name, good[name])
    return {name: tensor.clone() for name, tensor in found.items()}


@pytest.mark.parametrize("kind", ["control", "union", "t2i", "ldm", "lora", "difference", "original"])
def test_tensors_of_single_files(
    kind: str, family_checkpoint: Callable[[str], Path], family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = {"ldm": "control", "lora": "control", "difference": "control", "original": "t2i"}.get(kind, kind)
    family, folder = nets(tmp_path, family_checkpoint)[plain]
    base = BaseModel(open_bundle(family_bundle(family)))
    own = saved(folder)
    good = {
        "ldm": lambda: ldm_control(own, 1),
        "lora": lambda: control_lora(own, 1),
        "difference": lambda: {**ldm_control(own, 1), "difference": torch.zeros(1)},
        "original": lambda: original_adapter(own, 1),
    }.get(kind, lambda: own)()
    shutil.rmtree(folder)

    @fuzzed(120)
    @given(found=tensors(good))
    def read(found: dict[str, torch.Tensor]) -> None:
        save_file(found, tmp_path / "net.safetensors")
        looked_at(tmp_path / "net.safetensors", base)

    read()
