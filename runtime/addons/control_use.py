"""Control nets and T2I-Adapters in a call, checked; and what they become in its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentrt.engines.batches import batch_results
from latentrt.engines.bundle.kinds import CONTROL, FEATURES
from latentrt.engines.bundle.kinds import HINT as HINT_COMPONENT
from latentrt.engines.bundle.unet.net_inputs import CONDITION_SCALE, CONTROL_INDEX, HINT, PICTURE
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import AddedInputs, Shapes
from latentrt.engines.spec import Array
from latentrt.runtime.addons.addon import Addon, OpenAddons
from latentrt.runtime.addons.control import ControlMode
from latentrt.runtime.denoiser.conditions.control import ControlCondition, ControlledRun
from latentrt.runtime.denoiser.conditions.features import AdaptedRun, FeaturesCondition
from latentrt.runtime.denoiser.steps import ActiveSteps
from latentrt.runtime.metadata.added import ControlMetadata
from latentrt.runtime.pictures.control_picture import control_pixels
from latentrt.runtime.pictures.crop import Crop
from latentrt.runtime.pictures.image import Picture

_FACTORS = (-1.0, 0.0)  # powers of ten from the shallowest residual to the middle's: guess mode's


@dataclass(frozen=True, kw_only=True, eq=False)
class UsedControl:
    """A control net or a T2I-Adapter in a call, of the add-ons ``opened``. ``shares`` are the start and end that the
    caller gave, ``kind`` a union net's number of the kind of pictures."""

    opened: OpenAddons
    addon: Addon
    pictures: Sequence[Picture]
    scale: float
    shares: tuple[float, float]
    steps: ActiveSteps
    mode: ControlMode
    kind: int | None = None

    @property
    def idle(self) -> bool:
        """Whether it changes nothing in any step."""
        return self.scale == 0.0 or not any(self.steps.active)

    def engine(self, component: str, shapes: Shapes) -> Engine:
        """One of its components at these shapes.

        Raises:
            EngineError: closed, or no engine fits.
        """
        return self.opened.engine(self.addon, component, shapes)

    def pixels(self, shapes: Shapes, crops: Sequence[Crop]) -> Array:
        """Its pictures (M, 3, H, W) as a net takes them; as many as there are of them, or of crops.

        Raises:
            RequestError: an array of another size.
        """
        profile, what = shapes.profile, f"the {self.addon.label}"
        given = max(len(self.pictures), len(crops))
        return np.stack(
            [
                control_pixels(
                    self.pictures[index % len(self.pictures)],
                    profile.width,
                    profile.height,
                    crops[index % len(crops)] if crops else None,
                    what,
                )
                for index in range(given)
            ]
        )

    def metadata(self) -> ControlMetadata:
        """What a picture's metadata say of it."""
        return ControlMetadata(
            net=self.addon.name,
            kind=self.addon.kind.value,
            scale=self.scale,
            start=self.shares[0],
            end=self.shares[1],
            mode=self.mode.value,
            type=self.kind,
        )


@dataclass(frozen=True, kw_only=True)
class ControlUse:
    """The control nets of a call that change something."""

    used: Sequence[UsedControl]

    def opened_for(self, shapes: Shapes) -> Shapes:
        """With residuals."""
        return replace(shapes, added=shapes.added | {AddedInputs.CONTROL})

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> ControlCondition:
        """Embeds the pictures, and opens what runs in every step."""
        return ControlCondition([self._run(group, shapes, crops) for group in self._groups()])

    def metadata(self) -> Mapping[str, Any]:
        """All of them, in order."""
        return {"control_nets": tuple(one.metadata() for one in self.used)}

    def _groups(self) -> Sequence[Sequence[UsedControl]]:
        """Those that one run of a net serves: the pictures of a union net in the same steps and the same mode."""
        groups: dict[object, list[UsedControl]] = {}
        for place, one in enumerate(self.used):
            key = (place,) if one.kind is None else (id(one.addon), one.steps, one.mode)
            groups.setdefault(key, []).append(one)
        return tuple(groups.values())

    def _run(self, group: Sequence[UsedControl], shapes: Shapes, crops: Sequence[Crop]) -> ControlledRun:
        first, record = group[0], group[0].addon.manifest.control
        averages, types = (False, 0) if record is None else (record.conditional_only, record.types)
        alone = len(group) == 1
        # Among several pictures of a union net, scales are for the pictures; of one, they are for the residuals
        hints = [_hint(one, shapes, crops, 1.0 if alone else one.scale) for one in group]
        engine = first.engine(CONTROL, shapes)
        count = len(first.addon.manifest.components[CONTROL].outputs)
        factors = np.ones(count, np.float32)
        if first.mode is not ControlMode.BALANCED and not averages:
            factors = np.logspace(*_FACTORS, count, dtype=np.float32)
        kinds = {one.kind for one in group}
        return ControlledRun(
            engine=engine,
            hint=sum(hints[1:], hints[0]),
            scales=factors * np.float32(first.scale if alone else 1.0),
            steps=first.steps,
            conditional_only=averages or first.mode is ControlMode.CONTROL,
            types=np.array([index in kinds for index in range(types)], np.float32) if types else None,
            same_backend=first.addon.backend is first.opened.backend,
        )


@dataclass(frozen=True, kw_only=True)
class FeaturesUse:
    """The T2I-Adapters of a call that change something."""

    used: Sequence[UsedControl]

    def opened_for(self, shapes: Shapes) -> Shapes:
        """With features."""
        return replace(shapes, added=shapes.added | {AddedInputs.CONTROL})

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> FeaturesCondition:
        """Makes the features of every picture."""
        return FeaturesCondition(
            [AdaptedRun(features=_features(one, shapes, crops), steps=one.steps) for one in self.used]
        )

    def metadata(self) -> Mapping[str, Any]:
        """All of them, in order."""
        return {"t2i_adapters": tuple(one.metadata() for one in self.used)}


def _hint(one: UsedControl, shapes: Shapes, crops: Sequence[Crop], scale: float) -> Array:
    """A net's pictures, embedded: (M, C, h, w)."""
    inputs: dict[str, Array] = {PICTURE: one.pixels(shapes, crops)}
    if one.kind is not None:
        count = len(inputs[PICTURE])
        inputs |= {CONTROL_INDEX: np.full(count, one.kind), CONDITION_SCALE: np.full(count, scale, np.float32)}
    engine = one.engine(HINT_COMPONENT, shapes)
    return np.concatenate([results[HINT] for results in batch_results(engine, inputs)])


def _features(one: UsedControl, shapes: Shapes, crops: Sequence[Crop]) -> Mapping[str, Array]:
    """What an adapter makes of its pictures, scaled, by name: (M, C, h, w)."""
    pieces = list(batch_results(one.engine(FEATURES, shapes), {PICTURE: one.pixels(shapes, crops)}))
    scale = np.float32(one.scale)
    return {name: np.concatenate([piece[name] for piece in pieces]) * scale for name in pieces[0]}
