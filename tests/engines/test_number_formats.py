"""The numbers of eight bits: which is nearest, and what rounding to it took away."""

import ml_dtypes
import numpy as np
import pytest

from latentrt.engines.bundle.number_format import E4M3, INT8, NumberFormat
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype


@pytest.fixture(scope="module")
def numbers() -> Array:
    """Every number of E4M3, the middles between them and what is next to these, and many more of all sizes."""
    every = stored_dtype("float8_e4m3fn").values(np.arange(256, dtype=np.uint8))
    exact = np.sort(every[np.isfinite(every)])
    middles = (exact[1:] + exact[:-1]) / 2
    random = np.random.default_rng(0)
    spread = random.normal(size=20_000) * 10.0 ** random.uniform(-5.0, 2.6, 20_000)
    beside = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.clip(np.concatenate([exact, middles, *beside, spread]), -448.0, 448.0).astype(np.float32)


def test_the_nearest_of_fp8(numbers: Array) -> None:
    """As ml_dtypes has it, ties to even; what is too large becomes the largest number."""
    expected = numbers.astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(E4M3.nearest(numbers), expected.astype(np.float32))
    np.testing.assert_array_equal(stored_dtype("float8_e4m3fn").bits_of(numbers), expected.view(np.uint8))
    assert E4M3.nearest(np.array([449.0, -1e9], np.float32)).tolist() == [448.0, -448.0]


@pytest.mark.parametrize("form", [INT8, E4M3])
def test_what_rounding_lost(form: NumberFormat, numbers: Array) -> None:
    """Put together again, a number is as near as eight bits more can be, and rounds as before."""
    multiples = numbers if form is E4M3 else numbers / np.float32(4.0)
    stored = form.stored(multiples)
    restored = form.restored(stored, form.lost(multiples, stored))
    np.testing.assert_array_equal(form.stored(restored), stored)
    distance = np.maximum(np.abs(multiples) / 7.5, 2.0**-9) if form is E4M3 else 1.0
    assert (np.abs(restored - multiples) <= distance / 505.0 + np.abs(multiples) * 1e-6).all()
    assert np.abs(restored - multiples).max() < 0.02 * np.abs(form.nearest(multiples) - multiples).max()


def test_steps() -> None:
    """Of int8 a channel of zeros has 1; of fp8 none is below float16's normal numbers."""
    peaks = np.array([0.0, 1e-5, 127.0, 448.0], np.float32)
    np.testing.assert_allclose(INT8.steps(peaks), [1.0, 1e-5 / 127, 1.0, 448 / 127], rtol=1e-6)
    np.testing.assert_allclose(E4M3.steps(peaks), [2.0**-14, 2.0**-14, 127 / 448, 1.0], rtol=1e-6)
    assert INT8.steps(peaks, 64)[2] == np.float32(127 / 64)
