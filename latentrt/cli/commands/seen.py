"""``latentrt view`` and ``variation``: what a picture shows, drawn without a prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentrt.cli.commands.arguments import Bundle
from latentrt.cli.drawing.drawing import draws_as
from latentrt.cli.drawing.seen_drawing import ABOUT_PROMPTS, SeenDrawing
from latentrt.cli.drawing.view_drawing import ViewDrawing

if TYPE_CHECKING:
    from latentrt.cli.drawing.batches import Batch


@draws_as(ViewDrawing, ABOUT_PROMPTS | {"count"})
def view(
    bundle: Bundle,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="The picture of an object; what is transparent becomes white.")
    ],
    drawing: ViewDrawing,
) -> None:
    """Draw the object in a picture as it is seen from other places (Zero123, Stable Zero123)."""
    drawing.draw_views(bundle, image)


@draws_as(SeenDrawing, ABOUT_PROMPTS)
def variation(
    bundle: Bundle,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture, whose middle is seen.")],
    drawing: SeenDrawing,
) -> None:
    """Draw pictures that show what a picture shows (SD image variations)."""
    from latentrt.runtime.pictures.image import read_image

    picture = read_image(image)

    def call(pipe: Any, batch: "Batch", options: dict[str, Any]) -> Any:
        return pipe.variation(picture, num_images_per_prompt=len(batch.pictures), **options)

    drawing.draw_seen(bundle, call)
