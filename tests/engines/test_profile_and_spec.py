"""Profiles as text, and tensors checked before native code sees them."""

import re
from pathlib import Path

import numpy as np
import pytest

from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile, Shapes, profile_for_size, profile_from_text
from latentrt.engines.spec import BATCH, EngineSpec, TensorSpec

SPEC = EngineSpec(
    inputs={
        "sample": TensorSpec(shape=(BATCH, 4, 8, 6), dtype=np.dtype("float32")),
        "timestep": TensorSpec(shape=(1,), dtype=np.dtype("float32")),
    },
    outputs={},
    batches=(1, 2, 4),
)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("512x512", Profile(width=512, height=512)),
        (" 768X512x2 ", Profile(width=768, height=512, batch=2)),
        ("8x16x1", Profile(width=8, height=16)),
    ],
)
def test_profiles_parse_and_print(text: str, profile: Profile) -> None:
    """Width first; a batch of one is not written."""
    assert profile_from_text(text) == profile
    assert profile_from_text(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "512", "512x", "x512", "512x512x2x2", "-1x8", "8x8x0", "0x8", "8.5x8", "9" * 9])
def test_other_texts_are_refused(text: str) -> None:
    """With the form that is expected."""
    with pytest.raises(RequestError, match=r"512x512|WIDTHxHEIGHT"):
        profile_from_text(text)


def test_a_size_is_found_exactly_or_not_at_all() -> None:
    """Never another one that is close."""
    profiles = [Profile(width=64, height=48), Profile(width=32, height=32, batch=2)]
    assert profile_for_size(profiles, 32, 32, multiple=8) is profiles[1]
    with pytest.raises(RequestError, match=r"48x64.*64x48, 32x32x2.*--profile 48x64$"):
        profile_for_size(profiles, 48, 64, multiple=8)


@pytest.mark.parametrize(
    ("size", "advised"),
    [
        ((513, 511), "512x512"),
        ((65, 64), "64x64"),
        ((1, 700), "64x704"),
        ((95, 97), "64x128"),
        ((760, 520), None),  # the bundle has the nearest one
        ((0, 512), None),
        ((-64, 512), None),
        ((100000, 512), None),  # more than a profile can be written with
    ],
)
def test_what_is_advised_can_be_built(size: tuple[int, int], advised: str | None) -> None:
    """The nearest size whose sides the model can halve, if the bundle lacks it, or none."""
    with pytest.raises(RequestError, match=f"got size {size[0]}x{size[1]}.*ask for one of these") as refused:
        profile_for_size([Profile(width=768, height=512, batch=2)], *size, multiple=64)
    profiles = re.findall(r"--profile (\S+)", str(refused.value))
    assert profiles == ([] if advised is None else [advised])
    for text in profiles:
        profile = profile_from_text(text)
        assert profile.width % 64 == profile.height % 64 == 0


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_matching_arrays_pass(batch: int) -> None:
    """Every batch that the engine runs."""
    SPEC.check({"sample": np.zeros((batch, 4, 8, 6), np.float32), "timestep": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("sample", "got"),
    [
        (np.zeros((1, 4, 6, 8), np.float32), r"sample \(1, 4, 6, 8\) float32"),
        (np.zeros((1, 4, 8, 6)), r"sample \(1, 4, 8, 6\) float64"),
        (np.zeros((3, 4, 8, 6), np.float32), r"sample \(3, 4, 8, 6\) float32"),
        (np.zeros((4, 8, 6), np.float32), r"sample \(4, 8, 6\) float32"),
        (None, r"got timestep \(1\) float32"),
    ],
)
def test_others_are_refused_with_got_and_expected(sample: np.ndarray | None, got: str) -> None:
    """Transposed, of another dtype, of a batch that is not run, of another rank, missing."""
    arrays = {"sample": sample, "timestep": np.zeros(1, np.float32)}
    with pytest.raises(RequestError, match=rf"{got}.*expected sample \(batch, 4, 8, 6\) float32.*1, 2, 4"):
        SPEC.check({name: array for name, array in arrays.items() if array is not None})


def test_specs_for_prompts_of_several_chunks_are_static(tiny_bundle: Path) -> None:
    """A U-Net engine's spec at k chunks has k times the prompt length; nothing else changes."""
    manifest = open_bundle(tiny_bundle).manifest
    unet = Component(root=tiny_bundle, manifest=manifest, name="unet")
    one, three = (unet.spec_of_any_batch(Shapes(profile=manifest.profiles[0], chunks=chunks)) for chunks in (1, 3))
    assert one.inputs["encoder_hidden_states"].shape == ("batch", 77, 64)
    assert three.inputs["encoder_hidden_states"].shape == ("batch", 231, 64)
    assert {**three.inputs, "encoder_hidden_states": None} == {**one.inputs, "encoder_hidden_states": None}
    assert three.outputs == one.outputs
    arrays = {"encoder_hidden_states": np.zeros((1, 231, 64), np.float32)}
    assert manifest.chunks("unet", arrays) == 3
    assert manifest.chunks("vae_decoder", arrays) == 1


def test_an_input_too_many_is_refused() -> None:
    """Names are compared, too."""
    arrays = {"sample": np.zeros((1, 4, 8, 6), np.float32), "timestep": np.zeros(1, np.float32)}
    with pytest.raises(RequestError, match="mask"):
        SPEC.check({**arrays, "mask": np.zeros(1)})
