"""Options that say what requests may name: LoRAs, embeddings, nets, upscalers and wildcards."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentrt.cli.options import parameters_of, takes

if TYPE_CHECKING:
    from latentrt.runtime.serving.jobs.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class CatalogOptions:
    """The folders, as typer reads them. A file is called by its name without suffix."""

    loras: Annotated[
        Path | None, typer.Option("--loras", metavar="DIR", help="LoRAs that orders may name, by their files' names.")
    ] = None
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", metavar="DIR", help="Textual inversions; all that fit the model are loaded."),
    ] = None
    nets: Annotated[
        Path | None,
        typer.Option("--nets", metavar="DIR", help="Bundles of control nets and IP-Adapters that orders may name."),
    ] = None
    upscalers: Annotated[
        Path | None,
        typer.Option("--upscalers", metavar="DIR", help="Bundles of upscalers that the hires fix may name."),
    ] = None
    wildcards: Annotated[
        Path | None,
        typer.Option("--wildcards", metavar="DIR", help="Files that __name__ stands for, where an order wants them."),
    ] = None

    def catalog(self, bundles: Sequence[Path]) -> "Catalog":
        """What requests may name.

        Args:
            bundles: of models; the first one is drawn with where none is named.

        Raises:
            RequestError: a folder that is not there, or two files or bundles of one name.
        """
        from latentrt.runtime.serving.jobs.catalog import catalog_from_folders

        folders = {field.name: getattr(self, field.name) for field in fields(CatalogOptions)}
        return catalog_from_folders(bundles, **folders)


takes_catalog = takes("named", parameters_of(CatalogOptions), CatalogOptions)
"""Gives a command with a ``named`` parameter these options beside its own."""
