"""Gaussian noise equal to that of torch's CPU generator, so that a seed means the same picture."""

import math

import numpy as np

from latentrt.engines.spec import Array
from latentrt.runtime.sampling.schedule import Level

_BLOCK = 16  # torch pairs the uniforms of one block of 16: element j with j + 8


class Generator:
    """The stream of ``torch.Generator("cpu").manual_seed(seed)`` as consumed by ``torch.randn`` in float32.

    The bits are MT19937's (Matsumoto and Nishimura 1998), seeded with the low 32 bits of ``seed`` as torch
    does; equal to torch to 2.4e-7, what its vectorised logarithm and cosine leave. Not thread-safe.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        # Matsumoto's init_genrand, which NumPy keeps for its legacy generator.
        self._bits._legacy_seeding(seed & 0xFFFFFFFF)
        self._spare: float | None = None

    def randn(self, shape: tuple[int, ...]) -> Array:
        """Standard normal values, float32, of the given shape; advances the stream as torch would."""
        size = math.prod(shape)
        if size < _BLOCK:
            return np.array([self._scalar() for _ in range(size)], np.float32).reshape(shape)
        uniforms = self._uniforms(size)
        whole = size - size % _BLOCK
        values = np.empty(size, np.float32)
        values[:whole] = _box_muller(uniforms[:whole])
        if whole < size:
            # torch draws the last 16 anew, overlapping the last whole block
            values[size - _BLOCK :] = _box_muller(self._uniforms(_BLOCK))
        return values.reshape(shape)

    def _uniforms(self, count: int) -> Array:
        raw = self._bits.random_raw(count).astype(np.uint32)
        return (raw & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)

    def _scalar(self) -> float:
        """One value by torch's path for fewer than 16: doubles from 53 bits, the second of a pair kept."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        u1, u2 = self._double(), self._double()
        radius = math.sqrt(-2.0 * math.log1p(-u2))
        self._spare = radius * math.sin(2.0 * math.pi * u1)
        return radius * math.cos(2.0 * math.pi * u1)

    def _double(self) -> float:
        high, low = (int(word) for word in self._bits.random_raw(2))
        return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53


def _box_muller(uniforms: Array) -> Array:
    """Box and Muller (1958) on blocks of 16 uniforms in [0, 1): float32, same length."""
    pairs = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - pairs[:, 0]))
    angle = np.float32(2.0 * math.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


class Noise:
    """Noise for a batch of latents: one stream for the whole batch, or one per picture."""

    def __init__(self, seeds: int | tuple[int, ...], shape: tuple[int, ...]) -> None:
        """Seeds the streams.

        Args:
            seeds: one seed for the batch, or one per picture.
            shape: (B, C, H/f, W/f), as drawn at every call.
        """
        self._shape = shape
        self.per_picture = not isinstance(seeds, int)
        self._shared = Generator(seeds) if isinstance(seeds, int) else None
        self._own = [] if isinstance(seeds, int) else [Generator(seed) for seed in seeds]
        self._walked: tuple[float, float, Array] | None = None

    def __call__(self, count: int | None = None) -> Array:
        """The next noise, float32: of the whole batch, or of its first ``count`` where one seed is shared."""
        if self._shared is not None:
            return self._shared.randn((count or self._shape[0], *self._shape[1:]))
        return np.concatenate([generator.randn((1, *self._shape[1:])) for generator in self._own])

    def of(self, shape: tuple[int, ...]) -> Array:
        """The next noise of other arrays (M, …), float32.

        Where one seed is shared, M is any number; else each stream gives one row, and M is theirs.
        """
        if self._shared is not None:
            return self._shared.randn(shape)
        return np.concatenate([generator.randn((1, *shape[1:])) for generator in self._own])

    def between(self, start: Level, end: Level) -> Array:
        """The noise, of unit variance, that one Brownian path brings on the way between two levels.

        The path's clock is σ. Ways that do not overlap have independent noise. A way that goes on beyond the last
        one from the same start contains that one's noise, as DPM++ SDE wants it.
        """
        fresh = self()
        here, there = start.ratio, end.ratio
        if self._walked is not None and self._walked[0] == here and there < self._walked[1]:
            _, middle, walked = self._walked
            share = (here - middle) / (here - there)
            fresh = math.sqrt(share) * walked + math.sqrt(1.0 - share) * fresh
        self._walked = (here, there, fresh)
        return fresh
