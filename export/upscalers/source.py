"""What every upscaler has: where it came from, and how its component is exported."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from latentrt.engines.bundle.checked_files import record_file
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import Profile
from latentrt.export.sources.place import Place

if TYPE_CHECKING:
    from latentrt.engines.bundle.records.component import ComponentRecord
    from latentrt.engines.progress import Progress

DEFAULT_TILE = Profile(width=256, height=256)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made.

    Attributes:
        architecture: the network's.
        scale: how many pixels a side of one becomes.
        multiple: what the sides of tiles must be multiples of.
        smallest: the shortest side of a tile.
        component: the record of its one component.
        told: what was worked out meanwhile.
    """

    architecture: str
    scale: int
    multiple: int
    smallest: int
    component: "ComponentRecord"
    told: Mapping[str, DecisionRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UpscalerSource(ABC):
    """An upscaler's file, before anything large is loaded."""

    place: Place

    form: ClassVar[Literal["torch", "onnx"]]
    """As the manifest has it."""

    @property
    def source(self) -> str:
        """How messages call it."""
        return str(self.place.path)

    @property
    def name(self) -> str:
        """What the bundle calls it."""
        return self.place.path.absolute().stem if self.place.name is None else self.place.name

    @cached_property
    def files(self) -> Mapping[str, FileRecord]:
        """Size and digest of every file that a build reads."""
        return {path.name: record_file(path) for path in self.paths}

    @property
    def paths(self) -> Sequence[Path]:
        """Every file that a build reads."""
        return (self.place.path,)

    @property
    def unread(self) -> Mapping[str, tuple[str, ...]]:
        """Tensors that nothing reads, by file."""
        return {}

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many weights it has."""

    @property
    @abstractmethod
    def decisions(self) -> Mapping[str, DecisionRecord]:
        """What is known of it from the header of its file."""

    @property
    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """The packages that shape its ONNX.

        Raises:
            PackageNotFoundError: one of them is not installed.
        """

    @property
    def default_tile(self) -> Profile:
        """The tile for those who ask for none."""
        return DEFAULT_TILE

    @abstractmethod
    def precision_for(self, requested: Precision | None) -> Precision:
        """The bundle's precision.

        Raises:
            RequestError: one that it cannot be built in.
        """

    @abstractmethod
    def export(
        self,
        root: Path,
        precision: Precision,
        kept_fp32: Sequence[str],
        profiles: Sequence[Profile],
        progress: "Progress",
    ) -> Exported:
        """Writes its component below ``root``.

        Raises:
            CheckpointError: it is damaged, or no upscaler.
            RequestError: tiles that it does not take.
            ParityError: activations that fp16 cannot hold.
        """


def versions_of(*packages: str) -> dict[str, str]:
    """Of installed packages.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    return {name: version(name) for name in packages}


def check_tiles(profiles: Sequence[Profile], multiple: int, smallest: int) -> None:
    """Refuses tiles of sizes that a network does not take.

    Raises:
        RequestError: naming a size that it does.
    """
    several = [profile for profile in profiles if profile.batch > 1]
    if several:
        raise RequestError(
            f"got tiles of {several[0]}, expected one in a call; give --profile {several[0].width}x{several[0].height}"
        )
    least = max(smallest, multiple)
    wrong = [
        profile
        for profile in profiles
        if profile.width % multiple or profile.height % multiple or min(profile.width, profile.height) < least
    ]
    if wrong:
        width, height = (max(-(-side // multiple) * multiple, least) for side in (wrong[0].width, wrong[0].height))
        raise RequestError(
            f"got tiles of {', '.join(map(str, wrong))}, expected multiples of {multiple} pixels from {least} on for "
            f"this upscaler; use sizes such as {width}x{height}"
        )
