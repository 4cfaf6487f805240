"""Whatever stands in an adapter's file: a sentence of ours, or formulas that work. Bounded runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import MODELS, lora_of, save, save_peft
from fuzzing import damaged, documents, fuzzed, refused_in_a_sentence
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as saved

from latentrt.engines.errors import RequestError
from latentrt.runtime.adapters.formats.files import adapter_from_path
from latentrt.runtime.adapters.formulas.leaves import LEAVES

pytestmark = pytest.mark.slow

MODEL, BASE = MODELS["sd1"]
PATHS = ("conv_in", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "conv_norm_out", "nowhere")


def read(path: Path) -> None:
    """Reads an adapter and computes what it does to some weights."""
    with refused_in_a_sentence(RequestError), np.errstate(all="ignore"):
        adapter = adapter_from_path(path, "x", MODEL, BASE)
        for component, formulas in adapter.parts.items():
            for name, formula in list(formulas.items())[:2]:
                shape = MODEL[component][name]
                assert formula.change(np.ones(shape, np.float32)).shape == shape


LORA = {**lora_of("lora_unet_conv_in", (32, 4, 3, 3)), **lora_of(f"lora_unet_{PATHS[1].replace('.', '_')}", (32, 768))}
GOOD = saved(LORA, {"ss_v2": "False"})
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "alpha_pattern": {"to_k": 2},
    "rank_pattern": {},
    "use_rslora": False,
    "fan_in_fan_out": False,
    "modules_to_save": ["conv_in"],
    "bias": "none",
    "init_lora_weights": True,
    "feedforward_modules": None,
}
PEFT = {
    f"base_model.model.{PATHS[1]}.lora_A.weight": np.ones((2, 768), np.float32),
    f"base_model.model.{PATHS[1]}.lora_B.weight": np.ones((32, 2), np.float32),
    "base_model.model.conv_in.weight": np.ones((32, 4, 3, 3), np.float32),
}


def test_damaged_files(tmp_path: Path) -> None:
    """Bytes of the header changed in a few places."""
    begin = 8 + int.from_bytes(GOOD[:8], "little")

    @fuzzed(300)
    @given(header=damaged(GOOD[:begin]))
    def run(header: bytes) -> None:
        (tmp_path / "x.safetensors").write_bytes(header + GOOD[begin:])
        read(tmp_path / "x.safetensors")

    run()


@pytest.mark.parametrize("where", ["folder", "header"])
def test_configs(where: str, tmp_path: Path) -> None:
    """PEFT's config, whatever its values are."""
    folder = save_peft(tmp_path / "style", PEFT, CONFIG)

    @fuzzed(300)
    @given(config=documents(CONFIG))
    def run(config: Any) -> None:
        if where == "folder":
            (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
            read(folder)
        else:
            header = {f"unet.{key}": value for key, value in config.items()} if isinstance(config, dict) else config
            read(save(tmp_path / "x.safetensors", LORA, {"lora_adapter_metadata": json.dumps(header)}))

    run()


_SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 32, 768]), max_size=5).map(tuple)
_TYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.bool_])


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """A few tensors of any shape for a few modules, under names that mean something."""
    drawn = {}
    for _ in range(draw(st.integers(1, 6))):
        path, leaf = draw(st.sampled_from(PATHS[:3] * 5 + PATHS)), draw(st.sampled_from(sorted(LEAVES)))
        shape = draw(_SHAPES)
        if np.prod(shape, dtype=float) > 1e6:
            continue
        value = draw(st.sampled_from([0.0, 1.0, -1e30, np.nan, np.inf]))
        with np.errstate(all="ignore"):
            drawn[f"lora_unet_{path.replace('.', '_')}.{leaf}"] = np.full(shape, value).astype(draw(_TYPES))
    return drawn


def test_tensors_of_any_shape(tmp_path: Path) -> None:
    """Names of every kind together."""

    @fuzzed(600)
    @given(drawn=tensors())
    def run(drawn: dict[str, Any]) -> None:
        read(save(tmp_path / "x.safetensors", drawn))

    run()


def test_keys(tmp_path: Path) -> None:
    """Keys with pieces of real ones in any order."""
    pieces = st.sampled_from(
        [
            "lora_unet_",
            "unet.",
            "conv_in",
            "text_encoder",
            ".",
            "_",
            "lora_A",
            "weight",
            "processor",
            "down_blocks.0",
            "é",
            "lora_down.weight",
            "to_q_lora",
            ".alpha",
            "base_model.model.",
            "input_blocks_0_0",
            "modules_to_save",
            "\x85",
        ]
    )

    @fuzzed(400)
    @given(keys=st.lists(st.lists(pieces, min_size=1, max_size=6).map("".join), min_size=1, max_size=4, unique=True))
    def run(keys: list[str]) -> None:
        read(save(tmp_path / "x.safetensors", dict.fromkeys(keys, np.ones((2, 2), np.float32))))

    run()
