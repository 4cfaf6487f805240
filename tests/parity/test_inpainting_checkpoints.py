"""Checkpoints of the inpainting pipeline: with mask channels and without, built, gated and told apart."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import save_tiny_checkpoint

import latentrt
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.shapes import Shapes
from latentrt.export.sources.source import checkpoint_from_model
from latentrt.verifying import verify

INPAINT = "StableDiffusionInpaintPipeline"
TEXT = "StableDiffusionPipeline"


@pytest.fixture(scope="module")
def checkpoint(masked_checkpoint: Path) -> Path:
    """The tiny checkpoint with a U-Net of nine input channels."""
    return masked_checkpoint


@pytest.fixture(scope="module")
def bundle(masked_bundle: Path) -> Bundle:
    """Its bundle."""
    return open_bundle(masked_bundle)


def test_the_manifest_tells_channels_apart(bundle: Bundle, tiny_bundle: Path) -> None:
    """Four of latents, from the autoencoder; nine of the U-Net, from its config."""
    manifest = bundle.manifest
    assert manifest.family == "sd1-inpaint"
    assert manifest.latents.channels == 4
    unet = manifest.components["unet"]
    assert (unet.inputs["sample"].shape[1], unet.outputs["out_sample"].shape[1]) == (9, 4)
    assert manifest.unet_takes_mask
    assert manifest.defaults.strength == 1.0
    assert not open_bundle(tiny_bundle).manifest.unet_takes_mask


def test_the_gate_saw_a_real_mask(bundle: Bundle) -> None:
    """Every probe of the U-Net: noised latents, a mask of zeros and ones, the masked photograph's latents."""
    probes = bundle.probes("unet")
    assert {(probe.profile.width, probe.profile.height) for probe in probes} == {(32, 32), (48, 32)}
    photographs = {str(probe.profile): probe.outputs["latent_parameters"] for probe in bundle.probes("vae_encoder")}
    for probe in probes:
        sample = probe.inputs["sample"]
        assert sample.shape == (2, 9, probe.profile.height // 2, probe.profile.width // 2)
        mask, masked = sample[:, 4], sample[:, 5:]
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert 0.2 < mask.mean() < 0.5
        assert np.ptp(masked) > 0
        unmasked = photographs[str(probe.profile)][:, :4] * bundle.manifest.latents.scaling_factor
        assert np.abs(masked - unmasked).max() > 0.01  # the mask took something away
    for record in bundle.manifest.components.values():
        assert record.parity.relative_error < 1e-4
    verify(bundle.root)


def test_the_engine_equals_diffusers_unet(bundle: Bundle, checkpoint: Path) -> None:
    """On noise, every input channel of which matters."""
    from diffusers import UNet2DConditionModel

    from latentrt.engines.precision import Backend
    from latentrt.engines.store.components import OpenComponents

    random = np.random.default_rng(0)
    sample = random.normal(size=(2, 9, 16, 16)).astype(np.float32)
    context = random.normal(size=(2, 77, 64)).astype(np.float32)
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    components = OpenComponents(bundle, Backend.ORT_CPU, threads=None)
    engine = components.engine("unet", Shapes(profile=bundle.manifest.profiles[0]))

    def ours(array: np.ndarray) -> np.ndarray:
        inputs = {"sample": array, "timestep": np.full(2, 500.0, np.float32), "encoder_hidden_states": context}
        return engine.run(inputs)["out_sample"]

    with torch.inference_mode():
        expected = unet(torch.from_numpy(sample), 500.0, torch.from_numpy(context)).sample.numpy()
    assert parity_of(ours(sample), expected).relative_error < 1e-4
    for channel in range(9):
        changed = sample.copy()
        changed[:, channel] = 0
        assert parity_of(ours(changed), expected).relative_error > 1e-3
    components.close()


@pytest.mark.parametrize(("pipeline", "channels", "family"), [(INPAINT, 4, "sd1"), (INPAINT, 9, "sd1-inpaint")])
def test_the_family_is_told_by_the_channels(tmp_path: Path, pipeline: str, channels: int, family: str) -> None:
    """The inpainting pipeline runs both kinds of U-Net."""
    folder = save_tiny_checkpoint(tmp_path / "model", pipeline=pipeline, unet_in_channels=channels)
    assert checkpoint_from_model(str(folder)).family.name == family


def change(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "eight channels": (lambda m: change(m / "unet/config.json", in_channels=8), "in_channels 8, expected 4 or 9"),
    "nine channels for text to image": (
        lambda m: change(m / "model_index.json", _class_name=TEXT),
        "in_channels 9, expected 4",
    ),
    "latents of other channels": (
        lambda m: [change(m / "vae/config.json", latent_channels=8), change(m / "unet/config.json", out_channels=8)],
        "in_channels 9 but vae has latent_channels 8, expected 8, or 17 with a mask",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(checkpoint: Path, tmp_path: Path, case: str) -> None:
    """Before anything is loaded; the reason names both numbers."""
    import shutil

    spoil, reason = REFUSED[case]
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    spoil(folder)
    with pytest.raises(latentrt.CheckpointError, match=reason):
        checkpoint_from_model(str(folder))
