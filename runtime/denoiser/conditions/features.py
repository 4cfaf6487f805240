"""T2I-Adapters: features that are added to the U-Net, made once per picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, UnetCall
from latentrt.runtime.denoiser.guider import Pass
from latentrt.runtime.denoiser.steps import ActiveSteps


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedRun:
    """A T2I-Adapter in a run.

    Attributes:
        features: by the names of the U-Net's inputs, multiplied by its scale, (M, C, h, w): of one picture for all that
            are drawn, or one for each.
        steps: in which it counts.
    """

    features: Mapping[str, Array]
    steps: ActiveSteps


class FeaturesCondition:
    """All T2I-Adapters of a run, summed. Every pass sees them."""

    def __init__(self, adapters: Sequence[AdaptedRun]) -> None:
        """Takes them."""
        self._adapters = adapters
        self._sums: dict[tuple[int, ...], Mapping[str, Array]] = {}
        self._made: dict[tuple[object, ...], Mapping[str, Array]] = {}

    def inputs(self, passes: Sequence[Pass]) -> Mapping[str, Array]:
        """Nothing: some steps may have none."""
        return {}

    def at(self, call: UnetCall) -> Mapping[str, Tensor]:
        """The sum of the features of all adapters that count here; nothing where there is none."""
        active = tuple(index for index, one in enumerate(self._adapters) if one.steps.at(call.level))
        pictures, batch = call.picture_of_each, call.inputs[SAMPLE].shape[0]
        key = active, tuple(pictures.tolist()), batch
        if key not in self._made:
            self._made[key] = {name: _rows(array, pictures, batch) for name, array in self._sum_of(active).items()}
        return self._made[key]

    def _sum_of(self, active: tuple[int, ...]) -> Mapping[str, Array]:
        if active not in self._sums:
            self._sums[active] = _sum([self._adapters[index].features for index in active])
        return self._sums[active]


def _rows(array: Array, pictures: Array, batch: int) -> Array:
    """The feature of each row's picture in a batch: read-only, so that a device takes it once for all steps."""
    rows = np.zeros((batch, *array.shape[1:]), array.dtype)
    rows[: len(pictures)] = array[pictures % len(array)]
    rows.setflags(write=False)
    return rows


def _sum(features: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """By name; an adapter may have fewer of them than another."""
    total: dict[str, Array] = {}
    for one in features:
        for name, array in one.items():
            total[name] = np.asarray(total[name] + array) if name in total else array
    return total
