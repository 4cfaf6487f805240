"""An engine whose runs wait for each other, and are made together where they are alike."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import count
from typing import Any

import numpy as np

from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor
from latentrt.runtime.serving.lanes.engine_call import EngineCall, EngineRun, filled, row_count
from latentrt.runtime.serving.lanes.line import Line

_PLACES = count()


class Sharing(StrEnum):
    """What calls that are alike do for each other.

    ``GATHERS``: together they make a run larger. ``FILLS``: they fill up one of a compiled batch that one of them needs
    anyway. ``EXACT``: nothing, for the rows of a run act on each other; each call has a batch that was compiled.
    """

    GATHERS = "gathers"
    FILLS = "fills"
    EXACT = "exact"


class SharedEngine(ClosesItself):
    """An ``Engine`` in a line: who finds the device free runs at once, with the very arrays that it gave.

    It takes every number of rows up to the engine's largest batch, so that calls which do not fill a compiled batch
    may fill it together; where rows act on each other, the batches that the engine has.
    """

    def __init__(self, engine: Engine, line: Line, lane: object, sharing: Sharing = Sharing.GATHERS) -> None:
        """Wraps an engine; closing closes it.

        Args:
            engine: it.
            line: of its device.
            lane: what calls have in common that may run as one.
            sharing: what these do for each other.
        """
        spec = engine.spec
        every = tuple(range(1, spec.batches[-1] + 1))
        exact = sharing is Sharing.EXACT
        self._fills = spec.batches != every and not exact
        self.spec: EngineSpec = replace(spec, batches=every, filled=spec.batches) if self._fills else spec
        self._engine, self._line, self._place = engine, line, next(_PLACES)
        batched = all(tensor.shape[:1] == (BATCH,) for tensor in spec.inputs.values())
        self._lane = lane if batched and not exact else None
        self._most = spec.batches[-1] if sharing is Sharing.GATHERS else 0
        self._keeps = getattr(type(engine), "run_kept", None) is not ClosesItself.run_kept

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the engine, or has it run with the calls of others."""
        engine, line = self._engine, self._line
        call = EngineCall(engine, inputs, self._lane, self._most, engine.run, self._place)
        try:
            if not line.enter(call) and (results := line.results(call)) is not None:
                return results
            return self._own_rows(inputs, engine.run(self._filled(inputs)))
        finally:
            line.leave(call)

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Runs the engine; alone, where results stay on a device, unless it stacks what is there.

        Results on a device have the rows of the batch that was run, where the engine runs no other.
        """
        engine, line, lane = self._engine, self._line, self._lane
        run: EngineRun = engine.run
        if self._keeps:
            run, lane = engine.run_kept, (lane, "kept") if lane is not None and engine.spec.stacks else None
        call = EngineCall(engine, inputs, lane, self._most, run, self._place)
        try:
            if not line.enter(call) and (results := line.results(call)) is not None:
                return results
            return self._own_rows(inputs, run(self._filled(inputs)))
        finally:
            line.leave(call)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _filled(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The inputs in a batch that the engine has."""
        return filled(self._engine.spec, inputs) if self._fills else inputs

    def _own_rows(self, inputs: Mapping[str, Tensor], results: Mapping[str, Any]) -> dict[str, Any]:
        """Of arrays the rows that were asked for."""
        if not self._fills:
            return dict(results)
        rows = row_count(inputs)
        arrays = {name: array for name, array in results.items() if isinstance(array, np.ndarray)}
        return {**results, **{name: array[:rows].copy() for name, array in arrays.items() if len(array) != rows}}
