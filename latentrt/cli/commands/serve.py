"""``latentrt serve``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import parameters_of, takes
from latentrt.cli.serving import Serving


@takes("serving", parameters_of(Serving), Serving)
def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE", help="Folders of models' bundles. Requests name them by their folders' names."
        ),
    ],
    serving: Serving,
) -> None:
    """Serve models over HTTP: a page, A1111's API, OpenAI's, and one of its own."""
    serving.run(bundles)
