"""How close a contender's pictures are to the reference's: latents, PSNR, SSIM, FLIP, and CLIP's opinion."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZipError

import numpy as np
from PIL import Image

from latentrt.benchmarks.report.schema import PictureQuality, Quality
from latentrt.engines.bundle.checks.parity import parity_of, psnr
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

SHOWN = 8  # pictures that a contender keeps in the result, beside its worst
_SMALL = 128  # pixels up to which they are kept as PNG; larger ones are scaled down to JPEG
_LARGE = 256
GAIN = 8.0  # of the difference pictures, which are grey where there is none

_WINDOW = 11  # pixels of SSIM's window on each side

ClipScore = Callable[[Array, str], float]


class QualityError(Exception):
    """A contender's pictures cannot be compared; the text is the reason."""


def quality_of(
    drawn: Sequence[Path], reference: Sequence[Path], prompts: Sequence[str], seed: int, clip: ClipScore | None
) -> Quality:
    """Every prompt's picture against the reference's; seeds count up from the first prompt's.

    Files have ``pixels`` (1, H, W, 3) in [0, 1], and ``latents`` where there are any.

    Raises:
        QualityError: a picture is damaged, has NaN or infinity, or another size than the reference's.
    """
    rows = []
    for place, (ours, theirs, prompt) in enumerate(zip(drawn, reference, prompts, strict=True)):
        other = read_picture(theirs, f"the reference's picture of {prompt!r}")
        one = read_picture(ours, f"its picture of {prompt!r}")
        if one.pixels.shape != other.pixels.shape:
            sizes = [f"{found.pixels.shape[1]}×{found.pixels.shape[0]}" for found in (one, other)]
            raise QualityError(f"its picture of {prompt!r} has {sizes[0]} pixels, the reference's {sizes[1]}")
        distance, ssim = psnr_and_ssim(one.pixels, other.pixels)
        rows.append(
            PictureQuality(
                prompt=prompt,
                seed=seed + place,
                latent_relative_error=_relative_error(one.latents, other.latents),
                psnr=distance,
                ssim=ssim,
                flip=flip(one.pixels, other.pixels),
                clip_score=clip(one.pixels, prompt) if clip else None,
            )
        )
    worst = rows.index(Quality(pictures=tuple(rows)).worst)
    for place in {*range(min(SHOWN, len(rows))), worst}:
        one, other = (read_picture(paths[place], "a picture") for paths in (drawn, reference))
        pictures = {
            "reference": picture_data(other.pixels),
            "picture": picture_data(one.pixels),
            "difference": picture_data(0.5 + GAIN * (one.pixels - other.pixels)),
        }
        rows[place] = rows[place].model_copy(update=pictures)
    return Quality(pictures=tuple(rows))


def _relative_error(latents: Array | None, reference: Array | None) -> float | None:
    """‖x − r‖ / ‖r‖; None where one of them is unknown, of another shape, or r is nothing but zeros."""
    if latents is None or reference is None or latents.shape != reference.shape or not reference.any():
        return None
    return parity_of(latents, reference).relative_error


@dataclass(frozen=True, kw_only=True)
class SavedPicture:
    """One picture (H, W, 3) in [0, 1], and its latents where the contender tells them."""

    pixels: Array
    latents: Array | None


def read_picture(path: Path, title: str) -> SavedPicture:
    """What a worker saved, its first picture.

    Raises:
        QualityError: it is damaged, no picture that can be compared, or not finite; ``title`` names it.
    """
    try:
        with np.load(path) as saved:
            latents = saved["latents"].astype(np.float64) if "latents" in saved else None
            pixels = saved["pixels"].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, ZipError) as error:
        raise QualityError(f"{title} cannot be read") from error
    if pixels.ndim != 4 or pixels.shape[0] < 1 or pixels.shape[3] != 3 or min(pixels.shape[1:3]) < _WINDOW:
        raise QualityError(f"{title} has the shape {pixels.shape}, expected (N, H, W, 3) of {_WINDOW} pixels or more")
    if not np.isfinite(pixels).all() or (latents is not None and not np.isfinite(latents).all()):
        raise QualityError(f"{title} has NaN or infinity")
    return SavedPicture(pixels=pixels[0], latents=latents)


def psnr_and_ssim(pixels: Array, reference: Array) -> tuple[float | None, float]:
    """PSNR in dB, None for equal pictures, and scikit-image's SSIM; both (H, W, 3) in [0, 1].

    SSIM is that of Wang et al. 2004: a Gaussian window of 11×11 with σ = 1.5, and covariances of the population.
    """
    from skimage.metrics import structural_similarity

    ssim = structural_similarity(
        pixels,
        reference,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    distance = psnr(pixels, reference, peak=1.0)
    return distance if isfinite(distance) else None, float(ssim)


def flip(pixels: Array, reference: Array) -> float:
    """Mean FLIP of Andersson et al. 2020, how much people notice as one picture takes the other's place.

    Both are sRGB (H, W, 3) in [0, 1], seen as the paper has it: 0.7 m from a screen 0.7 m wide of 3840 pixels.
    """
    import flip_evaluator

    test, wanted = (np.ascontiguousarray(np.clip(one, 0.0, 1.0), np.float32) for one in (pixels, reference))
    return float(flip_evaluator.evaluate(wanted, test, "LDR", applyMagma=False)[1])


def picture_data(pixels: Array) -> str:
    """A picture (H, W, 3) in [0, 1] as a data URI."""
    image = Image.fromarray(np.rint(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8))
    memory = BytesIO()
    if max(image.size) <= _SMALL:
        image.save(memory, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_LARGE, _LARGE))
        image.save(memory, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode('ascii')}"


def clip_score(folder: Path) -> ClipScore:
    """100 · the cosine between a picture's and a text's embedding (Hessel et al. 2021), of a CLIP model on disk.

    Raises:
        RequestError: the folder holds no such model.
    """
    import torch
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise RequestError(
            f"cannot read a CLIP model from {str(folder)!r} ({reason}); name a folder in transformers' layout"
        ) from error
    # CLIP's own, from its preprocessor_config.json
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    side = model.config.vision_config.image_size

    def score(pixels: Array, prompt: str) -> float:
        image = Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        normed = (np.asarray(image) / 255.0 - mean) / deviation
        tokens = tokenizer([prompt], return_tensors="pt", truncation=True)
        picture = torch.from_numpy(normed.transpose(2, 0, 1)[None].astype(np.float32))
        with torch.inference_mode():
            result: Any = model(**tokens, pixel_values=picture)
        return 100.0 * float((result.image_embeds * result.text_embeds).sum())

    return score
