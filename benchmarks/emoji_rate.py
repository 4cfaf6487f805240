"""The embedded model's own-emoji rate with any contender as the drawer; see ``own_emoji``."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentrt.benchmarks.own_emoji import Pictures, drawn_in_batches, nearest_own
from latentrt.benchmarks.plan import Case, Plan
from latentrt.benchmarks.pool import Pool
from latentrt.benchmarks.roster import Entrant
from latentrt.benchmarks.schema import OwnEmoji
from latentrt.engines.errors import RequestError

_GUIDANCE = 3.0  # at which the model's card states it
_BATCH = 8


def check_icons(path: Path) -> None:
    """Finds out whether the file holds icons.

    Raises:
        RequestError: it does not.
    """
    try:
        with np.load(path) as icons:
            missing = {"names", "pictures", "trained"} - set(icons.files)
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot read icons from {str(path)!r}; make them with examples/emoji_data.py") from error
    if missing:
        raise RequestError(f"{str(path)!r} has no {sorted(missing)[0]}; make it with examples/emoji_data.py")


def own_emoji_of(entrant: Entrant, pool: Pool, plan: Plan) -> OwnEmoji:
    """Draws every ``plan.icons_every``-th trained name, and looks which emoji is nearest.

    Raises:
        WorkerError: the contender did not draw.
    """
    assert plan.icons is not None
    with np.load(plan.icons) as icons:
        names, references = [str(name) for name in icons["names"]], icons["pictures"]
        owners = [int(place) for place in np.flatnonzero(icons["trained"])][:: plan.icons_every]
    height, width = references.shape[1:3]
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "drawn.npz"

        def draw(prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float, steps: int) -> Pictures:
            case = Case(width=width, height=height, batch=len(prompts), steps=steps)
            request = {**case.request(plan), "prompts": list(prompts), "seeds": list(seeds), "output": str(output)}
            pool.worker(entrant).ask({**request, "guidance": guidance_scale})
            with np.load(output) as drawn:
                return np.asarray(np.rint(drawn["pixels"] * 255), np.uint8)

        prompts = [names[place].replace("-", " ") for place in owners]
        drawn = np.concatenate(list(drawn_in_batches(draw, prompts, owners, _GUIDANCE, plan.steps, _BATCH)))
    return OwnEmoji(
        rate=float(nearest_own(drawn, references, owners).mean()),
        pictures=len(drawn),
        references=len(references),
        guidance_scale=_GUIDANCE,
    )
