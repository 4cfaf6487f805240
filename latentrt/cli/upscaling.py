"""What ``latentrt upscale`` does: the names of its files, and each picture written as soon as it is there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from latentrt.engines.errors import LatentrtError, RequestError

if TYPE_CHECKING:
    from latentrt.runtime.upscaling.upscaler import Upscaler

_FIELDS = {"name": r"(\.\d{1,3})?", "index": r"0?\d{0,2}d?", "scale": "", "model": r"(\.\d{1,3})?"}
_EXAMPLE = "out/{name}-{scale}.png"


@dataclass(frozen=True, kw_only=True)
class Upscaling:
    """One run of the command: its pictures, and where they go."""

    images: Sequence[Path]
    output: str
    scale: float | None
    overwrite: bool
    json: bool

    def run(self, bundle: Path, *, backend: str, threads: int | None) -> None:
        """Enlarges each picture and writes it.

        Raises:
            LatentrtError: a picture that cannot be read or enlarged, or a place that cannot be written. What was made
                before is written, and the message says how much it is.
        """
        from latentrt.cli.outputs import check_places
        from latentrt.cli.preparing import check_sources
        from latentrt.cli.terminal import print_json
        from latentrt.opening import open_upscaler

        begin, told = perf_counter(), []
        with open_upscaler(bundle, backend=backend, threads=threads) as upscaler:
            paths = self._paths(upscaler)
            check_sources(self.images, paths)
            check_places(paths, made=paths != [Path(self.output)], overwrite=self.overwrite)
            for done, (source, path) in enumerate(zip(self.images, paths, strict=True)):
                try:
                    told.append(self._enlarge(upscaler, source, path))
                except LatentrtError as error:
                    if not done:
                        raise
                    raise type(error)(f"{error} ({done} of {len(paths)} pictures are written)") from error
        if self.json:
            print_json({"pictures": told, "seconds": perf_counter() - begin})

    def _enlarge(self, upscaler: "Upscaler", source: Path, path: Path) -> dict[str, Any]:
        from latentrt.cli.terminal import say, step_bar
        from latentrt.runtime.pictures.image import read_image
        from latentrt.runtime.upscaling.files import write_enlarged

        image = read_image(source)
        with step_bar(source.name) as progress:
            enlarged = self._called(lambda: upscaler.upscale(image, self.scale, progress=progress), source)
        scale = upscaler.scale if self.scale is None else self.scale
        write_enlarged(path, enlarged, source, upscaler=upscaler.name, scale=scale)
        if not self.json:
            say(f"{path}  ({enlarged.width}x{enlarged.height})")
        return {"path": str(path), "source": str(source), "width": enlarged.width, "height": enlarged.height}

    def _called(self, call: Any, source: Path) -> Any:
        """What a call gives; of several pictures, errors name the one."""
        try:
            return call()
        except RequestError as error:
            if len(self.images) == 1:
                raise
            raise RequestError(f"{str(source)!r}: {error}") from error

    def _paths(self, upscaler: "Upscaler") -> list[Path]:
        """Where each picture is written.

        Raises:
            RequestError: one name for two pictures, a malformed pattern, or a file of another format.
        """
        from latentrt.cli.outputs import check_pattern, slug
        from latentrt.runtime.pictures.picture_file import check_picture_name

        scale = f"x{upscaler.scale if self.scale is None else self.scale:g}"
        if set("{}") & set(self.output):
            check_pattern(self.output, _FIELDS, _EXAMPLE)
            paths = [
                Path(self.output.format(name=image.stem, index=index, scale=scale, model=slug(upscaler.name)))
                for index, image in enumerate(self.images)
            ]
        elif Path(self.output).suffix and not (self.output.endswith(("/", "\\")) or isdir(self.output)):
            if len(self.images) > 1:
                raise RequestError(
                    f"got the file {self.output!r} for {len(self.images)} pictures, expected a folder or a pattern; "
                    f"give -o FOLDER, or -o {_EXAMPLE}"
                )
            paths = [Path(self.output)]
        else:
            paths = [Path(self.output) / f"{image.stem}-{scale}.png" for image in self.images]
        for path in paths:
            check_picture_name(path)
        if len(set(paths)) < len(paths):
            twice = next(path for path, count in Counter(paths).items() if count > 1)
            raise RequestError(
                f"got output {self.output!r}, which names two pictures {str(twice)!r}; give a pattern with {{index}}, "
                "such as out/{name}-{index}.png"
            )
        return paths
