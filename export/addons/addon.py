"""What every add-on has: where it came from, what it needs, and how its components are exported."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from latentrt.engines.bundle.checked_files import record_file
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind, ControlRecord, ImagePromptRecord
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.errors import CheckpointError
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.sources.checkpoint import tensor_refusal
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.parts import Part

if TYPE_CHECKING:
    from latentrt.export.component_exports import ComponentExports


@dataclass(frozen=True, kw_only=True)
class Addon(ABC):
    """A checked add-on, before torch is loaded.

    Attributes:
        name: it; of the hub's, ``owner/name``.
        revision: of a hub's repository.
        source: how messages call it.
        base: what it is built for.
        told: what was worked out about it, and how.
    """

    name: str
    revision: str | None
    source: str
    base: BaseModel
    told: Mapping[str, DecisionRecord] = field(default_factory=dict)

    @property
    @abstractmethod
    def kind(self) -> AddonKind:
        """What it is."""

    @property
    def control(self) -> ControlRecord | None:
        """What drawing with a net or a T2I-Adapter needs to know."""
        return None

    @property
    def image_prompt(self) -> ImagePromptRecord | None:
        """What drawing with an adapter for image prompts needs to know."""
        return None

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """The names of its components, in the order in which they run."""

    @property
    @abstractmethod
    def files(self) -> Mapping[str, FileRecord]:
        """Size and digest of every file that a build reads."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many weights it has, from the headers of its files."""

    @property
    @abstractmethod
    def unread(self) -> Mapping[str, tuple[str, ...]]:
        """What its files hold and nothing reads, by file or by part. Loads torch."""

    @abstractmethod
    def check(self) -> None:
        """Compares names and shapes of all tensors with the module's, and reads every weight once. Loads torch.

        Raises:
            CheckpointError: some do not fit, or are NaN or infinite.
        """

    @abstractmethod
    def export(self, run: "ComponentExports") -> None:
        """Writes its components.

        Raises:
            CheckpointError: weights that torch cannot load.
            ParityError: activations that fp16 cannot hold.
        """

    @property
    def decisions(self) -> dict[str, DecisionRecord]:
        """All that was worked out, for the user to read."""
        manifest = self.base.bundle.manifest
        built_for = decision(manifest.family, f"given with --for: {self.base.bundle.root.name}")
        seamless = {"seamless": decision(manifest.seamless.value, "as the model that it is for")}
        return {
            "kind": decision(self.kind.value, self._kind_reason),
            "for": built_for,
            **self.told,
            **(seamless if manifest.seamless.value != "none" else {}),
        }

    @property
    def _kind_reason(self) -> str:
        return "its tensors"


@dataclass(frozen=True, kw_only=True)
class NetAddon(Addon):
    """An add-on of one module: ``part`` has its config and its tensors in diffusers' names."""

    part: Part

    @cached_property
    def files(self) -> Mapping[str, FileRecord]:
        """Size and digest of every file that a build reads."""
        return {name: record_file(path) for name, path in sorted(self.part.files.items())}

    @property
    def parameters(self) -> int:
        """How many weights it has, from the headers of its files."""
        return self.part.parameters

    @property
    def unread(self) -> Mapping[str, tuple[str, ...]]:
        """What its files hold and nothing reads. Loads torch."""
        return {self.part.name: self.part.unread} if self.part.unread else {}

    def check(self) -> None:
        """As ``Addon.check``."""
        try:
            self.part.read  # noqa: B018  # found once, and kept
        except CheckpointError as error:
            raise tensor_refusal(self.source, [str(error)]) from error
        fault = self.part.value_fault()
        if fault is not None:
            raise CheckpointError(f"{self.source!r} cannot be built: {fault}; choose another copy of it")
