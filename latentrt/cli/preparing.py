"""What ``latentrt prepare`` does with every map: its options, the names of its files, and writing them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import exists, isdir, samefile  # a name that is too long is no file to them, and an error to Path
from pathlib import Path
from typing import Annotated, Any

import typer

from latentrt.cli.options import parameters_of, takes
from latentrt.engines.errors import LatentrtError, RequestError

ARRAYS = ".npy"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """One command's shared options, as typer reads them."""

    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Pictures. Transparent ones are laid on white; of animated ones the first frame counts.",
        ),
    ]
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file, or a folder, in which every map has its picture's name and its own, as in cat-canny.png.",
        ),
    ]
    resolution: Annotated[
        int | None,
        typer.Option(
            "--resolution",
            help="Resize first: the shorter side in pixels, 64 to 8192; both become multiples of 64. Default: the "
            "picture's size.",
        ),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps that are there already.")] = False

    def write(self, name: str, make: Callable[..., Any], *, suffix: str = ".png", others: Sequence[Path] = ()) -> None:
        """Makes the map of each picture and writes it as soon as it is made.

        Args:
            name: the map's.
            make: takes a picture and ``resolution``; returns PIL or an array.
            suffix: of files in a folder; ``.npy`` where maps are arrays, which no picture file can hold.
            others: further files that are read.

        Raises:
            LatentrtError: a picture that cannot be read or taken, or a place that cannot be written. What was made
                before is written, and the message says how much it is.
        """
        from latentrt.cli.outputs import check_places
        from latentrt.cli.terminal import say
        from latentrt.runtime.pictures.arrays import size_of
        from latentrt.runtime.pictures.image import read_image

        paths = self._paths(name, suffix)
        check_sources((*self.images, *others), paths)
        check_places(paths, made=paths != [Path(self.output)], overwrite=self.overwrite)
        for done, (source, path) in enumerate(zip(self.images, paths, strict=True)):
            try:
                made = self._made(make, read_image(source), source)
                _write(path, made)
            except LatentrtError as error:
                if not done:
                    raise
                raise type(error)(f"{error} ({done} of {len(paths)} maps are written)") from error
            width, height = size_of(made)
            say(f"{path}  ({width}x{height})")

    def _made(self, make: Callable[..., Any], image: Any, source: Path) -> Any:
        """The map; of several pictures, errors name the one."""
        try:
            return make(image, resolution=self.resolution)
        except RequestError as error:
            if len(self.images) == 1:
                raise
            raise RequestError(f"{str(source)!r}: {error}") from error

    def _paths(self, name: str, suffix: str) -> list[Path]:
        """Where each map is written.

        Raises:
            RequestError: one file for several maps, one name for two, or a file of another format.
        """
        output = Path(self.output)
        if output.suffix and not (self.output.endswith(("/", "\\")) or isdir(output)):
            _check_name(name, output, suffix)
            if len(self.images) > 1:
                raise RequestError(
                    f"got the file {self.output!r} for the maps of {len(self.images)} pictures, expected a folder; "
                    "give -o FOLDER"
                )
            return [output]
        sources: dict[Path, Path] = {}
        for image in self.images:
            path = output / f"{image.stem}-{name}{suffix}"
            if path in sources:
                raise RequestError(
                    f"got {str(sources[path])!r} and {str(image)!r}, whose maps would both be {str(path)!r}, expected "
                    "names that differ; prepare them apart, each with an -o of its own"
                )
            sources[path] = image
        return list(sources)


prepares = takes("preparation", parameters_of(Preparation), Preparation)
"""Gives a command with a ``preparation`` parameter the options of ``Preparation`` beside its own."""


def _check_name(name: str, path: Path, suffix: str) -> None:
    """Refuses files of formats that cannot hold a map."""
    if suffix != ARRAYS:
        from latentrt.runtime.pictures.picture_file import SUFFIXES

        if path.suffix.lower() not in SUFFIXES:
            raise RequestError(
                f"got output {str(path)!r}, expected a name that ends in {', '.join(SUFFIXES)}, or a folder; add .png, "
                "or / if it is a folder"
            )
    elif path.suffix.lower() != ARRAYS:
        raise RequestError(
            f"got output {str(path)!r}, expected a name that ends in {ARRAYS}, as the map of {name} holds −1, which no "
            f"picture file can; give -o {path.with_suffix(ARRAYS)}"
        )


def check_sources(sources: Sequence[Path], paths: Sequence[Path]) -> None:
    """Refuses folders, and to write over what is read, under whatever name it is given."""
    for source in sources:
        if isdir(source):
            raise RequestError(
                f"got the folder {str(source)!r}, expected a picture file; give the pictures in it, such as "
                f"{source / '*.png'}"
            )
    for path in paths:
        for source in sources:
            if path == source or (exists(path) and exists(source) and samefile(path, source)):
                raise RequestError(
                    f"got output {str(path)!r}, which is a picture to read, expected another file; give another -o"
                )


def _write(path: Path, made: Any) -> None:
    from PIL import Image

    from latentrt.engines.files import output_error, write_file
    from latentrt.runtime.pictures.picture_file import write_picture

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    if isinstance(made, Image.Image):
        write_picture(path, made)
        return
    import numpy as np

    write_file(path, lambda temporary: np.save(temporary, made))
