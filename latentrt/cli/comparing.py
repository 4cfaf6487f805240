"""One prompt drawn with two bundles: side by side, and how far apart.

What wants a picture is given the photograph that builds are compared on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.files import check_writable
from latentrt.engines.spec import Array
from latentrt.engines.store.choose import AUTO
from latentrt.opening import open_pipeline
from latentrt.quantization.calibration import draw_in_own_workflow
from latentrt.quantization.psnr import picture_psnr
from latentrt.runtime.call.workflow import check_reads_text
from latentrt.runtime.pictures.image import write_png

AMPLIFIED = 8  # factor by which differences are shown
_SMALLEST = 256  # pixels of a shown side; smaller pictures are enlarged
_GAP, _LABEL = 8, 24


@dataclass(frozen=True, kw_only=True)
class BundleComparison:
    """Two bundles' pictures of one prompt and seed, (H, W, 3) in [0, 1], and the PSNR between them in dB."""

    names: tuple[str, str]
    pictures: tuple[Array, Array]

    @property
    def psnr(self) -> float:
        """PSNR in dB of the second picture against the first."""
        return picture_psnr(self.pictures[1], self.pictures[0])

    @property
    def sheet(self) -> Image.Image:
        """First, second, and the difference of every colour, amplified, with their names above."""
        first, second = self.pictures
        difference = np.clip(AMPLIFIED * np.abs(second - first), 0.0, 1.0)
        height, width = first.shape[:2]
        scale = max(1, -(-_SMALLEST // min(height, width)))
        page = Image.new("RGB", (3 * width * scale + 4 * _GAP, height * scale + 2 * _GAP + _LABEL), "white")
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
        labels = (*self.names, f"{AMPLIFIED} x difference, {self.psnr:.1f} dB")
        for column, (picture, label) in enumerate(zip((first, second, difference), labels, strict=True)):
            left = _GAP + column * (width * scale + _GAP)
            shown = Image.fromarray(np.rint(255.0 * picture).astype(np.uint8))
            page.paste(shown.resize((width * scale, height * scale), Image.Resampling.NEAREST), (left, _GAP + _LABEL))
            pen.text((left, _GAP), label, fill="black", font=font)
        return page


def compare(
    first: Path,
    second: Path,
    prompt: str,
    output: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    backend: str = AUTO,
    threads: int | None = None,
) -> BundleComparison:
    """Draws ``prompt`` with both bundles at the first profile of ``first``, and writes a sheet as PNG.

    Raises:
        RequestError: bundles of different models, or a size that the second was not built for.
        LatentrtError: as ``open`` and drawing do.
    """
    check_writable(output)
    names, pictures = [], []
    size: tuple[int, int] | None = None
    families: list[str] = []
    for path in (first, second):
        with open_pipeline(path, backend=backend, threads=threads) as pipe:
            size = size or (pipe.manifest.profiles[0].width, pipe.manifest.profiles[0].height)
            check_reads_text(pipe.manifest, "a prompt")
            families.append(pipe.manifest.family)
            if families[0] != families[-1]:
                raise RequestError(
                    f"got bundles of {families[0]} and {families[-1]}, expected two of one model; choose another bundle"
                )
            result = draw_in_own_workflow(
                pipe,
                [prompt],
                seed=seed,
                width=size[0],
                height=size[1],
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="np",
            )
            pictures.append(np.asarray(result.images[0]))
            names.append(_name(pipe.manifest, pipe.backend))
    comparison = BundleComparison(names=(names[0], names[1]), pictures=(pictures[0], pictures[1]))
    write_png(output, comparison.sheet)
    return comparison


def _name(manifest: BundleManifest, backend: str) -> str:
    return f"{manifest.precision} ({backend})"
