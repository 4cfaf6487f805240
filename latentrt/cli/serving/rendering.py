"""What ``latentrt render`` does: what is missing is drawn, and each order told as soon as it is on the disk."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from latentrt.cli.terminal import print_json, say, step_bar, tell
from latentrt.engines.errors import LatentrtError, RequestError
from latentrt.opening import open_pipeline
from latentrt.prompt_files import text_from_file
from latentrt.runtime.pictures.picture_file import SUFFIXES
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.render.journal import Journal
from latentrt.runtime.serving.render.order_line import OrderLine, Outcome
from latentrt.runtime.serving.render.reading import OrdersError, lines_from_text
from latentrt.runtime.serving.render.renderer import Renderer, Rendering, Watch
from latentrt.runtime.serving.render.shard import shard_from_text

_MOST_TOGETHER = 1024


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How many processes draw in a cluster at most, and the GPUs of each; None: as many as fit, and none."""

    actors: int | None
    gpus: float | None


@dataclass(frozen=True, kw_only=True)
class RenderCommand:
    """One run of the command. ``ray`` is None where this process draws."""

    orders: Path
    output: Path
    shard: str
    together: int
    format: str
    backend: str
    threads: int | None
    json: bool
    ray: RayOptions | None = None

    def run(self, catalog: Catalog) -> None:
        """Draws what is missing.

        Raises:
            LatentrtError: orders that cannot be drawn, a folder that cannot be written, or, at the end, that some
                orders failed.
        """
        begin, shard, rendering = perf_counter(), shard_from_text(self.shard), self._rendering(catalog)
        lines = shard.of(self._lines(catalog))
        with Journal(rendering.folder, shard) as journal:
            missing = _missing(lines, rendering, journal)
            if len(missing) < len(lines):
                tell(f"{len(lines) - len(missing)} of {len(lines)} orders are there already")
            try:
                self._draw(missing, rendering, journal)
            finally:
                journal.name(lines)
                if self.json:
                    self._print_json(lines, journal, perf_counter() - begin)
        failed = [line for line in lines if journal.known[line.digest].error is not None]
        if not self.json:
            say(f"{rendering.folder}  ({len(lines)} orders, {len(missing)} of them new, {len(failed)} failed)")
        if failed:
            raise LatentrtError(
                f"{len(failed)} of {len(lines)} orders failed, the first in line {failed[0].line}: "
                f"{journal.known[failed[0].digest].error}; {shard.journal_name} tells the others, and the same command "
                "tries them again"
            )

    def _rendering(self, catalog: Catalog) -> Rendering:
        suffix = f".{self.format.lower()}"
        if suffix not in SUFFIXES:
            known = ", ".join(name.removeprefix(".") for name in SUFFIXES)
            raise RequestError(f"got format {self.format!r}, expected one of {known}; choose one")
        if not 1 <= self.together <= _MOST_TOGETHER:
            raise RequestError(f"got together {self.together}, expected 1 to {_MOST_TOGETHER}; set it in this range")
        threads = self.threads if self.ray is None else self.threads or 1  # processes share a machine's cores
        return Rendering(
            catalog=catalog,
            opens=partial(open_pipeline, backend=self.backend, threads=threads),
            folder=self.output,
            suffix=suffix,
            together=self.together,
        )

    def _lines(self, catalog: Catalog) -> Sequence[OrderLine]:
        name, text = text_from_file(self.orders, "order")
        try:
            return lines_from_text(text, name, self.orders.parent, catalog)
        except OrdersError as error:
            for number, fault in error.faults.items():
                tell(f"{self.orders}:{number}: {fault}")
            raise RequestError(
                f"got {name}, of which {len(error.faults)} cannot be drawn, so that none was; correct these lines"
            ) from error

    def _draw(self, missing: Sequence[OrderLine], rendering: Rendering, journal: Journal) -> None:
        """Draws orders; each is on disk and in the journal before it is told.

        Raises:
            LatentrtError: nothing can be drawn, or written.
        """
        done, total = 0, len(missing)
        try:
            with (
                step_bar("orders") as bar,
                closing(self._outcomes(missing, rendering, lambda n: bar(n, total))) as drawn,
            ):
                for outcome in drawn:
                    journal.add(outcome)
                    done += 1
                    self._tell(outcome, rendering.folder)
        except KeyboardInterrupt:
            tell(f"interrupted; {done} of {total} orders are drawn, and the same command goes on")
            raise

    def _outcomes(
        self, missing: Sequence[OrderLine], rendering: Rendering, watch: Watch
    ) -> Generator[Outcome, None, None]:
        if not missing:
            return
        if self.ray is not None:
            from latentrt.runtime.serving.ray.rendering import outcomes_on_ray

            yield from outcomes_on_ray(
                missing,
                rendering,
                actors=self.ray.actors,
                cpus=self.threads or 1,
                gpus=self.ray.gpus,
                watch=watch,
            )
            return
        with Renderer(rendering) as renderer:
            if self.backend == "auto":
                tell(f"drawing with {renderer.backend}")
            yield from renderer.draw(missing, watch)

    def _tell(self, outcome: Outcome, folder: Path) -> None:
        name = f"line {outcome.line}" if outcome.id is None else f"line {outcome.line}: {outcome.id}"
        if outcome.error is not None:
            tell(f"{name}: {outcome.error}")
        elif not self.json:
            for file in outcome.files:
                say(f"{folder / file}  ({name})")

    def _print_json(self, lines: Sequence[OrderLine], journal: Journal, seconds: float) -> None:
        """What became of every order so far."""
        known = [(line, journal.known.get(line.digest)) for line in lines]
        outcomes = [replace(told, line=line.line, id=line.id) for line, told in known if told is not None]
        print_json(
            {
                "folder": str(self.output),
                "orders": [outcome.row for outcome in outcomes],
                "failed": sum(outcome.error is not None for outcome in outcomes),
                "missing": len(lines) - len(outcomes),
                "seconds": seconds,
            }
        )


def _missing(lines: Sequence[OrderLine], rendering: Rendering, journal: Journal) -> list[OrderLine]:
    """The orders that are to be drawn, equal ones once. What is there and not in the journal is written down."""
    missing: dict[str, OrderLine] = {}
    for line in lines:
        outcome = rendering.found(line, journal.known)
        if outcome is None:
            missing.setdefault(line.digest, line)
        elif not journal.drew(line):
            journal.add(outcome)
    return list(missing.values())
