"""The engine: one component, opened, that turns arrays into arrays."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol, Self

from latentrt.engines.spec import Array, EngineSpec, Tensor


class Engine(Protocol):
    """One component ready to run. Engines may be shared between threads; ``close`` may be called twice.

    As a context manager it closes itself at the end.
    """

    @property
    def spec(self) -> EngineSpec:
        """Inputs, outputs and batch sizes."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component; the returned arrays belong to the caller.

        Args:
            inputs: by name. Those that have a neutral value may be left out. An array that owns its numbers and cannot
                be written to is taken to stay as it is: where it was given before, it may be on the device still.

        Raises:
            RequestError: inputs that do not match ``spec``.
        """
        ...

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """As ``run``, but on backends that have a device results stay there, for ``run`` and this of other engines."""
        ...

    def close(self) -> None:
        """Releases the component's memory."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ClosesItself(ABC):
    """What engines share: closing themselves, and results that are in the host's memory anyway."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the component."""

    def run_kept(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """As ``run``."""
        return self.run(inputs)

    @abstractmethod
    def close(self) -> None:
        """Releases the component's memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
