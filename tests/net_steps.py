"""A model's bundle and a net's, opened on one backend, and a step with both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.bundle.bundle import open_addon, open_bundle
from latentrt.engines.bundle.kinds import CONTROL, HINT, UNET
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.bundle.unet.net_inputs import PICTURE, SCALES
from latentrt.engines.engine import Engine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array, Tensor
from latentrt.engines.store.components import OpenComponents

SMALL = Shapes(profile=Profile(width=32, height=32, batch=2))


def random_input(engine: Engine, name: str, seed: int = 0) -> Array:
    """Of a whole batch, in [0, 1]."""
    tensor = engine.spec.inputs[name]
    random = np.random.default_rng(seed)
    return random.random(tensor.sized(engine.spec.batches[-1])).astype(tensor.dtype)


class ControlledUnet:
    """A model and a net, opened on one backend: two nets' residuals on their way through the U-Net."""

    def __init__(self, model: Path, net: Path, backend: Backend) -> None:
        shapes = Shapes(profile=SMALL.profile, added=frozenset({AddedInputs.CONTROL}))
        self.opened: list[OpenComponents[Any]] = [
            OpenComponents(open_bundle(model), backend, threads=1),
            OpenComponents(open_addon(net), backend, threads=1),
        ]
        self.unet = self.opened[0].engine(UNET, shapes)
        hint, self.control = (self.opened[1].engine(name, SMALL) for name in (HINT, CONTROL))
        self.embedded = [self._embedded(hint, picture) for picture in range(2)]

    def _embedded(self, hint: Engine, seed: int) -> Array:
        """Control pictures embedded, once for each half of guidance; nothing writes to it."""
        (result,) = hint.run({PICTURE: random_input(hint, PICTURE, seed)}).values()
        halves = np.concatenate([result, result])
        halves.flags.writeable = False
        return halves

    def _own(self, seed: int) -> dict[str, Tensor]:
        return {
            name: random_input(self.unet, name, seed)
            for name, tensor in self.unet.spec.inputs.items()
            if tensor.neutral is None
        }

    def plain(self, seed: int) -> Array:
        """The U-Net with nothing added."""
        return self.unet.run(self._own(seed))["out_sample"]

    def step(self, seed: int) -> Array:
        """Two nets, the second adding to what the first gave, and the U-Net."""
        own = self._own(seed)
        residuals: Mapping[str, Tensor] = {}
        for net, embedded in enumerate(self.embedded):
            given = {**own, HINT: embedded, SCALES: random_input(self.control, SCALES, net)}
            before = {previous(name): residual for name, residual in residuals.items()}
            residuals = self.control.run_kept({**given, **before})
        return self.unet.run({**own, **residuals})["out_sample"]

    def close(self) -> None:
        """Closes both."""
        for components in self.opened:
            components.close()
