"""Steps of a run on an engine that computes them whole: latents stay where it computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from latentrt.engines.batches import pieces_of
from latentrt.engines.bundle.unet.denoise_step import (
    CHANNELS,
    DENOISED,
    KEPT_CLEAN,
    KEPT_MASK,
    KEPT_NOISE,
    NEXT_SAMPLE,
    NEXT_STATE,
    NOISE,
    OTHER_PASSES,
    RESULTS,
    ROW,
    STATE,
    TERMS,
    VECTORS,
    StepRows,
)
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, Condition, UnetCall
from latentrt.runtime.denoiser.guider import Guider, Pass
from latentrt.runtime.denoiser.linear_guidance import LinearGuidance, Shares
from latentrt.runtime.sampling.schedule import Level
from latentrt.runtime.sampling.step_run import Step, as_one

_TIMESTEP = "timestep"


class StepDenoiser:
    """An engine of whole steps, what conditions it, and guidance as numbers. Belongs to one run.

    All passes of a picture are rows of one call, each with the picture's state: so every row gets the same update. The
    state stays with the engine; where other passes are made than in the step before, it comes to the host once.

    Attributes:
        engine_calls: how often the engine ran.
    """

    def __init__(self, engine: Engine, conditions: Sequence[Condition], guidance: LinearGuidance) -> None:
        """Takes what a step needs; nothing runs yet."""
        self.engine_calls = 0
        self._engine, self._conditions, self._guidance = engine, conditions, guidance
        self._passes: tuple[Pass, ...] = ()
        self._stepped = SteppedPieces(())
        self._pieces: list[_Piece] = []

    def condition(self, conditions: Sequence[Condition], guider: Guider) -> None:
        """Goes on with other conditions and another guider from the next call on."""
        self._conditions, self._guidance = conditions, replace(self._guidance, guider=guider)
        self._passes = ()

    def __call__(self, step: Step, level: Level) -> "SteppedPieces":
        """Makes a step at a level."""
        passes = self._guidance.passes(level)
        if step.x is not None or passes != self._passes:
            self._lay_out(passes, step, level)
        shares = self._guidance.shares(level)
        for piece in self._pieces:
            rows = piece.padded(_rows(step, level, passes, shares, piece.count))
            timestep = np.full(piece.batch, level.timestep, self._engine.spec.inputs[_TIMESTEP].dtype)
            inputs: dict[str, Tensor] = {**piece.fixed, SAMPLE: piece.sample, _TIMESTEP: timestep}
            call = piece.call(passes, level, inputs)
            for condition in self._conditions:
                for name, tensor in condition.at(call).items():
                    inputs[name] = piece.sized(tensor)
            if step.noise is not None:
                inputs[NOISE] = piece.padded(np.tile(step.noise[piece.pictures], (len(passes), 1, 1, 1)))
            del inputs[SAMPLE]
            results = self._engine.run_kept({**inputs, STATE: piece.state, ROW: rows})
            piece.results, piece.state, piece.sample = results, results[NEXT_STATE], results[NEXT_SAMPLE]
            self.engine_calls += 1
        self._stepped = SteppedPieces(tuple((piece.results, piece.count) for piece in self._pieces))
        return self._stepped

    def _lay_out(self, passes: tuple[Pass, ...], step: Step, level: Level) -> None:
        """The engine calls of a step, each with the rows of all passes of some pictures, and the state of each."""
        vectors = self._stepped.vectors
        if step.x is not None:
            rest = (
                np.zeros((len(step.x), VECTORS - 1, *step.x.shape[1:]), np.float32)
                if vectors is None
                else vectors[:, 1:]
            )
            vectors = np.concatenate([step.x[:, None], rest], axis=1, dtype=np.float32)
        assert vectors is not None  # a run begins with an x; for the type checker
        fixed = _fixed([condition.inputs(passes) for condition in self._conditions])
        spec = self._engine.spec
        held = tuple(dict.fromkeys(batch // len(passes) for batch in spec.batches if batch >= len(passes)))
        self._passes, self._pieces = passes, []
        for start, stop, _ in pieces_of(len(vectors), held):
            taken = (stop - start) * len(passes)
            piece = _Piece(pictures=slice(start, stop), batch=next(batch for batch in spec.batches if batch >= taken))
            rows = np.concatenate([np.arange(start, stop) + place * len(vectors) for place in range(len(passes))])
            piece.fixed = {name: piece.read_only(array[rows]) for name, array in fixed.items()}
            if step.keep is not None:
                for name, array in (
                    (KEPT_MASK, step.keep.mask),
                    (KEPT_CLEAN, step.keep.clean),
                    (KEPT_NOISE, step.keep.noise),
                ):
                    piece.fixed[name] = piece.read_only(np.tile(array[start:stop], (len(passes), 1, 1, 1)))
            piece.state = piece.padded(np.tile(vectors[start:stop], (len(passes), 1, 1, 1, 1)))
            piece.sample = piece.state[:, 0] * np.float32(level.input_scale)
            self._pieces.append(piece)


@dataclass(eq=False)
class _Piece:
    """One engine call of every step: whose pictures, the batch that holds their rows, and what the engine keeps."""

    pictures: slice
    batch: int
    fixed: dict[str, Array] = field(default_factory=dict)
    state: Tensor = field(init=False)
    sample: Tensor = field(init=False)
    results: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many pictures."""
        return int(self.pictures.stop - self.pictures.start)

    def call(self, passes: tuple[Pass, ...], level: Level, inputs: Mapping[str, Tensor]) -> UnetCall:
        """The call, as conditions know it."""
        rows = slice(0, len(passes) * self.count)
        return UnetCall(
            passes=passes, rows=rows, pictures=self.count, level=level, inputs=inputs, first=self.pictures.start
        )

    def sized(self, tensor: Tensor) -> Tensor:
        """What a condition gave, of as many rows as the batch; a net's results may have more."""
        if isinstance(tensor, np.ndarray):
            return self.padded(tensor)
        return tensor if tensor.shape[0] == self.batch else tensor.rows(0, self.batch)

    def padded(self, array: Array) -> Array:
        """An array with zeros below it, up to the batch."""
        if len(array) == self.batch:
            return array
        return np.concatenate([array, np.zeros((self.batch - len(array), *array.shape[1:]), array.dtype)])

    def read_only(self, array: Array) -> Array:
        """The same for what stays over the run: an engine on a device copies it there once."""
        whole = np.array(self.padded(array))
        whole.setflags(write=False)
        return whole


class SteppedPieces:
    """Where a step led, of all pictures; arrays are copied from the device as they are asked for."""

    def __init__(self, pieces: Sequence[tuple[Mapping[str, Tensor], int]]) -> None:
        """Takes each engine call's results, and how many pictures are its first rows."""
        self._pieces = pieces

    @cached_property
    def vectors(self) -> Array | None:
        """x and what else the run keeps (N, vectors, C, h, w); None where no step was made."""
        return self._of(NEXT_STATE) if self._pieces else None

    @property
    def x(self) -> Array:
        """(N, C, h, w); the caller's own."""
        return self._of(NEXT_STATE)[:, 0].copy()

    @cached_property
    def denoised(self) -> Array:
        """The clean sample predicted (N, C, h, w)."""
        return self._of(DENOISED)

    def _of(self, name: str) -> Array:
        return np.concatenate([_host(results[name])[:count] for results, count in self._pieces])


def _host(tensor: Tensor) -> Array:
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()


def _rows(step: Step, level: Level, passes: tuple[Pass, ...], shares: Shares, count: int) -> Array:
    """The numbers of all rows of a call, (passes · count, numbers)."""
    others = [passes.index(which) for which in shares.others]
    others += others[:1] * (OTHER_PASSES - len(others))  # those that count nothing
    weights = [*shares.weights, *[0.0] * (OTHER_PASSES - len(shares.weights))]
    places = np.array([passes.index(shares.base), *others])
    total = len(passes) * count

    def same(*numbers: float) -> Array:
        return np.tile(np.array(numbers, np.float32), (total, 1))

    return StepRows(
        input_scale=same(level.input_scale),
        next_input_scale=same(1.0 if step.next_level is None else step.next_level.input_scale),
        kept=same(*step.kept),
        passes=np.repeat((places - np.arange(len(passes))[:, None]) * count, count, axis=0),
        weights=same(*weights),
        rescale=same(shares.rescale),
        update=np.broadcast_to(step.update if shares.guides else as_one(step.update), (total, RESULTS, TERMS)),
    ).packed()


def _fixed(conditions: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """What stays over the run, by the step's names: of two that give the same, the first counts."""
    merged = {name: array for arrays in reversed(conditions) for name, array in arrays.items() if name != SAMPLE}
    channels = [arrays[SAMPLE] for arrays in conditions if SAMPLE in arrays]
    return {**merged, CHANNELS: np.concatenate(channels, axis=1)} if channels else merged
