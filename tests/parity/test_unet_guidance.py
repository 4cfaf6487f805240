"""Perturbed attentions and FreeU in exported U-Nets: what diffusers does, alone and with everything else."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from parity.unet_variants import Variant, assert_close, library_answer, opened_variants, random_inputs, without

from latentrt.engines.bundle.unet.added_inputs import (
    FREEU_BACKBONE,
    FREEU_SKIPS,
    PERTURBED_ATTENTIONS,
    freeu_blocks,
    freeu_modes,
    plane_size,
)
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import AddedInputs
from latentrt.engines.spec import Array
from latentrt.runtime.denoiser.conditions.freeu import low_frequencies

PERTURBED, FREEU = AddedInputs.PERTURBED_ATTENTION, AddedInputs.FREEU
slow = pytest.mark.slow
FAMILIES = ("sd1", pytest.param("sd2", marks=slow), "sdxl", pytest.param("emoji", marks=slow))


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Variant]]:
    """By family and precision; opened when it is first asked for."""
    with opened_variants(request) as variants:
        yield variants


def perturbed(library: Any, layers: Sequence[str], passes: int) -> None:
    """Has diffusers' own PAG perturb the last sample of two or three."""
    from diffusers.pipelines.pag.pag_utils import PAGMixin

    pipe: Any = PAGMixin()
    pipe.unet = library
    pipe.set_pag_applied_layers(list(layers))
    pipe._set_pag_attn_processor(pipe.pag_applied_layers, passes == 3)


def rows_of(unet: Variant, layers: Sequence[str], passes: int) -> Array:
    """The same as an engine's input."""
    chosen = [any(layer in one.scope for layer in layers) for one in unet.component.structure.self_attentions]
    assert any(chosen)
    rows = np.zeros((passes, len(chosen)), np.float32)
    rows[-1] = chosen
    return rows


def freeu(unet: Variant, batch: int, b1: float, b2: float, s1: float, s2: float) -> dict[str, Array]:
    """FreeU's factors as an engine's inputs."""
    structure, size = unet.component.structure, unet.component.manifest.latents.size(unet.shapes().profile)
    blocks = freeu_blocks(structure)
    modes = {
        freeu_modes(index): np.repeat(low_frequencies(*plane_size(size, block.level))[None], batch, 0)
        for index, block in enumerate(blocks)
    }
    factors = {FREEU_BACKBONE: (b1, b2), FREEU_SKIPS: (s1, s2)}
    return {name: np.tile(np.array(pair, np.float32), (batch, 1)) for name, pair in factors.items()} | modes


def own_inputs(engine: Engine, batch: int) -> dict[str, Array]:
    """Random ones, without what is added."""
    return without(random_inputs(engine, batch), engine)


@pytest.mark.parametrize("name", FAMILIES)
def test_perturbed_attentions_are_diffusers(name: str, variant: Callable[[str], Variant]) -> None:
    """In some layers, of the last of three samples and of two; what is not perturbed keeps its last bit."""
    unet = variant(name)
    engine = unet.engine(PERTURBED)
    for layers, passes in ((["mid"], 3), (["down_blocks", "up_blocks"], 2)):
        library = unet.diffusers()
        perturbed(library, layers, passes)
        inputs = own_inputs(engine, passes)
        found = engine.run({**inputs, PERTURBED_ATTENTIONS: rows_of(unet, layers, passes)})["out_sample"]
        assert_close(found, library_answer(library, inputs, unet.component.structure, {}))
        plain = engine.run(inputs)["out_sample"]
        np.testing.assert_array_equal(found[:-1], plain[:-1])
        assert np.abs(found[-1] - plain[-1]).mean() > 1e-3 * np.abs(found).mean()


@pytest.mark.parametrize("name", FAMILIES)
def test_freeu_is_diffusers(name: str, variant: Callable[[str], Variant]) -> None:
    """Both pairs of factors, each of them with nothing to do in turn; and nothing at all, to the last bit."""
    unet = variant(name)
    engine, library = unet.engine(FREEU), unet.diffusers()
    inputs = own_inputs(engine, 2)
    plain = engine.run(inputs)["out_sample"]
    for b1, b2, s1, s2 in ((1.5, 1.6, 0.9, 0.2), (1.0, 1.0, 0.2, 1.0), (1.3, 0.8, 1.0, 1.0)):
        library.enable_freeu(s1=s1, s2=s2, b1=b1, b2=b2)
        found = engine.run({**inputs, **freeu(unet, 2, b1, b2, s1, s2)})["out_sample"]
        assert_close(found, library_answer(library, inputs, unet.component.structure, {}))
        assert np.abs(found - plain).mean() > 1e-3 * np.abs(found).mean()
    np.testing.assert_array_equal(engine.run({**inputs, **freeu(unet, 2, 1, 1, 1, 1)})["out_sample"], plain)
    one = {name: array.copy() for name, array in freeu(unet, 2, 1.5, 1.6, 0.9, 0.2).items()}
    one[FREEU_BACKBONE][0] = one[FREEU_SKIPS][0] = 1.0
    np.testing.assert_array_equal(engine.run({**inputs, **one})["out_sample"][0], plain[0])


@pytest.mark.parametrize(
    ("name", "bound"),
    [("sd1", 2e-5), *(pytest.param(*row, marks=slow) for row in (("sdxl", 2e-5), ("sd2", 2e-5), ("emoji", 2e-5))),
     ("sd1-fp16", 3e-3), ("emoji-int8", 0.1)],
)  # fmt: skip
def test_together_with_control(name: str, bound: float, variant: Callable[[str], Variant]) -> None:
    """FreeU filters skips with their residuals, and perturbed samples have both."""
    unet = variant(name)
    engine, library = unet.engine(AddedInputs.CONTROL, PERTURBED, FREEU), unet.diffusers()
    added = {PERTURBED_ATTENTIONS: rows_of(unet, ["mid", "up"], 3), **freeu(unet, 3, 1.5, 1.6, 0.9, 0.2)}
    inputs = {name: array for name, array in random_inputs(engine, 3).items() if name not in added}
    perturbed(library, ["mid", "up"], 3)
    library.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    expected = library_answer(library, inputs, unet.component.structure, {})
    assert_close(engine.run({**inputs, **added})["out_sample"], expected, bound)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 2), (3, 5), (16, 12), (13, 64)])
def test_low_frequencies_are_the_librarys(height: int, width: int) -> None:
    """Of planes of every kind: odd, of two places, of one."""
    from diffusers.utils.torch_utils import fourier_filter

    planes = np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32) + 2.0
    modes, flat = low_frequencies(height, width), planes.reshape(2, 3, -1)
    found = (flat + (flat @ modes.T * -0.7) @ modes).reshape(planes.shape)
    expected = fourier_filter(torch.from_numpy(planes), threshold=1, scale=0.3)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=5e-6)
