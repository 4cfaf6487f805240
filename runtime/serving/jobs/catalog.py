"""What requests may name: models, LoRAs, embeddings, nets and upscalers, fixed as the service starts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.serving.jobs.errors import UnknownNameError

_LORAS = (".safetensors", ".pt", ".bin")
_BUNDLE = ".bundle"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Files by the names that requests have for them. A request never names a path.

    Attributes:
        models: bundles of models, the first one is drawn with where none is named.
        loras: LoRAs.
        embeddings: textual inversions; all that fit a model are loaded into it.
        nets: bundles of control nets, T2I-Adapters and IP-Adapters.
        upscalers: bundles of upscalers.
        wildcards: the folder of wildcards' files; None: there is none.
    """

    models: Mapping[str, Path]
    loras: Mapping[str, Path] = field(default_factory=dict)
    embeddings: Mapping[str, Path] = field(default_factory=dict)
    nets: Mapping[str, Path] = field(default_factory=dict)
    upscalers: Mapping[str, Path] = field(default_factory=dict)
    wildcards: Path | None = None

    @property
    def default(self) -> str:
        """The model that is drawn with where none is named."""
        return next(iter(self.models))

    def model(self, name: str | None) -> str:
        """A model's name; the default's for None.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if name is None:
            return self.default
        self.path("model", self.models, name)
        return name

    def path(self, what: str, among: Mapping[str, Path], name: str) -> Path:
        """What a name stands for.

        Args:
            what: the noun for the message.
            among: the files by name.
            name: it.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if name not in among:
            expected = (
                f"one of: {', '.join(among)}; choose one of these" if among else "none, as there are none; leave it out"
            )
            raise UnknownNameError(f"got {what} {shown(name)}, expected {expected}", what=what)
        return among[name]


def catalog_from_folders(
    bundles: Sequence[Path],
    *,
    loras: Path | None = None,
    embeddings: Path | None = None,
    nets: Path | None = None,
    upscalers: Path | None = None,
    wildcards: Path | None = None,
) -> Catalog:
    """What folders hold, under the names of their files; the paths are absolute.

    Args:
        bundles: of models.
        loras: a folder, as those that follow; None: there are none.
        embeddings: of textual inversions.
        nets: of bundles.
        upscalers: of bundles.
        wildcards: of wildcards' files.

    Raises:
        RequestError: a folder that is not there, or two files or bundles of one name.
    """
    models: dict[str, Path] = {}
    for path in map(Path.absolute, bundles):
        name = bundle_name(path)
        if name in models:
            raise RequestError(f"got two bundles called {name!r}, expected a name of its own for each; rename one")
        models[name] = path
    if wildcards is not None:
        _check_folder(wildcards)
    return Catalog(
        models=models,
        loras=files_by_name(loras),
        embeddings=files_by_name(embeddings),
        nets=bundles_by_name(nets),
        upscalers=bundles_by_name(upscalers),
        wildcards=None if wildcards is None else wildcards.absolute(),
    )


def files_by_name(folder: Path | None, suffixes: Iterable[str] = _LORAS) -> dict[str, Path]:
    """The files in a folder by their names without suffix, in alphabetical order; none for None.

    Raises:
        RequestError: no folder, or two files of one name.
    """
    return _by_name(folder, lambda path: path.suffix.lower() in suffixes and path.is_file())


def bundles_by_name(folder: Path | None) -> dict[str, Path]:
    """The bundles in a folder by their names without ``.bundle``; none for None.

    Raises:
        RequestError: no folder, or two bundles of one name.
    """
    return _by_name(folder, lambda path: (path / "bundle.json").is_file())


def bundle_name(path: Path) -> str:
    """What requests call a bundle: its folder's name without ``.bundle``."""
    return path.name.removesuffix(_BUNDLE)


def _by_name(folder: Path | None, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    if folder is None:
        return {}
    _check_folder(folder)
    named: dict[str, Path] = {}
    for path in sorted(folder.absolute().iterdir()):
        if not wanted(path):
            continue
        name = bundle_name(path) if path.is_dir() else path.stem
        if name in named:
            raise RequestError(f"got {path.name!r} and {named[name].name!r} in {str(folder)!r}; rename one of them")
        named[name] = path
    return named


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise RequestError(f"got folder {str(folder)!r}, which is not there; name one that is")
