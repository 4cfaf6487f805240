"""Bundles whose pictures wrap around: they do, on the chosen axes alone, and equal diffusers with patched layers."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import save_tiny_checkpoint
from diffusers.models.downsampling import Downsample2D
from parity.reference import DiffusersReference
from shared import filled_once, no_preview_fitted

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.export.modules.seamless import seamless_module

SIZE = (48, 32)
# fp32 in another order, as for ordinary bundles
LATENT_TOLERANCE, PIXEL_TOLERANCE = 1e-3, 1e-4


@pytest.fixture(scope="module")
def checkpoint(exports: None, shared: Path) -> Path:
    """The tiny checkpoint with attention in the middle alone: none of it is seamless, and its trace takes seconds."""
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return filled_once(shared / "seamless", lambda folder: save_tiny_checkpoint(folder, blocks=plain))


@pytest.fixture(scope="module")
def seamless_bundle(checkpoint: Path, shared: Path) -> Path:
    """It, wrapped on x alone, at a size that is not square."""

    def build(folder: Path) -> None:
        with no_preview_fitted():
            latentrt.build(checkpoint, folder, profiles=["48x32"], seamless="x")

    return filled_once(shared / "seamless.bundle", build)


def halves(bundle: Path) -> tuple[Any, Any]:
    """The encoder and the decoder as functions of one array."""
    found = open_bundle(bundle)
    profile = next(profile for profile in found.manifest.profiles if (profile.width, profile.height) == SIZE)
    components = OpenComponents(found, Backend.ORT_CPU, threads=None)
    encoder, decoder = (components.engine(name, Shapes(profile=profile)) for name in ("vae_encoder", "vae_decoder"))
    return (
        lambda array: encoder.run({"sample": array})["latent_parameters"],
        lambda array: decoder.run({"latent_sample": array})["sample"],
    )


def roll_error(function: Any, array: Array, axis: int) -> float:
    """How far f(rolled by half) is from f(array) rolled by half, at most."""
    result = function(array)
    rolled = function(np.roll(array, array.shape[axis] // 2, axis))
    return float(np.abs(rolled - np.roll(result, result.shape[axis] // 2, axis)).max())


def test_a_rolled_picture_is_the_picture_of_rolled_latents(seamless_bundle: Path, tiny_bundle: Path) -> None:
    """Decoder and encoder, along x; not along y, and not in an ordinary bundle."""
    random = np.random.default_rng(0)
    latents = random.normal(size=(1, 4, 16, 24)).astype(np.float32)
    pixels = random.uniform(-1, 1, (1, 3, 32, 48)).astype(np.float32)
    for seamless, ordinary, array in zip(halves(seamless_bundle), halves(tiny_bundle), (pixels, latents), strict=True):
        assert roll_error(seamless, array, axis=3) < PIXEL_TOLERANCE
        assert roll_error(seamless, array, axis=2) > 50 * PIXEL_TOLERANCE
        assert roll_error(ordinary, array, axis=3) > 50 * PIXEL_TOLERANCE


def wrap_on_x(module: torch.nn.Module) -> None:
    """The reference's patch: torch's own circular and constant padding in front of every convolution."""

    def conv_forward(self: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows, columns = self.padding
        x = torch.nn.functional.pad(x, (columns, columns, 0, 0), mode="circular")
        x = torch.nn.functional.pad(x, (0, 0, rows, rows), mode="constant")
        return torch.nn.functional.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer._conv_forward = conv_forward.__get__(layer)  # type: ignore[method-assign]


def test_a_whole_picture_equals_diffusers(seamless_bundle: Path, checkpoint: Path) -> None:
    """Text to image with guidance; and the patch matters."""
    reference = DiffusersReference(checkpoint)
    request: dict[str, Any] = {"negative_prompt": "blurry", "guidance_scale": 7.5}
    theirs: dict[str, Any] = {"prompt": "a red apple", "sampler": "euler", "changes": {}, "steps": 4, "seeds": 7}
    unpatched = reference.draw(**theirs, **request, size=SIZE)
    wrap_on_x(reference.text.unet)
    wrap_on_x(reference.text.vae)
    expected = reference.draw(**theirs, **request, size=SIZE)
    with latentrt.open(seamless_bundle) as pipe:
        result = pipe("a red apple", num_inference_steps=4, sampler="euler", seed=7, output_type="np", **request)
    assert parity_of(result.latents, expected.latents).relative_error < LATENT_TOLERANCE
    assert parity_of(np.stack(result.images), expected.pixels).psnr > 50.0
    assert parity_of(result.latents, unpatched.latents).relative_error > 20 * LATENT_TOLERANCE


def test_the_graph_has_only_common_operators(seamless_bundle: Path) -> None:
    """Slices and concatenations: no Pad that wraps (TensorRT has none), no scattering."""
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        graph = onnx.load(seamless_bundle / f"onnx/fp32/{component}/model.onnx", load_external_data=False).graph
        kinds = {node.op_type for node in graph.node}
        assert not any(kind.startswith("Scatter") for kind in kinds)
        modes = {
            attribute.s
            for node in graph.node
            for attribute in node.attribute
            if node.op_type == "Pad" and attribute.name == "mode"
        }
        assert modes <= {b"constant"}
        assert component == "text_encoder" or {"Slice", "Concat"} <= kinds


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seamless", Seamless)
def test_convolutions(kernel: int, stride: int, seamless: Seamless) -> None:
    """Against torch's own padding, bit for bit."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2)
    x = torch.randn(2, 3, 12, 10)
    pad = kernel // 2
    expected = torch.nn.functional.pad(x, (pad, pad, 0, 0), mode="circular" if seamless.wraps_x else "constant")
    expected = torch.nn.functional.pad(expected, (0, 0, pad, pad), mode="circular" if seamless.wraps_y else "constant")
    expected = torch.nn.functional.conv2d(expected, conv.weight, conv.bias, stride)
    torch.testing.assert_close(seamless_module(conv, seamless)(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seamless", Seamless)
def test_the_encoders_downsampling(seamless: Seamless) -> None:
    """It pads at the right and the bottom alone, outside its convolution."""
    torch.manual_seed(0)
    layer = Downsample2D(4, use_conv=True, out_channels=4, padding=0)
    x = torch.randn(2, 4, 12, 10)
    expected = torch.nn.functional.pad(x, (0, 1, 0, 0), mode="circular" if seamless.wraps_x else "constant")
    expected = torch.nn.functional.pad(expected, (0, 0, 0, 1), mode="circular" if seamless.wraps_y else "constant")
    expected = torch.nn.functional.conv2d(expected, layer.conv.weight, layer.conv.bias, 2)
    torch.testing.assert_close(seamless_module(layer, seamless)(x), expected, rtol=1e-6, atol=1e-6)


class ExportedError(Exception):
    """Stands for the beginning of an export."""


def test_it_is_part_of_what_makes_a_bundle_up_to_date(
    seamless_bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same again is kept; another axis, or none, is exported anew."""

    def export_components(*_: Any) -> None:
        raise ExportedError

    stub = ModuleType("latentrt.export.components")
    stub.export_components = export_components  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "latentrt.export.components", stub)
    before = (seamless_bundle / "bundle.json").read_bytes()
    assert open_bundle(seamless_bundle).manifest.seamless is Seamless.X
    assert latentrt.build(checkpoint, seamless_bundle, profiles=["48x32"], seamless=Seamless.X).up_to_date
    for other in ("none", "y", "xy"):
        with pytest.raises(ExportedError):
            latentrt.build(checkpoint, seamless_bundle, profiles=["48x32"], seamless=other)
    assert latentrt.build(seamless_bundle).up_to_date
    assert latentrt.build(seamless_bundle, seamless="x").up_to_date
    assert (seamless_bundle / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("value", ["z", "yx", "", True, None])
def test_unknown_axes_are_refused(tiny_checkpoint: Path, tmp_path: Path, value: Any) -> None:
    """Before anything is read."""
    with pytest.raises(latentrt.RequestError, match=r"got seamless .* expected one of none, x, y, xy"):
        latentrt.build(tiny_checkpoint, tmp_path / "new.bundle", seamless=value)


def test_another_axis_for_a_bundle_is_refused(tiny_bundle: Path) -> None:
    """Engines of a bundle cannot wrap where its graphs do not."""
    with pytest.raises(latentrt.RequestError, match="seamless 'x' for a bundle built with 'none'"):
        latentrt.build(tiny_bundle, seamless="x")
