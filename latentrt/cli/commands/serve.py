"""``latentrt serve``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import parameters_of, takes
from latentrt.cli.serving.catalog_options import CatalogOptions
from latentrt.cli.serving.serving import Serving

_OPTIONS = sorted(parameters_of(Serving), key=lambda option: hasattr(CatalogOptions, option.name))  # folders stand last


@takes("serving", _OPTIONS, Serving)
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
