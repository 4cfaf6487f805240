"""Tiles around engines whose result is known: cutting, blending, backends with fixed sizes, refusals."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import latentrt
from latentrt.engines.batches import in_batches
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import BATCH, Array, EngineSpec, TensorSpec
from latentrt.engines.store.components import OpenComponents
from latentrt.runtime.pictures.tiling import SlicedEngine, TiledEngine, VaeMode, vae_engine

F = 4
RECORD = LatentSpace(
    channels=2, scaling_factor=1.0, shift_factor=0.0, height_factor=F, width_factor=F, tile_pixels=16 * F
)
FLOAT = np.dtype(np.float32)


def spec(kind: str, width: int, height: int, batches: tuple[int, ...] = (1,)) -> EngineSpec:
    """Of a decoder or encoder at (width, height) pixels, with as many channels of pixels as of latents."""
    pixels = TensorSpec(shape=(BATCH, 2, height, width), dtype=FLOAT)
    latents = TensorSpec(shape=(BATCH, 2, height // F, width // F), dtype=FLOAT)
    source, result = (pixels, latents) if kind == "encoder" else (latents, pixels)
    return EngineSpec(inputs={"source": source}, outputs={"result": result}, batches=batches)


class Resizer:
    """An engine whose "decoder" repeats each latent F×F times and whose "encoder" takes one pixel in F×F.

    What it does to a tile does not depend on what lies around it, so tiles must give the whole picture's result.
    """

    def __init__(self, kind: str, width: int, height: int, batches: tuple[int, ...] = (1,)) -> None:
        self.kind = kind
        self.spec = spec(kind, width, height, batches)
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Resizes without interpolation."""
        self.spec.check(inputs)
        array = inputs["source"]
        self.shapes.append(array.shape)
        if self.kind == "encoder":
            return {"result": array[:, :, ::F, ::F].copy()}
        return {"result": array.repeat(F, axis=2).repeat(F, axis=3)}

    def close(self) -> None:
        """Nothing to close."""


SIZES = [(16, 16), (17, 16), (24, 40), (28, 29), (40, 64), (5, 37), (61, 12)]  # latents, (width, height)


def input_of(kind: str, width: int, height: int) -> Array:
    """Noise of the input's shape."""
    scale = F if kind == "encoder" else 1
    return np.random.default_rng(0).normal(size=(1, 2, height * scale, width * scale)).astype(np.float32)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fixed", [None, (16, 16), (24, 32)])
def test_tiles_of_a_local_engine_give_the_whole(
    kind: str, size: tuple[int, int], fixed: tuple[int, int] | None
) -> None:
    """Any size of picture; engines of any size, of one tile's size alone, and larger than a tile."""
    width, height = size
    made: list[Resizer] = []

    def at_size(tile_width: int, tile_height: int) -> Resizer:
        assert max(tile_width, tile_height) <= RECORD.tile_pixels
        sizes = (tile_width, tile_height) if fixed is None else (fixed[0] * F, fixed[1] * F)
        made.append(Resizer(kind, *sizes, batches=(2,) if fixed else (1,)))
        return made[-1]

    array = input_of(kind, width, height)
    tiled = TiledEngine(spec(kind, width * F, height * F), at_size, RECORD)
    result = tiled.run({"source": array})["result"]
    expected = Resizer(kind, width * F, height * F).run({"source": array})["result"]
    np.testing.assert_allclose(result, expected, atol=1e-6)  # a blend of equals rounds once
    assert len(made) == -(-width // 12) * -(-height // 12)


def test_neighbours_fade_into_each_other() -> None:
    """Tiles of constants 0, 1, 2, …: a quarter of a tile of ramp, then the tile's own value."""
    values = iter(range(3))

    class Constant(Resizer):
        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"result": np.full_like(super().run(inputs)["result"], next(values))}

    tiled = TiledEngine(spec("decoder", 36 * F, 12 * F), lambda w, h: Constant("decoder", w, h), RECORD)
    row = tiled.run({"source": input_of("decoder", 36, 12)})["result"][0, 0, 0]
    ramp = np.arange(16, dtype=np.float32) / 16
    expected = np.concatenate([np.zeros(48), ramp, np.ones(32), 1 + ramp, np.full(32, 2)])
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_one_sample_at_a_time() -> None:
    """Slices and tiles never see a batch of two."""
    whole = Resizer("decoder", 64, 64, batches=(1, 2, 3))
    array = np.repeat(input_of("decoder", 16, 16), 3, axis=0)
    sliced = in_batches(SlicedEngine(whole), "source", array, "result")
    np.testing.assert_array_equal(sliced, in_batches(whole, "source", array, "result"))
    assert [shape[0] for shape in whole.shapes] == [1, 1, 1, 3]


def opened(bundle: Path, seamless: Seamless = Seamless.NONE) -> OpenComponents:
    """A bundle's components."""
    found = open_bundle(bundle)
    manifest = found.manifest.model_copy(update={"seamless": seamless})
    return OpenComponents(Bundle(root=found.root, manifest=manifest), Backend.ORT_CPU, threads=1)


def test_the_ways_of_a_bundle(tiny_bundle: Path) -> None:
    """Whole keeps the profile's batches; sliced, and tiled where a tile is enough, run one at a time."""
    components = opened(tiny_bundle)
    small, large = Profile(width=32, height=32, batch=2), Profile(width=48, height=32)
    assert vae_engine(components, "vae_decoder", small, VaeMode.WHOLE).spec.batches == (1, 2)
    for mode in (VaeMode.SLICED, VaeMode.TILED):
        engine = vae_engine(components, "vae_decoder", small, mode)
        assert isinstance(engine, SlicedEngine)
        assert engine.spec.batches == (1,)
    assert isinstance(vae_engine(components, "vae_decoder", large, "tiled"), TiledEngine)
    for wrong in ("tile", "", None, True):
        with pytest.raises(RequestError, match="expected one of whole, sliced, tiled"):
            vae_engine(components, "vae_decoder", large, wrong)  # type: ignore[arg-type]
    components.close()


def test_tiles_of_a_seamless_bundle_are_refused(tiny_bundle: Path) -> None:
    """Each tile would wrap around by itself; where one tile is enough nothing is wrong."""
    components = opened(tiny_bundle, Seamless.X)
    with pytest.raises(RequestError, match=r"48x32 and a seamless bundle.*'whole' or 'sliced'"):
        vae_engine(components, "vae_decoder", Profile(width=48, height=32), VaeMode.TILED)
    vae_engine(components, "vae_decoder", Profile(width=32, height=32), VaeMode.TILED)
    components.close()


def test_a_manifest_with_an_impossible_tile_is_refused(tiny_copy: Path) -> None:
    """A tile that cannot overlap by a quarter."""
    path = tiny_copy / "bundle.json"
    path.write_text(path.read_text().replace('"tile_pixels": 32', '"tile_pixels": 12'))
    with pytest.raises(latentrt.BundleError, match="tile_pixels 12 is no multiple of 8"):
        latentrt.open(tiny_copy)
