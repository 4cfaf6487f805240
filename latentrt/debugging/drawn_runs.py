"""The runs of a component while a picture is drawn, such as one that came out black."""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np

from latentrt.engines.bundle.bundle import AnyBundle, Bundle
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.changes import Changes
from latentrt.engines.engine import ClosesItself, Engine
from latentrt.engines.errors import NotFiniteError, RequestError
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile, Shapes
from latentrt.engines.spec import Array, Tensor, host_arrays
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.serving.lanes.batching import Batching


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn, at the bundle's own size; None is the bundle's default."""

    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None


def drawn_runs(
    bundle: AnyBundle, component: str, drawing: Drawing, threads: int | None, progress: Progress
) -> list[Probe]:
    """Draws a picture on the best backend that the bundle has engines for here, and keeps the runs of a component.

    Args:
        bundle: a model's.
        component: whose runs are kept.
        drawing: the picture.
        threads: of a call on the CPU; None takes one per core.
        progress: receives the stage.

    Returns:
        All of its runs; or, once one gives NaN or infinity, that one alone.

    Raises:
        RequestError: the bundle draws nothing from prompts, or the picture does without the component.
        EngineError: no engine fits this machine.
    """
    if not isinstance(bundle, Bundle):
        raise RequestError(
            f"got a prompt for {str(bundle.root)!r}, which draws nothing by itself, expected a model's bundle; leave "
            "it out"
        )
    options: Options = {"seed": drawing.seed}
    if drawing.steps is not None:
        options["num_inference_steps"] = drawing.steps
    if drawing.guidance is not None:
        options["guidance_scale"] = drawing.guidance
    with closing(OpenComponents(bundle, chosen_backend(bundle, AUTO), threads=threads)) as components:
        engines = _WatchedEngines(components, component)
        with progress.stage(f"draw on {components.backend}"), suppress(NotFiniteError):
            Pipeline(bundle, engines, threads=threads, batching=Batching.ALONE)(drawing.prompt, **options)
    if not engines.runs:
        raise RequestError(
            f"got {component} to debug by a picture that is drawn without it, expected a component that it takes; "
            "leave the prompt out"
        )
    return engines.runs if _finite(engines.runs[-1].outputs) else engines.runs[-1:]


class _WatchedEngines:
    """Engines that keep the runs of one component; satisfies ``Engines``."""

    def __init__(self, engines: OpenComponents[Bundle], component: str) -> None:
        self.bundle, self.backend, self.loop = engines.bundle, engines.backend, engines.loop
        self.changed_models = engines.changed_models
        self.runs: list[Probe] = []
        self._engines, self._component = engines, component

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """The component at these shapes."""
        engine = self._engines.engine(component, shapes, changes)
        return _WatchedEngine(engine, shapes.profile, self.runs) if component == self._component else engine

    def close(self) -> None:
        """Whoever opened them closes them."""


class _WatchedEngine(ClosesItself):
    """An engine that keeps its runs, up to the first with NaN or infinity."""

    def __init__(self, engine: Engine, profile: Profile, runs: list[Probe]) -> None:
        self.spec = engine.spec
        self._engine, self._profile, self._runs = engine, profile, runs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs it.

        Raises:
            NotFiniteError: NaN or infinity came out, so what would follow tells nothing.
        """
        taken = {name: array.copy() for name, array in host_arrays(inputs).items()}
        outputs = self._engine.run(inputs)
        kept = {name: array.copy() for name, array in outputs.items()}
        self._runs.append(Probe(profile=self._profile, inputs=taken, outputs=kept))
        if not _finite(outputs):
            raise NotFiniteError("a component gave NaN or infinity, expected finite numbers; debug it")
        return outputs

    def close(self) -> None:
        """Whoever opened it closes it."""


def _finite(arrays: Mapping[str, Array]) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values())
