"""How often a picture drawn from a training name is nearest to its own emoji among all of them.

    python examples/emoji_data.py iconify-json-fluent-emoji-flat-*.tgz icons.npz
    python -m latentrt.benchmarks.studies.own_emoji models/emoji icons.npz

One picture a name that was trained on, its seed the name's place in the list; distances are Euclidean over all
pixels (8-bit RGB) to all icons as drawn by resvg at the same size, those that were not trained on among them.
A guess at random scores 1 / (number of icons). ``latentrt bench --icons`` has every contender draw.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from zipfile import BadZipFile
from zlib import error as ZipError

import numpy as np
import numpy.typing as npt

from latentrt.benchmarks.report.schema import OwnEmoji
from latentrt.engines.errors import RequestError

Pictures = npt.NDArray[np.uint8]
Draw = Callable[[Sequence[str], Sequence[int], float, int], Pictures]
"""draw(prompts, seeds, guidance_scale, num_inference_steps) → (B, H, W, 3) uint8 RGB."""

GUIDANCE = 3.0  # at which the model's card states the rate


@dataclass(frozen=True, kw_only=True)
class Icons:
    """All emoji: names, pictures (M, H, W, 3) uint8, and the places of those that were trained on."""

    names: tuple[str, ...]
    pictures: Pictures
    trained: tuple[int, ...]


def read_icons(path: Path) -> Icons:
    """What examples/emoji_data.py wrote.

    Raises:
        RequestError: the file is missing, damaged, or holds something else.
    """
    remedy = "make it with examples/emoji_data.py"
    try:
        with np.load(path) as icons:
            arrays = {name: icons[name] for name in icons.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile, ZipError) as error:
        raise RequestError(f"cannot read icons from {str(path)!r}; {remedy}") from error
    missing = sorted({"names", "pictures", "trained"} - arrays.keys())
    if missing:
        raise RequestError(f"{str(path)!r} has no {missing[0]}; {remedy}")
    names, pictures, trained = arrays["names"], arrays["pictures"], arrays["trained"]
    count = (len(names) if names.ndim == 1 else -1,)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.shape[:1] != count:
        raise RequestError(
            f"{str(path)!r} has pictures {pictures.shape} {pictures.dtype} of names {names.shape}, expected "
            f"(M, H, W, 3) uint8 of (M,); {remedy}"
        )
    if trained.dtype != np.bool_ or trained.shape != count or not trained.any():
        raise RequestError(f"{str(path)!r} says of no emoji that it was trained on; {remedy}")
    return Icons(
        names=tuple(map(str, names)),
        pictures=pictures,
        trained=tuple(map(int, np.flatnonzero(trained))),
    )


def own_emoji_of(
    draw: Draw, icons: Icons, *, every: int, steps: int, guidance_scale: float = GUIDANCE, batch: int = 8
) -> OwnEmoji:
    """The rate of every so-many-th trained name; ``batch`` names are drawn at once."""
    owners = icons.trained[::every]
    parts = [owners[start : start + batch] for start in range(0, len(owners), batch)]
    pictures = np.concatenate(
        [draw([icons.names[i].replace("-", " ") for i in part], part, guidance_scale, steps) for part in parts]
    )
    return OwnEmoji(
        rate=float(nearest_own(pictures, icons.pictures, owners).mean()),
        pictures=len(pictures),
        references=len(icons.pictures),
        guidance_scale=guidance_scale,
    )


def nearest_own(pictures: Pictures, references: Pictures, owners: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which pictures (N, H, W, 3) are nearest to their own of the references (M, H, W, 3): (N,) bool.

    ``owners`` are the places of their own. A tie counts as own: two icons of the set are drawn alike.

    Raises:
        ValueError: pictures and references differ in size.
    """
    if pictures.shape[1:] != references.shape[1:]:
        raise ValueError(f"got pictures {pictures.shape} and references {references.shape}; draw both at one size")
    p = pictures.reshape(len(pictures), -1).astype(np.float64)  # 8-bit squares sum exactly in float64
    r = references.reshape(len(references), -1).astype(np.float64)
    distances = np.square(r).sum(axis=1)[None, :] - 2 * (p @ r.T)  # |p|² is the same for every reference
    nearest: npt.NDArray[np.bool_] = distances[np.arange(len(p)), list(owners)] <= distances.min(axis=1)
    return nearest


def diffusers_drawer(model: Path) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline in float32, with the checkpoint's own scheduler (PNDM)."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(model), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int) -> Pictures:
        drawn = pipeline(
            list(prompts),
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        return np.asarray(np.rint(drawn * 255), dtype=np.uint8)

    return draw


def main() -> None:
    """Draws at every guidance scale asked for, and prints the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("icons", type=Path, help="names and pictures (.npz), from examples/emoji_data.py")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 7.5])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="draw every n-th name only; all stay references")
    parser.add_argument("--batch", type=int, default=48)
    chosen = parser.parse_args()
    icons, draw = read_icons(chosen.icons), diffusers_drawer(chosen.model)
    for guidance in chosen.guidance:
        begin = perf_counter()
        rate = own_emoji_of(
            draw, icons, every=chosen.every, steps=chosen.steps, guidance_scale=guidance, batch=chosen.batch
        )
        print(
            f"guidance {guidance:g}, {chosen.steps} steps: {100 * rate.rate:.1f} % of {rate.pictures} pictures nearest "
            f"to their own of {rate.references} emoji ({perf_counter() - begin:.0f} s)"
        )


if __name__ == "__main__":
    main()
