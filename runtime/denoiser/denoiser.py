"""The U-Net's prediction under guidance, for any number of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from latentrt.engines.batches import pieces_of
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, Condition, UnetCall
from latentrt.runtime.denoiser.guider import Guider, Pass
from latentrt.runtime.sampling.run import Answer
from latentrt.runtime.sampling.schedule import Level

_TIMESTEP, OUTPUT = "timestep", "out_sample"


class AnyDenoiser(Protocol):
    """What answers the calls of a run: its model's, or whole steps."""

    engine_calls: int

    def condition(self, conditions: Sequence[Condition], guider: Guider) -> None:
        """Goes on with other conditions and another guider from the next call on."""
        ...

    def __call__(self, x: Any, level: Level, /) -> Any:
        """Answers a call."""
        ...


class Denoiser:
    """A U-Net engine, what conditions it, and the guider that says which passes a step makes.

    All buffers that do not change between steps are made once. Belongs to one run.

    Attributes:
        engine_calls: how often the engine ran.
    """

    def __init__(self, engine: Engine, conditions: Sequence[Condition], guider: Guider) -> None:
        """Takes what a step needs; nothing runs yet."""
        self.engine_calls = 0
        self._engine, self._conditions, self._guider = engine, conditions, guider
        self._plans: dict[tuple[Pass, ...], list[_Piece]] = {}

    def condition(self, conditions: Sequence[Condition], guider: Guider) -> None:
        """Goes on with other conditions and another guider from the next call on."""
        self._conditions, self._guider = conditions, guider
        self._plans.clear()

    def __call__(self, x: Array, level: Level) -> Answer:
        """The predictions at ``x`` (N, C, H/f, W/f), or (N, F, C, H/f, W/f), scaled to unit variance; new arrays."""
        passes = self._guider.passes(level)
        if passes not in self._plans:
            self._plans[passes] = self._plan(passes, len(x))
        count, channels = len(x), x.shape[-3]
        rows = np.empty((len(passes) * count, *x.shape[1:]), x.dtype)
        for piece in self._plans[passes]:
            inputs, filled = dict[str, Tensor](piece.inputs), piece.rows.stop - piece.rows.start
            call = UnetCall(passes=passes, rows=piece.rows, pictures=count, level=level, inputs=inputs)
            piece.inputs[_TIMESTEP][:] = level.timestep
            piece.inputs[SAMPLE][:filled, ..., :channels, :, :] = x[call.picture_of_each]
            for condition in self._conditions:
                for name, tensor in condition.at(call).items():
                    inputs[name] = piece.holding(name, tensor)
            engine, taken = self._prepared(call)
            results = engine.run(taken)
            self._keep(call, results)
            rows[piece.rows] = results[OUTPUT][:filled]
            self.engine_calls += 1
        predictions = {which: rows[i * count : (i + 1) * count] for i, which in enumerate(passes)}
        return self._guider.combined(predictions, x, level)

    def _prepared(self, call: UnetCall) -> tuple[Engine, Mapping[str, Tensor]]:
        """The engine that answers a call, whose inputs are all there, and what it takes of it."""
        return self._engine, call.inputs

    def _keep(self, call: UnetCall, results: Mapping[str, Array]) -> None:
        """Told what the engine answered."""

    def _plan(self, passes: tuple[Pass, ...], count: int) -> list["_Piece"]:
        """The engine calls of a step: the rows of all passes one below the other, cut to what a call holds."""
        spec = self._engine.spec
        fixed = [condition.inputs(passes) for condition in self._conditions]
        given = {name for arrays in fixed for name in arrays}
        buffered = {name: tensor for name, tensor in spec.inputs.items() if tensor.neutral is None or name in given}
        plan = []
        for start, stop, batch in pieces_of(count * len(passes), spec.batches):
            inputs = {name: np.zeros(tensor.sized(batch), tensor.dtype) for name, tensor in buffered.items()}
            end = inputs[SAMPLE].shape[-3]
            for arrays in reversed(fixed):
                for name, array in arrays.items():
                    if name == SAMPLE:  # channels behind the latents' own, those of later conditions last
                        first = end - array.shape[-3]
                        inputs[name][: stop - start, ..., first:end, :, :] = array[start:stop]
                        end = first
                    else:
                        inputs[name][: stop - start] = array[start:stop]
            plan.append(_Piece(inputs=inputs, batch=batch, rows=slice(start, stop)))
        return plan


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """One engine call: which rows of the step's it is, the batch that holds them, and the inputs that stay."""

    inputs: dict[str, Array]
    batch: int
    rows: slice

    def holding(self, name: str, tensor: Tensor) -> Tensor:
        """What a condition gave as the engine takes it: with as many rows as its batch."""
        if not isinstance(tensor, np.ndarray) or len(tensor) == self.batch:
            return tensor
        if name not in self.inputs:
            return np.concatenate([tensor, np.zeros((self.batch - len(tensor), *tensor.shape[1:]), tensor.dtype)])
        buffer = self.inputs[name]
        buffer[: len(tensor)] = tensor
        return buffer
