"""The options of ``latentrt view``, and what becomes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.cli.drawing.drawing import Call
from latentrt.cli.drawing.seen_drawing import SeenDrawing
from latentrt.cli.values import READ
from latentrt.engines.errors import RequestError
from latentrt.runtime.call.keywords.flags import Form

if TYPE_CHECKING:
    from latentrt.cli.drawing.batches import Batch

_FPS = 8
_MOST_VIEWS = 360  # of a turntable


@dataclass(frozen=True, kw_only=True)
class ViewDrawing(SeenDrawing):
    """The options of drawing views, with where they are seen from."""

    azimuth: Annotated[
        str | None,
        typer.Option(
            "--azimuth",
            metavar="DEGREES,…",
            help="Degrees around the object to the right, one per view, or one for all; default: 0.",
        ),
    ] = None
    elevation: Annotated[
        str | None,
        typer.Option("--elevation", metavar="DEGREES,…", help="Degrees by which the camera rises, likewise."),
    ] = None
    distance: Annotated[
        str | None,
        typer.Option(
            "--distance", metavar="NUMBER,…", help="Zero123: how much farther away, about -0.5 to 0.5, likewise."
        ),
    ] = None
    image_elevation: Annotated[
        float | None,
        typer.Option(
            "--image-elevation",
            metavar="DEGREES",
            help="Stable Zero123: how high above the object the picture was taken; default: 0.",
        ),
    ] = None
    turntable: Annotated[
        int | None,
        typer.Option("--turntable", metavar="N", help="Draw N views around the object as one animation or sheet."),
    ] = None
    fps: Annotated[
        float | None, typer.Option("--fps", help="With --turntable: views shown per second; default: 8.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all views, which have the same noise.")] = None
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.png",
            help="Where to write: .png, .jpg, .webp, or .npy for latents, numbered or with {index} where there are "
            "several views. With --turntable: .webp, .apng, .gif or .mp4 for an animation, .png or .jpg for a sheet.",
        ),
    ] = Path("out.png")

    def draw_views(self, bundle: Path, image: Path) -> None:
        """Draws all views in one call, so that the picture is encoded once, and writes them.

        Args:
            bundle: the bundle's folder.
            image: the picture's file.

        Raises:
            LatentrtError: an option that cannot be read, or as ``latentrt.open`` and ``Pipeline.view`` do.
        """
        from latentrt.cli.drawing.batches import Batch
        from latentrt.cli.outputs import Picture
        from latentrt.runtime.pictures.image import read_image

        poses, count = self._poses()
        pictures = [Picture(prompt="", seed=self.seeds(1)[0])] * count  # equal noise: only the place differs
        batch = Batch(pictures=pictures, first=0, total=count)

        def call(pipe: Any, _: Batch, options: dict[str, Any]) -> Any:
            return pipe.view(picture, **poses, **options)

        draw = self._draw_numbered if self.turntable is None else self._draw_turn
        picture = read_image(image)
        draw(bundle, batch, call)

    def _draw_numbered(self, bundle: Path, batch: "Batch", call: Call) -> None:
        """Every view in a file of its own."""
        from latentrt.cli.drawing.batches import Written
        from latentrt.cli.outputs import output_paths

        paths = output_paths(self.output, batch.pictures, self.model_of(bundle), overwrite=self.overwrite)
        with self.ready(bundle, batch.total) as (pipe, options), Written(paths, batch.total, json=self.json) as written:
            self.draw_batches(pipe, [batch], call, options, written.add)
        written.report()

    def _draw_turn(self, bundle: Path, batch: "Batch", call: Call) -> None:
        """All views in one file."""
        from latentrt.cli.drawing.turntable import Turntable

        turntable = Turntable(path=self.output, fps=_FPS if self.fps is None else self.fps, json=self.json)
        turntable.check(overwrite=self.overwrite)
        with self.ready(bundle, batch.total) as (pipe, options):
            first = pipe.manifest.profiles[0]
            turntable.check_size(options["width"] or first.width, options["height"] or first.height)
            self.draw_batches(pipe, [batch], call, options, turntable.add)
        turntable.report()

    def _poses(self) -> tuple[dict[str, Any], int]:
        """Where the views are seen from, as keywords, and how many there are.

        Raises:
            RequestError: an option that cannot be read, or that means nothing beside or without another.
        """
        texts = {"azimuth": self.azimuth, "elevation": self.elevation, "distance": self.distance}
        poses: dict[str, Any] = {
            name: READ[Form.NUMBERS](text, f"--{name}") for name, text in texts.items() if text is not None
        }
        if self.image_elevation is not None:
            poses["image_elevation"] = self.image_elevation
        if self.turntable is None:
            if self.fps is not None:
                raise RequestError("got --fps without --turntable, expected an animation; give --turntable 12, too")
            return poses, max((len(one) for one in poses.values() if isinstance(one, list)), default=1)
        begin = poses.get("azimuth", 0.0)
        if isinstance(begin, list):
            raise RequestError(
                "got --azimuth with several numbers beside --turntable, expected where it begins; give one of them"
            )
        if not 2 <= self.turntable <= _MOST_VIEWS:
            raise RequestError(f"got --turntable {self.turntable}, expected 2 to {_MOST_VIEWS} views; 12 are common")
        return {
            **poses,
            "azimuth": [begin + 360.0 * view / self.turntable for view in range(self.turntable)],
        }, self.turntable
