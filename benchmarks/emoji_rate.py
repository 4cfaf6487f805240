"""The embedded model's own-emoji rate with any contender as the drawer; see ``own_emoji``."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZipError

import numpy as np

from latentrt.benchmarks.own_emoji import Pictures, drawn_in_batches, nearest_own
from latentrt.benchmarks.plan import Case, Plan
from latentrt.benchmarks.pool import Pool
from latentrt.benchmarks.process import WorkerError
from latentrt.benchmarks.roster import Entrant
from latentrt.benchmarks.schema import OwnEmoji
from latentrt.engines.errors import RequestError

_GUIDANCE = 3.0  # at which the model's card states it
_BATCH = 8


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
            found = {name: icons[name] for name in icons.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile, ZipError) as error:
        raise RequestError(f"cannot read icons from {str(path)!r}; {remedy}") from error
    missing = sorted({"names", "pictures", "trained"} - found.keys())
    if missing:
        raise RequestError(f"{str(path)!r} has no {missing[0]}; {remedy}")
    names, pictures, trained = found["names"], found["pictures"], found["trained"]
    count = (len(names) if names.ndim == 1 else -1,)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.shape[:1] != count:
        raise RequestError(
            f"{str(path)!r} has pictures {pictures.shape} {pictures.dtype} of names {names.shape}, expected "
            f"(M, H, W, 3) uint8 of (M,); {remedy}"
        )
    if trained.dtype != np.bool_ or trained.shape != count or not trained.any():
        raise RequestError(f"{str(path)!r} says of no emoji that it was trained on; {remedy}")
    return Icons(
        names=tuple(str(name) for name in names),
        pictures=pictures,
        trained=tuple(int(place) for place in np.flatnonzero(trained)),
    )


def own_emoji_of(entrant: Entrant, pool: Pool, plan: Plan) -> OwnEmoji:
    """Draws every ``plan.icons_every``-th trained name, and looks which emoji is nearest.

    Raises:
        WorkerError: the contender did not draw, or something else than was asked for.
    """
    assert plan.icons is not None
    icons = read_icons(plan.icons)
    names, references, owners = icons.names, icons.pictures, icons.trained[:: plan.icons_every]
    height, width = references.shape[1:3]
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "drawn.npz"

        def draw(prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int) -> Pictures:
            case = Case(width=width, height=height, batch=len(prompts), steps=steps)
            request = {**case.request(plan), "prompts": list(prompts), "seeds": list(seeds), "output": str(output)}
            pool.draw(entrant, case, {**request, "guidance": guidance_scale})
            return _pictures(output, (len(prompts), height, width, 3))

        prompts = [names[place].replace("-", " ") for place in owners]
        drawn = np.concatenate(list(drawn_in_batches(draw, prompts, owners, _GUIDANCE, plan.steps, _BATCH)))
    return OwnEmoji(
        rate=float(nearest_own(drawn, references, owners).mean()),
        pictures=len(drawn),
        references=len(references),
        guidance_scale=_GUIDANCE,
    )


def _pictures(path: Path, shape: tuple[int, ...]) -> Pictures:
    """What a contender drew, in 8 bits.

    Raises:
        WorkerError: not so many finite pictures of that size.
    """
    with np.load(path) as drawn:
        pixels = drawn["pixels"]
    if pixels.shape != shape or not np.isfinite(pixels).all():
        raise WorkerError(f"it drew {pixels.shape}, expected finite pictures {shape}")
    return np.asarray(np.rint(np.clip(pixels, 0.0, 1.0) * 255), np.uint8)
