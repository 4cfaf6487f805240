"""DeepCache: U-Nets that keep a feature and go on from it, against diffusers with that feature put in by hand."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference
from parity.test_control import drawing, psnr
from parity.unet_variants import Variant, assert_close, library_answer, opened_variants, random_inputs, without

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.unet.deep_cache import branch_count, deep_feature
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import AddedInputs, CachePart, CacheRole
from latentrt.engines.spec import Array
from latentrt.models import EMOJI

LATENT_TOLERANCE, PICTURE_PSNR = 1e-4, 50.0
SEED, STEPS = 7, 9
slow = pytest.mark.slow


class ByHand:
    """Keeps what the last up block's layer of a branch takes of diffusers' U-Net, or puts it in again.

    All that the layers below computed goes through it, so it does not matter that diffusers computes them once more.
    """

    def __init__(self, unet: Any, branch: int) -> None:
        self.kept: Any = None
        self.puts_in = False
        block = unet.up_blocks[-1]
        self._layer = block.resnets[len(block.resnets) - 1 - branch]
        below = unet.down_blocks[0]
        self._skip = unet.conv_in if branch == 0 else below.resnets[branch - 1]
        self._skip = self._skip.out_channels

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While it does."""
        handle = self._layer.register_forward_pre_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()

    def _hook(self, _: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        joined, *rest = given
        own = joined.shape[1] - self._skip
        if self.puts_in:
            return torch.cat([self.kept, joined[:, own:]], dim=1), *rest
        self.kept = joined[:, :own].clone()
        return given


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Variant]]:
    """By family and precision; opened when it is first asked for."""
    with opened_variants(request) as variants:
        yield variants


def taken(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What an engine takes of some inputs."""
    return {name: array for name, array in inputs.items() if name in engine.spec.inputs}


@pytest.mark.parametrize(
    ("name", "bound"),
    [("sd1", 2e-5), *(pytest.param(*row, marks=slow) for row in (("sdxl", 2e-5), ("sd2", 2e-5), ("emoji", 2e-5))),
     pytest.param("sd1-fp16", 3e-3, marks=slow), pytest.param("emoji-int8", 0.1, marks=slow)],
)  # fmt: skip
def test_shallow_calls_are_diffusers(name: str, bound: float, variant: Callable[[str], Variant]) -> None:
    """Of every branch, with another sample and timestep than those of the feature; with the same, to the last bit."""
    unet = variant(name)
    structure, library = unet.component.structure, unet.diffusers()
    plain = unet.engine()
    before, now = (random_inputs(plain, 2, seed) for seed in (1, 2))
    now["timestep"] = before["timestep"] - np.ones_like(before["timestep"])
    for branch in range(branch_count(structure)):
        keeps, shallow = (unet.engine(cached=CachePart(role=role, branch=branch)) for role in CacheRole)
        whole = keeps.run(before)
        np.testing.assert_array_equal(whole["out_sample"], plain.run(before)["out_sample"])
        feature = {deep_feature(branch): whole[deep_feature(branch)]}
        again = shallow.run({**taken(shallow, before), **feature})["out_sample"]
        np.testing.assert_array_equal(again, whole["out_sample"])
        found = shallow.run({**taken(shallow, now), **feature})["out_sample"]
        by_hand = ByHand(library, branch)
        with by_hand.hooked():
            library_answer(library, before, structure, {})
            by_hand.puts_in = True
            expected = library_answer(library, now, structure, {})
        assert_close(found, expected, bound)
        assert np.abs(found - plain.run(now)["out_sample"]).mean() > 1e-3 * np.abs(found).mean()


@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=slow)])
def test_with_added_inputs(name: str, variant: Callable[[str], Variant]) -> None:
    """Residuals of a control net for the skips that are computed, and all other inputs, too: to the last bit."""
    unet = variant(name)
    wanted = tuple(AddedInputs)
    keeps, shallow = (unet.engine(*wanted, cached=CachePart(role=role, branch=1)) for role in CacheRole)
    inputs = random_inputs(keeps, 2, 3, scale=0.3)
    assert {"down_residual_0", "down_residual_1"} <= shallow.spec.inputs.keys()
    assert "mid_residual" not in shallow.spec.inputs
    whole = keeps.run(inputs)
    again = {**taken(shallow, inputs), deep_feature(1): whole[deep_feature(1)]}
    np.testing.assert_array_equal(shallow.run(again)["out_sample"], whole["out_sample"])
    without_one = {**again, "down_residual_0": np.zeros_like(again["down_residual_0"])}
    assert np.abs(shallow.run(without_one)["out_sample"] - whole["out_sample"]).max() > 1e-3
    assert without(inputs, keeps).keys() >= {"sample", "timestep", "encoder_hidden_states"}


@pytest.mark.parametrize(
    ("family", "branch", "sampler"),
    [("sd1", 0, "euler"), *(pytest.param(*row, marks=slow) for row in (
        ("sd1", 1, "dpmpp_2m"), ("sdxl", 1, "euler"), ("sd2", 0, "ddim"), ("emoji", 0, "dpmpp_2m"),
        ("emoji", 1, "euler"),
    ))],
)  # fmt: skip
def test_pictures_are_those_of_diffusers(
    family: str,
    branch: int,
    sampler: str,
    request: pytest.FixtureRequest,
    family_bundle: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
) -> None:
    """Every third call is whole, counted from the first one of the run: in image-to-image and inpainting, too."""
    if family == "emoji":
        bundle, checkpoint = request.getfixturevalue("emoji_bundle"), EMOJI
    else:
        bundle, checkpoint = family_bundle(family), family_checkpoint(family)
    theirs = DiffusersReference(checkpoint)
    by_hand, calls = ByHand(theirs.text.unet, branch), 0

    def counts(*_: Any) -> None:
        nonlocal calls
        by_hand.puts_in, calls = calls % 3 != 0, calls + 1

    handle = theirs.text.unet.register_forward_pre_hook(counts)
    with latentrt.open(bundle, threads=1) as pipe, by_hand.hooked():
        profile = pipe.manifest.profiles[0]
        size = (profile.width, profile.height)
        start = drawing(size[0], 5)
        common: dict[str, Any] = {"prompt": "a red apple", "sampler": sampler, "guidance_scale": 4.0}
        mask = drawing(size[0], 6).convert("L").point(lambda value: 255 * (value > 100))
        ways: list[dict[str, Any]] = [{}, {"image": start, "strength": 0.9}]
        if branch:
            ways.append({"image": start, "mask_image": mask, "strength": 1.0})
        for given in ways:
            calls, steps = 0, STEPS + bool(given)
            expected = theirs.draw(**common, seeds=SEED, size=size, steps=steps, **given)
            own: Any = {**common, "seed": SEED, "num_inference_steps": steps, "output_type": "np"}
            draw: Any = pipe.inpaint if "mask_image" in given else pipe.img2img if given else pipe
            if "mask_image" in given:
                own["kept_pixels"] = "decoded"
            found = draw(**own, **given, deep_cache={"interval": 3, "branch": branch})
            assert parity_of(found.latents, expected.latents).relative_error <= LATENT_TOLERANCE
            assert psnr(np.stack(found.images), expected.pixels) >= PICTURE_PSNR
            assert parity_of(found.latents, draw(**own, **given).latents).relative_error >= 10 * LATENT_TOLERANCE
    handle.remove()
