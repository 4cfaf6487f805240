"""DeepCache: model calls that take most of the U-Net from the call before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import is_not

import numpy as np

from latentrt.engines.bundle.unet.deep_cache import deep_feature
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import CachePart, CacheRole, Shapes
from latentrt.engines.spec import Array, Tensor
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, Condition, UnetCall
from latentrt.runtime.denoiser.denoiser import Denoiser
from latentrt.runtime.denoiser.guider import Guider, Pass
from latentrt.runtime.sampling.run import Answer
from latentrt.runtime.sampling.schedule import Level


def cached_denoiser(
    opened: Callable[[Shapes], Engine],
    shapes: Shapes,
    conditions: Sequence[Condition],
    guider: Guider,
    *,
    interval: int,
    branch: int,
) -> "CachedDenoiser":
    """A denoiser of one run, with both of its engines opened.

    Args:
        opened: opens the U-Net at shapes.
        shapes: of its calls.
        conditions: what conditions it.
        guider: says which passes a step makes.
        interval: every so many model calls one is whole.
        branch: which feature is kept.

    Raises:
        EngineError: the backend has no such engines.
    """
    keeping, shallow = (
        opened(replace(shapes, cached=CachePart(role=role, branch=branch)))
        for role in (CacheRole.KEEPS, CacheRole.SHALLOW)
    )
    feature = deep_feature(branch)
    return CachedDenoiser(keeping, shallow, conditions, guider, feature=feature, interval=interval)


class CachedDenoiser(Denoiser):
    """A denoiser whose every n-th model call is whole and keeps a feature, from which the calls between go on.

    A pass that was not in the last whole call has no feature: so is a call that first makes it whole, and one behind a
    change of what conditions the run.

    Attributes:
        whole_calls: how many of the run's model calls were whole so far.
    """

    def __init__(
        self,
        keeping: Engine,
        shallow: Engine,
        conditions: Sequence[Condition],
        guider: Guider,
        *,
        feature: str,
        interval: int,
    ) -> None:
        """Takes what a step needs; nothing runs yet.

        Args:
            keeping: the whole U-Net, which returns the feature, too.
            shallow: the U-Net that takes the feature.
            conditions: what conditions it.
            guider: says which passes a step makes.
            feature: the name of the output of one and input of the other.
            interval: every so many model calls one is whole.
        """
        super().__init__(keeping, conditions, guider)
        self.whole_calls = 0
        self._shallow, self._feature, self._interval = shallow, feature, interval
        self._is_shallow, self._since = False, 0
        self._kept: dict[Pass, Array] = {}

    def condition(self, conditions: Sequence[Condition], guider: Guider) -> None:
        """As of every denoiser; where the U-Net is told anything else, the next call is whole."""
        if len(conditions) != len(self._conditions) or any(map(is_not, conditions, self._conditions)):
            self._kept = {}
        super().condition(conditions, guider)

    def __call__(self, x: Array, level: Level) -> Answer:
        """The predictions at ``x`` (N, C, H/f, W/f), already scaled to unit variance; new arrays."""
        passes = self._guider.passes(level)
        self._is_shallow = self._since < self._interval and self._kept.keys() >= set(passes)
        if not self._is_shallow:
            self._since, self._kept = 0, {}
            self.whole_calls += 1
        self._since += 1
        return super().__call__(x, level)

    def _prepared(self, call: UnetCall) -> tuple[Engine, Mapping[str, Tensor]]:
        """The whole U-Net, or the shallow one with what was kept for its rows."""
        if not self._is_shallow:
            return self._engine, call.inputs
        taken = self._shallow.spec.inputs
        rows = taken[self._feature]
        given = np.zeros(rows.sized(call.inputs[SAMPLE].shape[0]), rows.dtype)
        for row, (which, picture) in enumerate(zip(call.pass_of_each, call.picture_of_each, strict=True)):
            given[row] = self._kept[which][picture]
        inputs = {name: tensor for name, tensor in call.inputs.items() if name in taken}
        return self._shallow, {**inputs, self._feature: given}

    def _keep(self, call: UnetCall, results: Mapping[str, Array]) -> None:
        """Of a whole call the feature of every row."""
        if self._is_shallow:
            return
        found = results[self._feature]
        for row, (which, picture) in enumerate(zip(call.pass_of_each, call.picture_of_each, strict=True)):
            if which not in self._kept:
                self._kept[which] = np.empty((call.pictures, *found.shape[1:]), found.dtype)
            self._kept[which][picture] = found[row]
