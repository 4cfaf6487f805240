"""Weights of a LoRA per block reach the layers that they reach in diffusers."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from tiny_loras import save_tiny_lora

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.runtime.adapters.block_weights import block_weights

MODULES = ("attn1.to_v", "proj_in", "ff.net.2", "conv1", "conv2", "time_emb_proj", "conv_shortcut", "samplers.0.conv")
SCALES: dict[str, Any] = {
    "sides": {"down": 2, "mid": 3, "up": 4},
    "one side": {"up": -1.5},
    "blocks": {"down": {"block_0": 0.5}, "up": {"block_1": [0.25, 7]}},
    "lists of sides": {"down": [0], "up": [5, 6]},
    "the middle": {"mid": [0]},
    "nothing": {},
}


@pytest.fixture(scope="module")
def theirs(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """diffusers' pipeline with a LoRA on linears and convolutions of every block."""
    from diffusers import StableDiffusionPipeline

    folder, tensors = tmp_path_factory.mktemp("blocks"), {}
    for module in MODULES:
        one = save_tiny_lora(folder / "one.safetensors", tiny_bundle, components=("unet",), modules=module)
        tensors |= load_file(one)
    save_file(tensors, folder / "all.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_checkpoint)
    pipeline.load_lora_weights(folder / "all.safetensors", adapter_name="style")
    return pipeline


@pytest.mark.parametrize("name", SCALES)
def test_block_weights(theirs: Any, tiny_bundle: Path, name: str) -> None:
    """Of every layer; the longest beginning of its name counts."""
    theirs.set_adapters("style", {"unet": SCALES[name]})
    scales = {
        f"{path}.weight": module.scaling["style"]
        for path, module in theirs.unet.named_modules()
        if hasattr(module, "scaling")
    }
    assert {path.partition(".")[0] for path in scales} == {"down_blocks", "mid_block", "up_blocks"}
    weights = block_weights(SCALES[name], open_bundle(tiny_bundle).weights("unet").named.weights, "weight")
    for path, scale in scales.items():
        ours = max(
            (pair for pair in weights if path.startswith(pair[0])), key=lambda pair: len(pair[0]), default=("", 1.0)
        )
        assert ours[1] == scale, path
