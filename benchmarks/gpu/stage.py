"""A stage: a piece of work of a few minutes that finds something out, in a process of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from latentrt.benchmarks.gpu.models import Scale
from latentrt.benchmarks.report.gpu.schema import Row

Told = Callable[[str], None]


class LackingError(Exception):
    """What a stage works on was not made; the text says what."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all stages are told.

    Attributes:
        work: a folder for what they make.
        scale: true sizes, or small ones for a rehearsal.
        backends: that are tried.
        device: what torch calls the device of the peers and of the checkpoints' random numbers.
        runs: timed calls of each case.
    """

    work: Path
    scale: Scale
    backends: tuple[str, ...]
    device: str
    runs: int = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        name: words with dots between them, such as ``speed.sdxl.fp16.tensorrt``.
        work: finds out rows, one after the other.
        needs: what other stages made, which has to be there.
        makes: what is there when it is done, for other stages.
        removes: what is gone when it is done. Such a stage is never over: others may have made that anew.
    """

    name: str
    work: Callable[[Settings], Iterator[Row]]
    needs: tuple[Path, ...] = ()
    makes: tuple[Path, ...] = ()
    removes: tuple[Path, ...] = ()
