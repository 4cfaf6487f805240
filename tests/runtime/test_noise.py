"""The noise is torch's, for every size and seed."""

import numpy as np
import pytest
import torch

from latentrt.runtime.sampling.noise import Generator, Noise

# What torch's vectorised logarithm and cosine leave
TOLERANCE = 5e-7
SHAPES = [(1,), (5,), (15,), (16,), (17,), (20,), (31,), (1, 4, 8, 8), (3, 4, 5, 7), (2, 4, 64, 64)]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**64 - 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch_draw_after_draw(shape: tuple[int, ...], seed: int) -> None:
    """Three successive draws; a small one between them, which torch serves by another path."""
    ours, theirs = Generator(seed), torch.Generator().manual_seed(seed)
    for size in (shape, shape, (3,), shape):
        np.testing.assert_allclose(ours.randn(size), torch.randn(size, generator=theirs).numpy(), atol=TOLERANCE)


def test_is_float32_with_mean_0_and_deviation_1() -> None:
    """A million values."""
    values = Generator(3).randn((1_000_000,))
    assert values.dtype == np.float32
    assert abs(float(values.mean())) < 0.005
    assert abs(float(values.std()) - 1.0) < 0.005


def test_one_seed_per_picture_draws_each_alone() -> None:
    """A picture's noise does not depend on its neighbours."""
    together = Noise((4, 9), (2, 4, 8, 8))
    alone = [Noise((seed,), (1, 4, 8, 8)) for seed in (4, 9)]
    for _ in range(2):
        np.testing.assert_array_equal(together(), np.concatenate([noise() for noise in alone]))


def test_one_seed_for_the_batch_is_one_stream() -> None:
    """As one generator for a batch in diffusers."""
    expected = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(4)).numpy()
    np.testing.assert_allclose(Noise(4, (2, 4, 8, 8))(), expected, atol=TOLERANCE)
