"""Draws the calibration prompts with engines that record what flows into every quantizable node."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.kinds import VAE_DECODER
from latentrt.engines.graphs.quantization.observe import Observations, ObservingEngine
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.engine_overrides import EngineOverrides
from latentrt.quantization.judge import Drawn, Judged
from latentrt.quantization.quantization import QuantizableComponent
from latentrt.quantization.settings import Effort
from latentrt.runtime.pipeline import Pipeline

_SAVED_AS = "observed"


class Calibrated(Drawn, Protocol):
    """What is drawn to calibrate with."""

    @property
    def effort(self) -> Effort:
        """How much work it may take."""
        ...


class Watched(Judged, Protocol):
    """What is calibrated: some components of a bundle."""

    @property
    def settings(self) -> Calibrated:
        """What is drawn."""
        ...

    @property
    def components(self) -> tuple[QuantizableComponent, ...]:
        """Those that are watched."""
        ...


def observe(quantization: Watched, engines: OpenComponents[Bundle]) -> dict[str, Observations]:
    """What every quantizable component saw, by its name; goes on where a killed calibration stopped."""
    calibration, progress = quantization.settings.calibration, quantization.progress
    saved = quantization.checkpoints.load(_SAVED_AS)
    first, total = 0 if saved is None else int(saved["pictures"]), len(calibration.prompts)
    done = first
    observations = {
        part.name: Observations() if saved is None else Observations.from_arrays(_of_component(part.name, saved))
        for part in quantization.components
    }

    def arrays() -> dict[str, Array]:
        observed = {
            f"{name}:{key}": array for name, seen in observations.items() for key, array in seen.arrays().items()
        }
        return {**observed, "pictures": np.array(done)}

    with (
        progress.stage("calibrate"),
        ExitStack() as opened,
        quantization.checkpoints.autosaved(_SAVED_AS, arrays) as save_if_due,
    ):
        observing = {
            part.name: opened.enter_context(
                ObservingEngine(
                    part.weights,
                    part.nodes,
                    part.spec,
                    observations[part.name],
                    _recorded_runs(quantization, part),
                    [tensor for attention in part.attentions for tensor in attention.inputs],
                )
            )
            for part in quantization.components
        }
        pipe = Pipeline(quantization.base, EngineOverrides(engines, observing))
        for done in calibration.calibrating(pipe, first, decoded=VAE_DECODER in observing):
            progress.phase(f"picture {done} of {total}", done, total)
            save_if_due()
    return observations


def _recorded_runs(quantization: Watched, part: QuantizableComponent) -> list[int]:
    """The runs whose inputs are kept to measure sensitivity at.

    The U-Net's are spread over the first picture's schedule, a decoder's over the pictures.
    """
    calibration, calls = quantization.settings.calibration, quantization.settings.effort.calls
    batches = -(-len(calibration.prompts) // quantization.base.manifest.profiles[0].batch)
    runs = calibration.steps if part.has_timesteps else batches
    return sorted({index * runs // calls for index in range(calls)})


def _of_component(component: str, saved: Mapping[str, Array]) -> dict[str, Array]:
    """What was saved of one component."""
    prefix = f"{component}:"
    return {key.removeprefix(prefix): array for key, array in saved.items() if key.startswith(prefix)}
