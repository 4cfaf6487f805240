"""Draws orders into a folder with a service."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from latentrt.engines.errors import LatentrtError, RequestError
from latentrt.engines.files import sync_files
from latentrt.runtime.pictures.picture_file import read_parameters
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.job import Job
from latentrt.runtime.serving.jobs.limits import Limits
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.service import Service
from latentrt.runtime.serving.render.order_line import OrderLine, Outcome
from latentrt.runtime.serving.render.pictures import Pictures
from latentrt.runtime.serving.render.reading import order_from_line

_ANY = 1 << 62
Watch = Callable[[float], None]
"""Told how many orders are done, parts of them included."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How orders become files. It can be pickled if ``opens`` can be.

    Attributes:
        catalog: the model, and what orders may name.
        opens: opens the model's bundle.
        folder: where pictures are written.
        suffix: the format of pictures, ``.png``.
        together: how many orders are drawn at once; their model calls are shared.
    """

    catalog: Catalog
    opens: Callable[[Path], Pipeline]
    folder: Path
    suffix: str = ".png"
    together: int = 1

    def found(self, line: OrderLine, known: Mapping[str, Outcome]) -> Outcome | None:
        """The outcome of an order whose pictures are there; None of any other.

        Args:
            line: the order.
            known: what the journal says. Pictures that it does not know of must have their settings to count.
        """
        names = tuple(line.names(self.suffix))
        told = known.get(line.digest)
        if told is not None and told.error is None and told.files == names:
            there = all(_has_content(self.folder / name) for name in names)
        else:
            told = line.outcome(files=names)
            there = all(_has_settings(self.folder / name) for name in names)
        return replace(told, line=line.line, id=line.id) if there else None


def _has_content(path: Path) -> bool:
    """Whether a file is there that nobody emptied since it was written whole."""
    return path.is_file() and path.stat().st_size > 0


def _has_settings(path: Path) -> bool:
    """Whether a picture is whole: settings come with it, and it is written at once."""
    try:
        return path.is_file() and read_parameters(path) is not None
    except RequestError:
        return False


class Renderer:
    """A service that draws the orders of a file. As a context manager it is closed at the end.

    Attributes:
        backend: that runs the engines.
    """

    def __init__(self, rendering: Rendering) -> None:
        """Opens the model.

        Raises:
            BundleError: no bundle, damaged, or of a newer latentrt.
            EngineError: no engine in it fits this machine.
        """
        self._rendering, catalog = rendering, rendering.catalog
        pipeline = rendering.opens(catalog.models[catalog.default])
        self.backend, self._pictures = pipeline.backend, Pictures()
        limits = Limits(
            queued=rendering.together,
            at_once=rendering.together,
            pictures=_ANY,
            pixels=_ANY,
            steps=_ANY,
            parts=_ANY,
            queued_picture_bytes=_ANY,
            prompt_bytes=_ANY,
            prompt_parts=_ANY,
        )
        self._service = Service(Models(catalog, lambda path: pipeline), limits)

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is drawn, and closes the model."""
        self._service.close()

    def draw(self, lines: Iterable[OrderLine], watch: Watch = lambda done: None) -> Iterator[Outcome]:
        """Draws orders, and gives what became of each as soon as its files are on the disk.

        Args:
            lines: what to draw, in their order but for those that are drawn together.
            watch: told after every model call how many of them are done.

        Raises:
            OutputError: a picture cannot be written, and the next could not, either.
        """
        ended: SimpleQueue[Job] = SimpleQueue()
        running: dict[Job, OrderLine] = {}
        waiting, done = iter(lines), 0

        def changed(job: Job) -> None:  # in the thread that draws
            if job.state.final:
                ended.put(job)
            watch(done + sum(one.step / one.steps for one in tuple(running) if one.steps and not one.state.final))

        try:
            while True:
                for line in islice(waiting, self._rendering.together - len(running)):
                    try:
                        job = self._service.submit(order_from_line(line, self._rendering.catalog, self._pictures))
                    except LatentrtError as error:  # a picture that has changed since it was checked
                        done += 1
                        yield line.outcome(error=str(error))
                        continue
                    running[job] = line
                    job.watch(changed)
                    if job.state.final:  # before it was watched
                        ended.put(job)
                if not running:
                    return
                job = ended.get()
                if job in running:  # not told twice
                    line, done = running.pop(job), done + 1
                    yield self._outcome(line, job)
        finally:
            for job in running:
                job.cancel()

    def _outcome(self, line: OrderLine, job: Job) -> Outcome:
        """Writes what a job has drawn.

        Raises:
            OutputError: it cannot be written.
        """
        self._service.forget(job)
        if job.result is None:
            return line.outcome(error=_sentence(job.error))
        folder = self._rendering.folder
        paths = job.result.save(folder / f"{line.digest}{self._rendering.suffix}")
        sync_files(paths)
        seconds = round(job.result.timings.total, 3)
        return line.outcome(files=tuple(path.name for path in paths), seeds=job.result.seeds, seconds=seconds)


def _sentence(error: BaseException | None) -> str:
    if error is None:
        return "it was cancelled"
    return str(error) if isinstance(error, LatentrtError) else f"{type(error).__name__}: {error}"
