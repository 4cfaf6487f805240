"""How often a picture drawn from a training name is nearest to its own emoji among all of them.

    python examples/emoji_data.py iconify-json-fluent-emoji-flat-*.tgz icons.npz
    python benchmarks/own_emoji.py models/emoji icons.npz --sheet sheet.png

One picture a name that was trained on, its seed the name's place in the list; distances are Euclidean over all
pixels (8-bit RGB) to all icons as drawn by resvg at the same size, those that were not trained on among them.
A guess at random scores 1 / (number of icons).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Draw = Callable[[Sequence[str], Sequence[int], float, int], Pictures]
"""draw(prompts, seeds, guidance_scale, num_inference_steps) → (B, H, W, 3) uint8 RGB."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the table."""

    guidance_scale: float
    steps: int
    pictures: int
    references: int
    rate: float
    seconds: float


def nearest_own(pictures: Pictures, references: Pictures, owners: Sequence[int] | None = None) -> npt.NDArray[np.bool_]:
    """Which pictures are nearest to their own reference: (N,) bool.

    pictures (N, H, W, 3) and references (M, H, W, 3) uint8; owners[i] is the reference of picture i, by
    default i itself. A tie with the own reference counts as its own (two icons of the set are drawn alike).
    Raises ValueError where the shapes do not fit.
    """
    own = np.arange(len(pictures)) if owners is None else np.asarray(owners)
    if pictures.ndim != 4 or references.ndim != 4 or pictures.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"got pictures {pictures.shape} and references {references.shape}, "
            f"expected (N, H, W, 3) and (M, H, W, 3); draw both at one size"
        )
    if len(own) != len(pictures) or (len(own) and (own.min() < 0 or own.max() >= len(references))):
        raise ValueError(
            f"got {len(pictures)} pictures, {len(own)} owners and {len(references)} references, "
            f"expected one reference a picture; pass owners"
        )
    p = pictures.reshape(len(pictures), -1).astype(np.float64)  # 8-bit squares sum exactly in float64
    r = references.reshape(len(references), -1).astype(np.float64)
    distances = np.square(r).sum(axis=1)[None, :] - 2 * (p @ r.T)  # |p|² is the same for every reference
    nearest: npt.NDArray[np.bool_] = distances[np.arange(len(p)), own] <= distances.min(axis=1)
    return nearest


def own_emoji_rate(pictures: Pictures, references: Pictures) -> float:
    """The share, 0 to 1, of pictures (N, H, W, 3) uint8 nearest to their own of references (N, …)."""
    return float(nearest_own(pictures, references).mean())


def diffusers_drawer(model: Path) -> Draw:
    """Draw with diffusers' StableDiffusionPipeline in float32, with the checkpoint's own scheduler (PNDM)."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(model), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int) -> Pictures:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        drawn = pipeline(
            list(prompts),
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=generators,
            output_type="np",
        ).images
        return np.asarray(np.rint(drawn * 255), dtype=np.uint8)

    return draw


def drawn_in_batches(
    draw: Draw, prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int, batch: int
) -> Iterator[Pictures]:
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        yield draw(prompts[part], seeds[part], guidance_scale, steps)
        print(
            f"guidance {guidance_scale:g}: {min(start + batch, len(prompts))} of {len(prompts)}",
            file=sys.stderr,
        )


def sheet(pictures: Pictures, columns: int) -> Pictures:
    """Lay pictures (N, H, W, 3) out row by row on white."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    page = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        page[top : top + height, left : left + width] = picture
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How often a drawn emoji is nearest to its own icon.")
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("icons", type=Path, help="names and pictures (.npz), from examples/emoji_data.py")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 7.5])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="added to each name's own seed")
    parser.add_argument("--every", type=int, default=1, help="draw every n-th name only; all stay references")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--sheet", type=Path, help="PNG of reference and drawings beside drawings, some 64 names")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args(arguments)

    with np.load(given.icons) as icons:
        names, references = [str(n) for n in icons["names"]], icons["pictures"]
        trained = [int(i) for i in np.flatnonzero(icons["trained"])]
    owners = trained[:: given.every]
    prompts = [names[i].replace("-", " ") for i in owners]
    draw = diffusers_drawer(given.model)
    scores, columns = [], [references[owners]]
    for guidance in given.guidance:
        began = time.perf_counter()
        drawn = np.concatenate(
            list(drawn_in_batches(draw, prompts, [given.seed + i for i in owners], guidance, given.steps, given.batch))
        )
        seconds = time.perf_counter() - began
        rate = float(nearest_own(drawn, references, owners).mean())
        columns.append(drawn)
        scores.append(
            Score(
                guidance_scale=guidance,
                steps=given.steps,
                pictures=len(drawn),
                references=len(references),
                rate=rate,
                seconds=seconds,
            )
        )
    if given.sheet:
        from PIL import Image

        shown = np.stack([c[:: max(1, len(owners) // 64)][:64] for c in columns], axis=1)
        page = sheet(shown.reshape(-1, *references.shape[1:]), 4 * len(columns))
        Image.fromarray(page).save(given.sheet)
    if given.json:
        print(json.dumps({"scores": [vars(score) for score in scores]}))
    else:
        for s in scores:
            print(
                f"guidance {s.guidance_scale:g}, {s.steps} steps: {100 * s.rate:.1f} % of {s.pictures} "
                f"pictures nearest to their own of {s.references} emoji ({s.seconds:.0f} s)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
