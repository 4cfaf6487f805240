"""An upscaler: pictures in, larger pictures out, around the engine of one bundle."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count as count_from
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from latentrt.engines.bundle.bundle import UpscalerBundle, open_upscaler
from latentrt.engines.bundle.kinds import UPSCALER
from latentrt.engines.bundle.records.manifests.upscaler_manifest import ENLARGED, PICTURE, UpscalerManifest
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.machine import available_memory
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.runtime.checks import number
from latentrt.runtime.opened_bundle import OpenedBundle
from latentrt.runtime.upscaling.resizing import resized
from latentrt.runtime.upscaling.tiles import TileSource

_LARGEST_SCALE = 64.0
Tell = Callable[[int, int], None]
"""Is told how many tiles of how many are done."""


class Upscaler(OpenedBundle[UpscalerBundle]):
    """Enlarges pictures; ``latentrt.open_upscaler`` makes one, and ``latentrt.open`` of an upscaler's bundle."""

    called, opener = "the upscaler", "latentrt.open_upscaler"

    @property
    def manifest(self) -> UpscalerManifest:
        """What its bundle says of it."""
        return self._bundle.manifest

    @property
    def scale(self) -> int:
        """How many pixels a side of one becomes in one pass; 1 for networks that restore pictures at their size."""
        return self.manifest.scale

    @overload
    def upscale(
        self, image: Image.Image, scale: float | None = None, *, progress: Tell | None = None
    ) -> Image.Image: ...

    @overload
    def upscale(self, image: Array, scale: float | None = None, *, progress: Tell | None = None) -> Array: ...

    @overload
    def upscale(
        self, image: Sequence[Any], scale: float | None = None, *, progress: Tell | None = None
    ) -> list[Any]: ...

    def upscale(self, image: Any, scale: float | None = None, *, progress: Tell | None = None) -> Any:
        """Enlarges a picture, or each of a list.

        Args:
            image: PIL of any mode and size; arrays or torch's tensors, uint8 or floats in [0, 1], one picture (H, W),
                (H, W, C) or (C, H, W), or several (N, …), as ``img2img`` takes them; or a list of these.
            scale: how many times as wide and high; None takes the network's own. Another one is reached with as many
                passes as it takes, and then with Lanczos.
            progress: is told after each tile how many of how many are done.

        Returns:
            Of PIL pictures PIL, with transparency where they had it: their alpha goes through the network as grey. Of
            arrays float32 in [0, 1] with the channels last, (H', W', 3) or (N, H', W', 3); transparency is laid on
            white. Of a list a list.

        Raises:
            RequestError: no picture, a scale outside of 1 to 64, or a result that memory does not hold.
            EngineError: closed, or no engine fits this machine.
        """
        from latentrt.runtime.upscaling.pictures import upscaled_pictures

        return upscaled_pictures(self.upscaled, image, scale, progress)

    def upscaled(self, pixels: Array, scale: float | None = None, *, progress: Tell | None = None) -> Array:
        """Enlarges pictures in their plainest form; ``upscale`` takes all others.

        Args:
            pixels: (N, H, W, 3) float32 in [0, 1], or uint8.
            scale: as ``upscale`` takes it.
            progress: as ``upscale`` takes it.

        Returns:
            (N, H', W', 3) of the same type, H' and W' being the nearest whole numbers to H · scale and W · scale.

        Raises:
            RequestError: another shape or type, a scale outside of 1 to 64, or a result that memory does not hold.
            EngineError: closed, or no engine fits this machine.
        """
        _check_pixels(pixels)
        scale = float(self.scale) if scale is None else _checked_scale(scale)
        passes = self._passes(scale)
        _check_memory(pixels, self.scale**passes, scale)
        count, height, width, _ = pixels.shape
        tiles = self.tiles
        factors = [self.scale**index for index in range(passes)]
        total = count * sum(tiles.count(height * factor, width * factor) for factor in factors)
        done = count_from(1)

        def enlarged(picture: Array) -> Array:
            for _ in range(passes):
                larger = np.empty((picture.shape[0] * self.scale, picture.shape[1] * self.scale, 3), pixels.dtype)
                for _ in tiles.run(picture, larger):
                    if progress is not None:
                        progress(next(done), total)
                picture = larger
            return resized(picture, round(height * scale), round(width * scale))

        results = [enlarged(picture) for picture in pixels]
        return results[0][None] if count == 1 else np.stack(results)

    def _passes(self, scale: float) -> int:
        """How often a picture goes through the network until it is large enough."""
        passes = 1
        while self.scale > 1 and self.scale**passes < scale:
            passes += 1
        return passes

    @property
    def tiles(self) -> TileSource:
        """What cuts pictures into tiles and runs them."""
        manifest = self.manifest
        return TileSource(
            engine_at=self._engine_at,
            source=PICTURE,
            result=ENLARGED,
            scale=manifest.scale,
            sizes=manifest.profiles,
            multiple=manifest.pixel_multiple,
            smallest=manifest.smallest,
        )

    def _engine_at(self, width: int, height: int) -> Engine:
        return self.engine(UPSCALER, Shapes(profile=Profile(width=width, height=height)))


def upscaler_from_path(path: str | Path, *, backend: str = AUTO, threads: int | None = None) -> Upscaler:
    """Opens an upscaler's bundle.

    Args:
        path: the bundle's folder.
        backend: its name, or ``"auto"``: the best one.
        threads: threads of a call on the CPU; None takes one per core.

    Raises:
        BundleError: no bundle, another sort's, damaged, or of a newer latentrt.
        EngineError: no engine in it fits this machine.
        RequestError: an unknown backend.
    """
    bundle = open_upscaler(path)
    reopen = partial(upscaler_from_path, path, backend=backend, threads=threads)
    return Upscaler(bundle, chosen_backend(bundle, backend), threads=threads, reopen=reopen)


def _check_pixels(pixels: Array) -> None:
    shape, dtype = np.shape(pixels), getattr(pixels, "dtype", None)
    if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype not in (np.float32, np.uint8):
        raise RequestError(
            f"got pixels {shape} {dtype}, expected (N, height, width, 3) float32 in [0, 1] or uint8; give them so, or "
            "call upscale, which takes pictures of other forms"
        )


def _checked_scale(scale: Any) -> float:
    found = number(scale, "scale")
    if not 1.0 <= found <= _LARGEST_SCALE:
        raise RequestError(f"got scale {found:g}, expected 1 to {_LARGEST_SCALE:g}, such as 2; correct it")
    return found


def _check_memory(pixels: Array, factor: int, scale: float) -> None:
    """Refuses results that memory does not hold: the largest pass, and the result.

    Raises:
        RequestError: with the size.
    """
    count, height, width, channels = pixels.shape
    one = height * width * channels * pixels.itemsize
    needed, free = one * (factor**2 + count * scale**2), available_memory()
    if needed > free:
        size = f"{round(width * scale)}x{round(height * scale)}"
        raise RequestError(
            f"got scale {scale:g} for {count} pictures of {width}x{height}, whose results of {size} take about "
            f"{needed / 1e9:.1f} GB while {free / 1e9:.1f} GB are free; give a smaller scale, or fewer pictures"
        )
