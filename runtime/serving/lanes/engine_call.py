"""A run of an engine that some thread wants, and what becomes of several that run as one."""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, EngineSpec, StackedArray, Tensor

EngineRun = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class EngineCall:
    """One run that a thread wants: it makes it itself, or another thread takes it along.

    The line's lock guards all but ``inputs``.

    Attributes:
        engine: what runs.
        inputs: by name.
        lane: calls of equal lanes may run as one; None: it runs alone.
        most: rows that they may have together; 0: as many as the engine computes for this call anyway.
        seated: whether its thread has the device.
        wanted: whether its thread still waits for it.
        run: makes it.
        place: where its rows are among those of others: a run's are always on the same side of another's.
        results: of the run that took it along; its own rows begin at ``begin``.
    """

    __slots__ = (
        "begin",
        "engine",
        "inputs",
        "lane",
        "most",
        "place",
        "results",
        "rows",
        "run",
        "seated",
        "wanted",
        "woken",
    )

    def __init__(
        self, engine: Engine, inputs: Mapping[str, Tensor], lane: object, most: int, run: EngineRun, place: int = 0
    ) -> None:
        """Belongs to one thread until it is in a line."""
        self.engine, self.inputs, self.lane, self.most, self.run = engine, inputs, lane, most, run
        self.place = place
        self.seated, self.wanted = False, True
        self.rows = self.begin = 0
        self.results: Mapping[str, Tensor] | None = None
        self.woken: Lock | None = None

    def waits(self) -> None:
        """Makes ready to sleep until ``wake``."""
        stayed = not all(isinstance(tensor, np.ndarray) for tensor in self.inputs.values())  # on the device
        if stayed and not self.engine.spec.stacks:
            self.lane = None
        self.rows = row_count(self.inputs)
        self.most = self.most or self.engine.spec.fit(self.rows)
        self.woken = Lock()
        self.woken.acquire()

    def sleep(self) -> None:
        """Until it is woken."""
        assert self.woken is not None  # who waits made ready; for the type checker
        self.woken.acquire()

    @property
    def asleep(self) -> bool:
        """Whether its thread sleeps, or will; also True of one that was woken and went on."""
        return self.woken is not None and self.woken.locked()

    def wake(self) -> None:
        """Ends its thread's sleep."""
        assert self.woken is not None
        self.woken.release()

    def takes(self, results: Mapping[str, Tensor], begin: int) -> None:
        """What it gets of a run that others took part in: the rows from ``begin`` on are its own."""
        self.begin, self.results = begin, results

    def own_results(self) -> dict[str, Any]:
        """Its own rows of what it got: copies, so that no large array stays for a small part, but on a device."""
        assert self.results is not None
        start, stop = self.begin, self.begin + self.rows
        return {
            name: array[start:stop].copy() if isinstance(array, np.ndarray) else array.rows(start, stop)
            for name, array in self.results.items()
        }


def row_count(inputs: Mapping[str, Tensor]) -> int:
    """How many rows the arrays of a call have; what stays on a device may have more, of a run that was filled up."""
    return min((tensor.shape[0] for tensor in inputs.values()), default=0)


def gathered(calls: Sequence[EngineCall]) -> dict[str, Tensor]:
    """The inputs of several calls, one below the other. What some of them leave out has its neutral value there."""
    spec = calls[0].engine.spec
    names = dict.fromkeys(name for call in calls for name in call.inputs)
    rows = sum(call.rows for call in calls)
    missing = 0 if spec.stacks else spec.fit(rows) - rows
    return {
        name: _stacked([*(_rows(spec, name, call) for call in calls), *_zeros(spec, name, missing)]) for name in names
    }


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(parts) else StackedArray(tuple(parts))


def filled(spec: EngineSpec, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The inputs of a call with zeros behind them, up to a batch that the engine runs."""
    batch = spec.fit(row_count(inputs))
    return {name: _filled(spec, name, tensor, batch) for name, tensor in inputs.items()}


def _filled(spec: EngineSpec, name: str, tensor: Tensor, batch: int) -> Tensor:
    if tensor.shape[0] == batch:
        return tensor
    array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()[:batch]
    return np.concatenate([array, *_zeros(spec, name, batch - len(array))])


def _rows(spec: EngineSpec, name: str, call: EngineCall) -> Tensor:
    given = call.inputs.get(name)
    if given is not None:
        return given
    tensor = spec.inputs[name]
    return np.full(tensor.sized(call.rows), tensor.neutral, tensor.dtype)


def _zeros(spec: EngineSpec, name: str, rows: int) -> tuple[Array, ...]:
    """Rows that are run for nothing; none where there are none."""
    return (np.zeros(spec.inputs[name].sized(rows), spec.inputs[name].dtype),) if rows else ()
