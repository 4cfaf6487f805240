"""A component on real inputs: its recorded runs repeated, whatever batch the engine takes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from latentrt.engines.bundle.checks.parity import EXACT, gate
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ParityRecord
from latentrt.engines.bundle.unet.unet_of_steps import UnetOfSteps
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, ParityError
from latentrt.engines.shapes import Loop, Shapes
from latentrt.engines.spec import BATCH, Array


def measure(
    component: Component,
    engine_at: Callable[[Shapes], Engine],
    probes: Iterable[Probe],
    *,
    largest_chunks: int | None = None,
) -> ParityRecord:
    """Runs every probe and passes the worst figures through the gate.

    Args:
        component: whose probes they are.
        engine_at: the component's engine at given shapes.
        probes: recorded runs.
        largest_chunks: probes of longer prompts are left out, where the engine has no room for them.

    Raises:
        ParityError: a gate is missed.
        EngineError: no probe is left.
    """
    worst, cases, pixels = EXACT, 0, 0
    for probe in probes:
        chunks = component.manifest.chunks(component.name, probe.inputs)
        if largest_chunks is not None and chunks > largest_chunks:
            continue
        engine = engine_at(Shapes(profile=probe.profile, chunks=chunks, loop=component.loop))
        if component.loop is Loop.DEVICE:
            engine = UnetOfSteps(engine)
        outputs = run_any_batch(engine, probe.inputs)
        worst, cases = worst.worse(probe.parity(outputs)), cases + 1
        pixels = max(pixels, probe.profile.width * probe.profile.height)
    if not cases:
        raise EngineError(f"{component.name} has no recorded run that its engine could repeat; build the bundle again")
    record = component.record
    gate(component.name, record.kind, worst, record.precision, pixels, record.reference)
    return ParityRecord(relative_error=worst.relative_error, psnr=worst.psnr, cases=cases)


def answered(component: Component, engine_at: Callable[[Shapes], Engine], probe: Probe) -> Probe:
    """A probe with what an engine answers in place of its outputs.

    Raises:
        ParityError: NaN or infinite numbers.
    """
    shapes = Shapes(profile=probe.profile, chunks=component.manifest.chunks(component.name, probe.inputs))
    outputs = run_any_batch(engine_at(shapes), probe.inputs)
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise ParityError(
            f"{component.name} ({component.record.precision}) answers with NaN or infinite numbers, expected finite "
            "ones; use smaller weights, or a bundle in fp32"
        )
    return replace(probe, outputs=outputs)


def run_any_batch(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs as many samples as the inputs hold, in pieces of a batch that the engine takes; the last is filled up.

    Rows that act on each other are a batch that the engine has: a build records none else.
    """
    batched = [name for name, spec in engine.spec.inputs.items() if spec.shape[0] == BATCH]
    count = len(inputs[batched[0]]) if batched else 1
    pieces: list[dict[str, Array]] = []
    start = 0
    while start < count:
        batch = engine.spec.fit(count - start)
        taken = np.minimum(np.arange(start, start + batch), count - 1)  # what is too much repeats the last sample
        piece = {name: array[taken] if name in batched else array for name, array in inputs.items()}
        pieces.append({name: array[: count - start] for name, array in engine.run(piece).items()})
        start += batch
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in engine.spec.outputs}
