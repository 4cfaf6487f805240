"""Orders drawn by Ray Data: a pool of processes, on one machine or many that share a file system."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import EngineError, RequestError
from latentrt.runtime.serving.render.order_line import OrderLine, Outcome, outcome_from_row
from latentrt.runtime.serving.render.renderer import Renderer, Rendering

if TYPE_CHECKING:
    import numpy as np

_MOST_BLOCKS = 4096  # Ray Data holds a record of each
_OURS = re.compile(r"^latentrt\.[\w.]+Error: ")
_ORDER, _OUTCOME = "order", "outcome"
_Batch = dict[str, "np.ndarray[Any, Any]"]


class OrderActor:
    """A process of the pool: it opens the model once, and draws the orders that it is given."""

    def __init__(self, rendering: Rendering) -> None:
        """Opens the model."""
        self._rendering, self._renderer = rendering, Renderer(rendering)

    def __call__(self, batch: _Batch) -> dict[str, list[str]]:
        """Draws orders; what a process that died has drawn of them is found.

        Args:
            batch: ``OrderLine.row`` of each as JSON, under ``order``.

        Returns:
            ``Outcome.row`` of each as JSON, under ``outcome``.
        """
        lines = [OrderLine(**json.loads(row)) for row in batch[_ORDER]]
        found = [self._rendering.found(line, {}) for line in lines]
        missing = [line for line, outcome in zip(lines, found, strict=True) if outcome is None]
        outcomes = [*filter(None, found), *self._renderer.draw(missing)]
        return {_OUTCOME: [json.dumps(outcome.row) for outcome in outcomes]}


def outcomes_on_ray(
    lines: Sequence[OrderLine],
    rendering: Rendering,
    *,
    actors: int | None = None,
    cpus: int = 1,
    gpus: float | None = None,
    watch: Callable[[float], None] = lambda done: None,
) -> Iterator[Outcome]:
    """Draws orders in the Ray cluster that ``RAY_ADDRESS`` names, or in one on this machine that is started for it.

    A process that dies is started again, and its orders are given to another: their files are the same. The bundle,
    the files of the catalog, pictures of orders and the folder must have the same paths on every machine.

    Args:
        lines: what to draw.
        rendering: how.
        actors: processes of the pool, at most; None: as many as fit.
        cpus: of each of them.
        gpus: of each of them; None: none.
        watch: told how many orders are done.

    Raises:
        EngineError: Ray is not installed, or a model cannot be opened there.
        RequestError: fewer than one process.
    """
    if actors is not None and actors < 1:
        raise RequestError(f"got {actors} actors, expected 1 or more; raise it, or leave it out")
    ray, data = _started()
    blocks = min(-(-len(lines) // rendering.together), _MOST_BLOCKS)
    orders = data.from_items([{_ORDER: json.dumps(line.row)} for line in lines], override_num_blocks=blocks)
    drawn = orders.map_batches(
        OrderActor,
        fn_constructor_kwargs={"rendering": rendering},
        compute=data.ActorPoolStrategy(min_size=1, max_size=actors),
        batch_size=rendering.together,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for done, row in enumerate(drawn.iter_rows(), 1):
            watch(done)
            yield outcome_from_row(json.loads(row[_OUTCOME]))
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray could not draw: {_cause(error)}") from error


def _started() -> tuple[Any, Any]:
    """Ray and Ray Data; a cluster that nobody has started runs without a dashboard, and says what is wrong alone."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError("drawing with Ray needs the package ray; install latentrt[ray]") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
    return ray, ray.data


def _cause(error: Exception) -> str:
    """What went wrong on the other side: the last line of its trace, without the name of an error of ours."""
    lines = str(error).strip().splitlines()
    return _OURS.sub("", lines[-1]) if lines else type(error).__name__
