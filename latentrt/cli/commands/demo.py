"""``latentrt demo``."""

from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.commands.arguments import Json


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the bundle and the contact sheet.")
    ] = Path("out"),
    json: Json = False,
) -> None:
    """Build the embedded emoji model and draw a contact sheet: a row per prompt, a column per seed."""
    from latentrt.cli.demo import run
    from latentrt.cli.terminal import print_json, say

    done = run(output)
    if json:
        print_json({"sheet": str(done.sheet), "bundle": str(done.bundle), "seconds": done.seconds})
        return
    for stage, seconds in done.seconds.items():
        say(f"{seconds:8.1f} s  {stage}")
    say(f"the contact sheet is {done.sheet}")
