"""DeepCache: U-Nets that keep a feature and go on from it, against diffusers with that feature put in by hand."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from parity.unet_variants import Variant, assert_close, library_answer, opened_variants, random_inputs, without

from latentrt.engines.bundle.unet.deep_cache import branch_count, deep_feature
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import AddedInputs, CachePart, CacheRole
from latentrt.engines.spec import Array

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
