"""Views around an object in one file: an animation, or a contact sheet."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from latentrt.cli.contact_sheet import Side, contact_sheet
from latentrt.cli.outputs import check_places
from latentrt.cli.terminal import print_json, say
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.clips.clip_file import CLIP_SUFFIXES, check_clip, write_clip
from latentrt.runtime.pictures.picture_file import write_picture

_SHEETS = (".png", ".jpg", ".jpeg")
_COLUMNS = 6


@dataclass(kw_only=True)
class Turntable:
    """Where a turntable is written, and how many views it shows per second; ``told`` is what was written."""

    path: Path
    fps: float
    json: bool
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def is_sheet(self) -> bool:
        """Whether the views stand side by side."""
        return self.path.suffix.lower() in _SHEETS

    def check(self, *, overwrite: bool) -> None:
        """Finds out whether it can be written.

        Args:
            overwrite: whether a file that is there is replaced.

        Raises:
            RequestError: a name that ends in something else, or a file that is there.
            OutputError: nothing can be written there.
        """
        suffixes = tuple(dict.fromkeys((*CLIP_SUFFIXES, *_SHEETS)))
        if self.path.suffix.lower() not in suffixes:
            raise RequestError(
                f"got output {str(self.path)!r} for a turntable, expected a name that ends in {', '.join(suffixes)}; "
                "choose .webp for an animation, or .png for a sheet"
            )
        check_places([self.path], made=False, overwrite=overwrite)

    def check_size(self, width: int, height: int) -> None:
        """Finds out whether views of a size can be written.

        Raises:
            RequestError: a size or a speed that the format has not, or what writes it is not installed.
        """
        if not self.is_sheet:
            check_clip(self.path, width=width, height=height, fps=self.fps)

    def add(self, result: Any) -> None:
        """Writes the views of a result.

        Raises:
            OutputError: the file cannot be written.
        """
        poses = tuple(pose for metadata in result.metadata for pose in metadata.poses)
        parameters = replace(result.metadata[0], poses=poses).parameters()
        if self.is_sheet:
            write_picture(self.path, turn_sheet(result), parameters)
        else:
            write_clip(self.path, result.images, fps=self.fps, settings_text=parameters)
        self.told = {
            "path": str(self.path),
            "pictures": [asdict(metadata) for metadata in result.metadata],
            "timings": asdict(result.timings),
        }

    def report(self) -> None:
        """Says where it is and how long it took; with JSON, everything."""
        if self.json:
            print_json(self.told)
            return
        seconds, views = self.told["timings"], self.told["pictures"]
        say(f"{self.path}  ({len(views)} views, seed {views[0]['seed']})")
        say(f"{seconds['total']:.2f} s: denoise {seconds['denoise']:.2f}, decode {seconds['decode']:.2f}")


def turn_sheet(result: Any) -> Image.Image:
    """The views of a turn in rows, labelled with their azimuths in degrees; what a last row lacks is white."""
    azimuths = [metadata.poses[0].azimuth for metadata in result.metadata]
    columns = min(len(azimuths), _COLUMNS)
    rows = -(-len(azimuths) // columns)
    white = Image.new("RGB", result.images[0].size, "white")
    return contact_sheet(
        [*result.images, *[white] * (rows * columns - len(azimuths))],
        Side(labels=[f"{azimuth:g}" for azimuth in azimuths[::columns]] if rows > 1 else [""]),
        Side(labels=[f"{azimuth - azimuths[0]:+g}" for azimuth in azimuths[:columns]], name="azimuth"),
        size=white.size,
    )
