"""What a backend is to the rest: something that compiles components for a machine and opens what it compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord, EngineManifest
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile, Shapes

if TYPE_CHECKING:
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes


class WeightsAs(StrEnum):
    """What the weights that adapters change are to an engine: part of it, or inputs that any call may change."""

    CONSTANTS = "constants"
    INPUTS = "inputs"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to compile for: a machine as engines name it, and what the builder may use meanwhile.

    ``workspace_mb`` limits the scratch memory of any layer in MB (2**20 bytes); None leaves it to the backend.
    """

    machine: str
    workspace_mb: int | None = None
    weights: WeightsAs = WeightsAs.CONSTANTS

    def takes_weights(self, component: Component) -> bool:
        """Whether the component's engine is to take weights as inputs: no adapter changes an autoencoder."""
        return self.weights is WeightsAs.INPUTS and component.kind.adaptable


def refuse_workspace(backend: Backend, workspace_mb: int | None) -> None:
    """For backends whose builder plans no scratch memory.

    Raises:
        RequestError: a workspace was asked for.
    """
    if workspace_mb is not None:
        raise RequestError(
            f"got a workspace of {workspace_mb} MB for backend {backend}, expected it for TensorRT's builder alone; "
            "leave it out"
        )


class Model(Protocol):
    """A compiled component, opened: its weights are in memory once and serve all of its engines."""

    def engine(self, shapes: Shapes) -> Engine:
        """The component at these shapes.

        Raises:
            RequestError: shapes that were not compiled.
            EngineError: the model was closed, or the device's memory does not hold the profile's buffers.
        """
        ...

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "Model":
        """The same component with other weights; this one stays as it is, and they share what they can.

        Args:
            weights: the bundle's weights of the component, by name.
            changes: what shall differ.

        Raises:
            RequestError: weights that the component cannot take, such as numbers beyond fp16.
            EngineError: the engine does not know where its weights are, or memory is short.
        """
        ...

    @property
    def own_bytes(self) -> int:
        """Memory that a changed model takes beside the one that it came from; 0 for one that was opened."""
        ...

    def close(self) -> None:
        """Releases everything; may be called twice."""
        ...


class Compiler(Protocol):
    """One backend. It imports its packages when they are first needed, and says which one is missing."""

    @property
    def backend(self) -> Backend:
        """Its name."""
        ...

    @property
    def maker(self) -> str:
        """The library whose version counts, as people call it."""
        ...

    @property
    def flags(self) -> Mapping[str, str]:
        """What was chosen for every build; part of an engine's key."""
        ...

    @property
    def lora_ready(self) -> bool:
        """Whether it compiles engines that take weights as inputs; where not, they take adapters without that."""
        ...

    @property
    def added_apart(self) -> bool:
        """Whether inputs that a call may leave out need an engine of their own; where not, each U-Net takes them."""
        ...

    @property
    def deep_cache(self) -> bool:
        """Whether its U-Nets keep features and go on from them: ``Shapes.cached``."""
        ...

    @property
    def device_loop(self) -> bool:
        """Whether it has engines that make whole steps: ``Shapes.loop``. Of their own where added inputs are apart."""
        ...

    @property
    def largest_hashed(self) -> int | None:
        """Files of an engine up to this size are hashed when it is opened; None hashes all."""
        ...

    @property
    def opens_at_once(self) -> bool:
        """Whether the components of a bundle are opened on threads of their own, and not one after the other."""
        ...

    @property
    def opens_after_fork(self) -> bool:
        """Whether a forked process can open components where its parent did; what CUDA began in a parent is lost."""
        ...

    def version(self) -> str:
        """The library's version.

        Raises:
            EngineError: it is not installed.
        """
        ...

    def here(self) -> str:
        """This machine, as engines name it.

        Raises:
            EngineError: the backend cannot run here, and why.
        """
        ...

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """What to compile for: one target per GPU architecture asked for, or this machine.

        Raises:
            RequestError: an architecture that is unknown, or one or a workspace that is not for this backend to choose.
            EngineError: none was asked for, and there is none here.
        """
        ...

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """The profiles that an engine is made for alone; none where it takes every size."""
        ...

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Compiles into an empty folder; returns what the backend can tell of the result.

        Raises:
            EngineError: the backend refuses the graph, with its reason.
        """
        ...

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Whether compiling again here and now makes a better engine of the same identity."""
        ...

    def open(self, component: Component, folder: Path, *, threads: int | None) -> Model:
        """Opens what ``compile`` made for this machine; of a component in whole steps the graph that makes them first.

        Raises:
            EngineError: it cannot run here.
        """
        ...


def runs_here(compiler: Compiler, machine: str) -> bool:
    """Whether an engine for that machine runs on this one."""
    try:
        return compiler.here() == machine
    except EngineError:
        return False
