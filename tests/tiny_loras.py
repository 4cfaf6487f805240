"""LoRAs in kohya's form for bundles of tests, of random factors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from latentrt.engines.bundle.bundle import open_bundle

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def save_tiny_lora(
    path: Path,
    bundle: Path,
    *,
    seed: int = 1,
    components: tuple[str, ...] = ("unet", "text_encoder"),
    modules: str = "attn2.to_q",
    scale: float = 1.0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a LoRA of rank 2.

    Args:
        path: the file.
        bundle: whose weights it is for.
        seed: of its factors.
        components: what it changes: queries of text encoders, and of the U-Net ``modules``.
        modules: how the names of the U-Net's modules end.
        scale: factor of what it changes.
        metadata: of its header.
    """
    drawn = np.random.default_rng(seed)
    opened, tensors = open_bundle(bundle), {}
    for component in components:
        ending = f"{modules}.weight" if component == "unet" else "self_attn.q_proj.weight"
        for name, row in opened.weights(component).named.weights.items():
            if name.endswith(ending) and row.takes_part:
                both = component == "text_encoder" and "text_encoder_2" in opened.manifest.components
                prefix = f"{PREFIXES[component]}{'1' * both}"
                stem = f"{prefix}_{name.removesuffix('.weight').replace('.', '_')}"
                up, down = (2, *row.shape[1:]), (row.shape[0], 2, *[1] * (len(row.shape) - 2))
                tensors[f"{stem}.lora_down.weight"] = drawn.standard_normal(up).astype(np.float32) * 0.3
                tensors[f"{stem}.lora_up.weight"] = drawn.standard_normal(down).astype(np.float32) * np.float32(scale)
                tensors[f"{stem}.alpha"] = np.array(2.0, np.float32)
    assert tensors
    save_file(tensors, path, dict(metadata or {}))
    return path
