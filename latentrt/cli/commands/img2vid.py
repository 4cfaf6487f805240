"""``latentrt img2vid``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Bundle
from latentrt.cli.drawing.video_drawing import VideoDrawing, draws_videos


@draws_videos
def img2vid(
    bundle: Bundle,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="The pictures that videos begin with.")],
    drawing: VideoDrawing,
) -> None:
    """Draw videos that begin with a picture."""
    drawing.draw(bundle, images)
