"""Pictures of a bundle on one of its backends: how long they take, and how near they are to another's."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.machine import available_memory
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import compiled_folder, read_engine
from latentrt.fastest.candidates import Candidate
from latentrt.fastest.timing import Turn, take_turns
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.judge import PictureQuality
from latentrt.quantization.psnr import picture_psnr
from latentrt.runtime.pipeline import Pipeline

_SHORT = 2  # steps of a picture that only wakes what it is drawn with
# Of the memory that is free, how much open contenders may take; and what each takes, as a multiple of its engines
_MEMORY_SHARE, _OPEN_SIZE = 0.5, 1.5


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A bundle, and which of its backends draws."""

    bundle: Bundle
    backend: Backend

    @property
    def engines(self) -> tuple[str, ...]:
        """The keys of its engines, which tell all that its pictures depend on but for schedule and prompts."""
        manifest = self.bundle.manifest
        parts = (Component(root=self.bundle.root, manifest=manifest, name=name) for name in manifest.components)
        return tuple(compiled_folder(part, self.backend).name for part in parts)

    @property
    def bytes(self) -> int:
        """The size of its engines."""
        folders = (self.bundle.root / "engines" / key for key in self.engines)
        return sum(file.size for folder in folders for file in read_engine(folder).files.values())

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        """Its pipeline, as long as the block lasts.

        Raises:
            EngineError: it cannot be opened.
        """
        engines = OpenComponents(self.bundle, self.backend, threads=None)
        try:
            yield Pipeline(self.bundle, engines)
        finally:
            engines.close()


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is drawn to time and to judge: the calibration set's pictures to judge by, ``count`` of them to compare.

    What was seen is kept in ``checkpoints``.
    """

    calibration: CalibrationSet
    count: int
    checkpoints: Checkpoints
    progress: Progress

    def first(self, contender: Contender) -> Turn:
        """One short picture of a contender that was not open.

        Raises:
            EngineError: it cannot be opened, or draws NaN.
        """
        with contender.opened() as pipe:
            return self._turn(pipe, _SHORT)

    def time(self, contenders: Mapping[Candidate, Contender]) -> dict[Candidate, list[Turn]]:
        """Turns of whole pictures, one at a time.

        All are open together where memory allows; else each is opened for its turn.
        """
        key = f"turns-{_digest(*(one.engines for one in contenders.values()))}"
        saved = self.checkpoints.load(key)
        if saved is None:
            with self.progress.stage(f"time {', '.join(map(str, contenders))}"), ExitStack() as opened:
                size = sum(one.bytes for one in contenders.values())
                stays = _OPEN_SIZE * size < _MEMORY_SHARE * available_memory()
                turns = {
                    candidate: self._turns(contender, opened if stays else None)
                    for candidate, contender in contenders.items()
                }
                taken = take_turns(turns, told=lambda done: self.progress.phase(f"round {done}", done, done + 1))
            saved = {str(one): np.array([(turn.step, turn.picture) for turn in taken[one]]) for one in contenders}
            self.checkpoints.save(key, saved)
        return {one: [Turn(step=float(s), picture=float(p)) for s, p in saved[str(one)]] for one in contenders}

    def _turns(self, contender: Contender, opened: ExitStack | None) -> Callable[[], Turn]:
        """What draws one picture with a contender, with its threads and memory awake."""
        if opened is not None:
            pipe = opened.enter_context(contender.opened())
            return lambda: self._awake(pipe)

        def turn() -> Turn:
            with contender.opened() as pipe:
                return self._awake(pipe)

        return turn

    def _awake(self, pipe: Pipeline) -> Turn:
        self._turn(pipe, _SHORT)
        return self._turn(pipe, self.calibration.steps)

    def _turn(self, pipe: Pipeline, steps: int) -> Turn:
        short = replace(self.calibration, steps=min(steps, self.calibration.steps))
        (result,) = short.judging(pipe, 0, 1)
        calls = result.timings.calls
        return Turn(step=median(calls[1:] or calls), picture=result.timings.total)

    def judge(self, contender: Contender, reference: Contender) -> PictureQuality:
        """How near a contender's pictures are to the reference's, which are drawn once.

        Raises:
            EngineError: it draws NaN.
        """
        psnrs = list(map(picture_psnr, *(self._drawn(one).astype(np.float32) for one in (contender, reference))))
        worst = int(np.argmin(psnrs))
        return PictureQuality(
            mean=float(np.mean(psnrs)), worst=float(psnrs[worst]), worst_prompt=self.calibration.prompt_of(worst)
        )

    def _drawn(self, contender: Contender) -> Array:
        """The pictures to judge by (n, H, W, 3) float16 in [0, 1]; goes on where a killed build stopped."""
        key = f"pictures-{_digest(contender.engines)}"
        saved = self.checkpoints.load(key)
        pictures: list[Array] = [] if saved is None else list(saved["pictures"])
        if len(pictures) < self.count:
            what = f"{contender.bundle.manifest.precision} on {contender.backend}: {self.count} pictures"
            with (
                self.progress.stage(what),
                self.checkpoints.autosaved(key, lambda: {"pictures": np.array(pictures)}) as save_if_due,
                contender.opened() as pipe,
            ):
                for result in self.calibration.judging(pipe, len(pictures), self.count):
                    pictures.extend(np.array(result.images).astype(np.float16))
                    self.progress.phase(f"picture {len(pictures)} of {self.count}", len(pictures), self.count)
                    save_if_due()
        return np.array(pictures)


def _digest(*engines: tuple[str, ...]) -> str:
    return hashlib.sha256(repr(engines).encode()).hexdigest()[:16]
