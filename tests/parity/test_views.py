"""New views of an object against the libraries' modules, and what must show where something is wrong."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.view_reference import Pose, ViewReference
from PIL import Image
from shared import linked_copy, write_sealed
from watched_engines import watch

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

pytestmark = pytest.mark.filterwarnings("ignore:a picture of .* is stretched")
LATENT_TOLERANCE = 1e-3
PICTURE_PSNR = 50.0
SIZE, WIDE = (32, 32), (48, 32)
COMMON: dict[str, Any] = {"num_inference_steps": 2, "sampler": "ddim", "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def reference(tiny_zero123_checkpoint: Path) -> ViewReference:
    """The libraries on the tiny checkpoint, whose projection is random: no mistake about poses could show otherwise."""
    reference = ViewReference(tiny_zero123_checkpoint)
    weight = reference.projection["projection.weight"].numpy()
    assert np.abs(weight - np.eye(*weight.shape)).mean() > 0.01
    return reference


@pytest.fixture(scope="module")
def pipe(tiny_zero123_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """Ours."""
    with latentrt.open(tiny_zero123_bundle, threads=1) as pipe:
        yield pipe


def picture(width: int = 48, height: int = 40) -> Image.Image:
    """An object before nothing: what is transparent has a colour that must not show."""
    ramp, fall = np.linspace(0, 255, width, dtype=np.uint8), np.linspace(255, 0, height, dtype=np.uint8)[:, None]
    pixels = np.stack(np.broadcast_arrays(ramp, fall, 255 - ramp, np.uint8(0)), axis=-1).copy()
    pixels[height // 4 : -height // 4, width // 4 : -width // 4, 3] = 255
    pixels[height // 2, :, 3] = 90
    return Image.fromarray(pixels, "RGBA")


def numbers(elevation: float = 0.0, azimuth: float = 0.0, distance: float = 0.0) -> Pose:
    """What Zero123 takes: as its authors' demo makes them, where polar angles grow downwards."""
    return math.radians(-elevation), math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth)), distance


def error(ours: Array, theirs: Array) -> float:
    return parity_of(ours, theirs).relative_error


def psnr(ours: Array, theirs: Array) -> float:
    """Of pictures in [0, 1]."""
    return float(-10 * np.log10(np.mean((ours.astype(np.float64) - theirs) ** 2) + 1e-12))


VIEWS = [(0.0, 0.0, 0.0), (30.0, 45.0, 0.2), (-20.0, 200.0, -0.3)]


def assert_views(pipe: latentrt.Pipeline, reference: ViewReference, image: Image.Image, **case: Any) -> None:
    """Three views at once are those of the libraries."""
    elevations, azimuths, distances = zip(*VIEWS, strict=True)
    width, height = case.pop("size")
    seeds = case.pop("seeds")
    expected = reference.draw(
        image, [numbers(*view) for view in VIEWS], seeds=seeds, size=(width, height), steps=4, **case
    )
    result = pipe.view(
        image,
        elevation=elevations,
        azimuth=azimuths,
        distance=distances,
        seed=seeds,
        width=width,
        height=height,
        num_inference_steps=4,
        output_type="np",
        **case,
    )
    assert error(result.latents, expected.latents) <= LATENT_TOLERANCE
    assert psnr(np.stack(result.images), expected.pixels) >= PICTURE_PSNR


CASES: list[dict[str, Any]] = [
    {"sampler": "ddim", "guidance_scale": 3.0, "seeds": 7, "size": WIDE},
    {"sampler": "euler_a", "guidance_scale": 3.0, "seeds": [3, 3, 9], "size": SIZE},
    {"sampler": "dpmpp_2m_k", "guidance_scale": 1.0, "seeds": 1, "size": WIDE},
]


@pytest.mark.parametrize("case", CASES, ids=[case["sampler"] for case in CASES])
def test_views(pipe: latentrt.Pipeline, reference: ViewReference, case: dict[str, Any]) -> None:
    """With one generator for all and with one each; the image encoder's square is no larger than the pictures."""
    assert_views(pipe, reference, picture(), **case)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler_a", "heun", "dpmpp_2m_k", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize("seeds", [7, [3, 3, 9]], ids=["shared", "each"])
@pytest.mark.parametrize("image", [picture(), picture(32, 32).convert("RGB")], ids=["transparent", "opaque"])
@pytest.mark.parametrize("size", [SIZE, WIDE], ids=["square", "wide"])
def test_views_of_all_kinds(
    pipe: latentrt.Pipeline,
    reference: ViewReference,
    sampler: str,
    guidance_scale: float,
    seeds: int | list[int],
    image: Image.Image,
    size: tuple[int, int],
) -> None:
    """Every combination."""
    case = {"sampler": sampler, "guidance_scale": guidance_scale, "seeds": seeds, "size": size}
    assert_views(pipe, reference, image, **case)


# What changes one of the four numbers alone: the sine has another sign, or the cosine
ALONE = {
    "polar": ({"azimuth": 30.0}, {"azimuth": 30.0, "elevation": 20.0}),
    "sine": ({"azimuth": 30.0}, {"azimuth": -30.0}),
    "cosine": ({"azimuth": 30.0}, {"azimuth": 150.0}),
    "distance": ({"azimuth": 30.0}, {"azimuth": 30.0, "distance": 0.3}),
}


@pytest.mark.parametrize("number", ALONE)
def test_each_number_of_a_pose_changes_the_view(pipe: latentrt.Pipeline, reference: ViewReference, number: str) -> None:
    """And as the reference says."""
    before, after = ALONE[number]
    changed = np.abs(np.subtract(numbers(**before), numbers(**after))) > 1e-9
    assert list(changed) == [name == number for name in ALONE]
    drawn = [pipe.view(picture(), seed=1, output_type="latent", **COMMON, **pose).latents for pose in (before, after)]
    assert error(drawn[0], drawn[1]) > 3 * LATENT_TOLERANCE
    expected = reference.draw(picture(), [numbers(**after)], seeds=1, size=SIZE, steps=2)
    assert error(drawn[1], expected.latents) <= LATENT_TOLERANCE


def test_a_whole_turn_is_where_it_began(pipe: latentrt.Pipeline) -> None:
    """360 degrees draw what 0 draw."""
    none, whole = (pipe.view(picture(), azimuth=turn, seed=1, output_type="np", **COMMON) for turn in (0, 360))
    np.testing.assert_allclose(none.images[0], whole.images[0], atol=1e-6)


@pytest.mark.parametrize("mistake", [{"latent_scale": 0.18215}, {"antialias": True}], ids=["scaled", "antialiased"])
def test_the_gate_tells_mistakes(pipe: latentrt.Pipeline, reference: ViewReference, mistake: dict[str, Any]) -> None:
    """Latents of the picture in the U-Net's scale, and a picture for CLIP as most resize it."""
    fine = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8))
    drawn = pipe.view(fine, elevation=10, azimuth=60, seed=1, width=48, height=32, output_type="latent", **COMMON)
    right, wrong = (
        reference.draw(fine, [numbers(10.0, 60.0)], seeds=1, size=WIDE, steps=2, **changed).latents
        for changed in ({}, mistake)
    )
    assert error(drawn.latents, right) <= LATENT_TOLERANCE < error(drawn.latents, wrong)


def test_the_unconditional_half_sees_zeros(pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the projection, whose bias it has not, and behind the noised latents; the other half sees neither."""
    runs = watch(pipe, monkeypatch)
    pipe.view(picture(), azimuth=90, seed=1, output_type="latent", **COMMON)
    channels = pipe.manifest.latents.channels
    for run in runs["unet"]:
        against, conditional = run["encoder_hidden_states"][0], run["encoder_hidden_states"][1]
        assert not against.any()
        assert conditional.any()
        assert not run["sample"][0, channels:].any()
        assert run["sample"][1, channels:].any()
        np.testing.assert_array_equal(run["sample"][0, :channels], run["sample"][1, :channels])


def test_without_guidance_there_is_no_unconditional_half(
    pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight of 1: one row a step."""
    runs = watch(pipe, monkeypatch)
    pipe.view(picture(), azimuth=90, seed=1, output_type="latent", **{**COMMON, "guidance_scale": 1.0})
    assert [len(run["sample"]) for run in runs["unet"]] == [1] * 2
    assert all(run["encoder_hidden_states"].any() for run in runs["unet"])


def test_several_views_are_those_that_would_be_drawn_alone(
    pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is encoded once for all of them."""
    azimuths, seeds = [0, 120, 240], [4, 4, 5]
    alone = [pipe.view(picture(), azimuth=a, seed=[s], output_type="latent", **COMMON).latents
             for a, s in zip(azimuths, seeds, strict=True)]  # fmt: skip
    runs = watch(pipe, monkeypatch)
    together = pipe.view(picture(), azimuth=azimuths, seed=seeds, output_type="latent", **COMMON)
    assert error(together.latents, np.concatenate(alone)) <= 1e-5
    assert [len(run["pixels"]) for run in runs["image_encoder"]] == [1]
    assert [len(run["sample"]) for run in runs["vae_encoder"]] == [1]
    assert sum(len(run["sample"]) for run in runs["unet"]) == 2 * 2 * 3


@pytest.fixture
def stable(tiny_zero123_bundle: Path, tmp_path: Path) -> Iterator[latentrt.Pipeline]:
    """The same model, as if it was the other kind: only the record tells."""
    folder = linked_copy(tiny_zero123_bundle, tmp_path / "stable.bundle")
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["conditioning"]["pose"]["kind"] = "image-elevation"
    write_sealed(folder / "bundle.json", manifest)
    with latentrt.open(folder, threads=1) as pipe:
        yield pipe


def test_the_fourth_number_of_stable_zero123(stable: latentrt.Pipeline, reference: ViewReference) -> None:
    """The polar angle of the picture; left out, it was taken at the height of the object."""
    for keywords, polar in (({}, 90.0), ({"image_elevation": 25.0}, 65.0)):
        poses = [(*numbers(-15.0, 80.0)[:3], math.radians(polar))]
        expected = reference.draw(picture(), poses, seeds=1, size=SIZE, steps=2)
        drawn = stable.view(picture(), elevation=-15, azimuth=80, seed=1, output_type="latent", **COMMON, **keywords)
        assert error(drawn.latents, expected.latents) <= LATENT_TOLERANCE
    with pytest.raises(RequestError, match="got distance with a model whose fourth number is image_elevation"):
        stable.view(picture(), distance=0.1)
