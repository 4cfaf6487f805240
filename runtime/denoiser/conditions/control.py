"""Control nets: residuals that are added to the U-Net, made anew in every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.engines.batches import pieces_of
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.bundle.unet.net_inputs import CONTROL_TYPE, HINT, SCALES
from latentrt.engines.engine import Engine
from latentrt.engines.spec import Array, Tensor, host_arrays
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.guider import Pass, Side
from latentrt.runtime.denoiser.steps import ActiveSteps

Residuals = Mapping[str, Tensor]
"""By the names of the U-Net's inputs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlledRun:
    """A control net in a run.

    Attributes:
        engine: of its component ``control``.
        hint: its embedded picture (M, C, h, w): one for all that are drawn, or one for each.
        scales: by what its residuals are multiplied (n + 1,): the down blocks' in order, then the middle's.
        steps: in which it counts.
        conditional_only: whether the negative pass sees none of it.
        types: union nets: which kinds of pictures are given (kinds,), 1 or 0.
        same_backend: whether the U-Net takes its residuals where they lie.
    """

    engine: Engine
    hint: Array
    scales: Array
    steps: ActiveSteps
    conditional_only: bool = False
    types: Array | None = None
    same_backend: bool = True
    _hints: dict[tuple[int, ...], Array] = field(default_factory=dict, init=False, repr=False)

    def narrows(self, rows: int, wanted: int) -> bool:
        """Whether a call of fewer rows is a smaller one: engines of fixed shapes compute what is left out as well."""
        spec = self.engine.spec
        return wanted < rows and spec.computed(wanted) < spec.computed(rows)

    def residuals(self, call: UnetCall, rows: Array, before: Residuals) -> Residuals:
        """What it adds for some rows of a call, with what the nets before it added.

        Where they are all rows, and one call holds them, results have the U-Net's whole batch, and stay on the device.

        Args:
            call: of the U-Net.
            rows: which of its rows, ascending.
            before: of the same rows, or of the whole batch.
        """
        batch, count = call.inputs[SAMPLE].shape[0], call.rows.stop - call.rows.start
        taken = {name: self._taken(name, call) for name in self.engine.spec.inputs if name in call.inputs}
        batches = self.engine.spec.batches
        if len(rows) == count and batch in batches:
            results = self.engine.run_kept({**taken, **self._own(call, rows, batch), **_as_previous(before)})
            if self.same_backend:
                return results
            return {name: array[:batch] for name, array in host_arrays(results).items()}
        earlier, parts = host_arrays(before), []
        for start, stop, size in pieces_of(len(rows), batches):
            piece, places = rows[start:stop], slice(start, stop)
            inputs = {name: _filled(array[piece], size) for name, array in host_arrays(taken).items()}
            told = {name: _filled(array[places], size) for name, array in earlier.items()}
            results = host_arrays(
                self.engine.run_kept({**inputs, **self._own(call, piece, size), **_as_previous(told)})
            )
            parts.append({name: array[: stop - start] for name, array in results.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _taken(self, name: str, call: UnetCall) -> Tensor:
        """An input that the U-Net has, too; of its sample the latents alone."""
        tensor = call.inputs[name]
        channels = self.engine.spec.inputs[name].shape
        if name == SAMPLE and isinstance(tensor, np.ndarray) and tensor.shape[1] != channels[1]:
            return np.ascontiguousarray(tensor[:, : int(channels[1])])
        return tensor

    def _own(self, call: UnetCall, rows: Array, batch: int) -> dict[str, Array]:
        """Its other inputs, for some rows of a call in a batch of that size."""
        scales = np.zeros((batch, len(self.scales)), np.float32)
        scales[: len(rows)] = self.scales
        if self.conditional_only:
            for place, row in enumerate(rows):
                if call.pass_of_each[row].side is not Side.POSITIVE:
                    scales[place] = 0.0
        own = {HINT: self._hint_of(call.picture_of_each[rows] % len(self.hint), batch), SCALES: scales}
        if self.types is not None:
            own[CONTROL_TYPE] = np.tile(self.types, (batch, 1))
        return own

    def _hint_of(self, pictures: Array, batch: int) -> Array:
        """The hints of pictures in a batch of that size: read-only, so that a device takes them once for all steps."""
        key = (batch, *pictures.tolist())
        if key not in self._hints:
            self._hints[key] = _filled(self.hint[pictures], batch)
            self._hints[key].setflags(write=False)
        return self._hints[key]


@dataclass(frozen=True, eq=False)
class ControlCondition:
    """All control nets of a run. Each adds to what those before it added, so that none is summed on the host."""

    nets: Sequence[ControlledRun]

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing: residuals change in every step."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The sum of the residuals of all nets that count here; nothing where there is none."""
        active = [net for net in self.nets if net.steps.at(call.level)]
        rows = np.arange(call.rows.stop - call.rows.start)
        wanted = np.array(
            [index for index, which in enumerate(call.pass_of_each) if which.side is Side.POSITIVE], rows.dtype
        )
        narrow = [net for net in active if net.conditional_only and net.narrows(len(rows), len(wanted))]
        total: Residuals = {}
        if len(wanted):
            for net in narrow:
                total = net.residuals(call, wanted, total)
            total = {name: _spread(array, wanted, len(rows)) for name, array in host_arrays(total).items()}
        for net in active:
            if net not in narrow and (len(wanted) or not net.conditional_only):
                total = net.residuals(call, rows, _of_batch(total, call.inputs[SAMPLE].shape[0]))
        return total


def _as_previous(residuals: Residuals) -> dict[str, Tensor]:
    return {previous(name): tensor for name, tensor in residuals.items()}


def _of_batch(residuals: Residuals, batch: int) -> Residuals:
    """Arrays filled up to a batch."""
    return {
        name: _filled(tensor, batch) if isinstance(tensor, np.ndarray) else tensor for name, tensor in residuals.items()
    }


def _filled(array: Array, batch: int) -> Array:
    """(n, …) with zeros behind it up to (batch, …)."""
    if len(array) == batch:
        return np.ascontiguousarray(array)
    return np.concatenate([array, np.zeros((batch - len(array), *array.shape[1:]), array.dtype)])


def _spread(array: Array, rows: Array, count: int) -> Array:
    """Some rows among zeros."""
    spread = np.zeros((count, *array.shape[1:]), array.dtype)
    spread[rows] = array
    return spread
