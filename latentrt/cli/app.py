"""The command line. Exit status: 0 done, 2 the user can mend it, 1 a fault of ours."""

import sys
import warnings
from functools import cache
from typing import Any

import typer

from latentrt.cli.bench import bench
from latentrt.cli.commands.build import build
from latentrt.cli.commands.bundles import compare, inspect, verify
from latentrt.cli.commands.debug import debug
from latentrt.cli.commands.demo import demo
from latentrt.cli.commands.draw import detail, edit, generate, img2img, inpaint, outpaint
from latentrt.cli.commands.grid import grid
from latentrt.cli.commands.img2vid import img2vid
from latentrt.cli.commands.prepare import prepare
from latentrt.cli.commands.render import render
from latentrt.cli.commands.samplers import samplers
from latentrt.cli.commands.seen import variation, view
from latentrt.cli.commands.serve import serve
from latentrt.cli.commands.upscale import upscale
from latentrt.cli.streams import lasting_streams
from latentrt.engines.errors import LatentrtError

app = typer.Typer(
    name="latentrt",
    help="Builds Stable Diffusion bundles once and draws from them without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COMMANDS = (
    build,
    generate,
    img2img,
    inpaint,
    outpaint,
    edit,
    detail,
    img2vid,
    view,
    variation,
    grid,
    render,
    upscale,
    serve,
    inspect,
    compare,
    verify,
    debug,
    samplers,
    demo,
    bench,
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(prepare, name="prepare")


@cache
def command() -> Any:
    """All commands as click's; made once, which takes longer than many a command."""
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; the entry point of the ``latentrt`` command."""
    warnings.showwarning = _show_warning
    with lasting_streams():
        status = _status(arguments)
        try:
            sys.stdout.flush()
        except LatentrtError as error:  # the disk behind it is full
            status = status or _fail(str(error))
    sys.exit(status)


def _status(arguments: list[str] | None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        status = command().main(arguments, prog_name="latentrt", standalone_mode=False)
    except LatentrtError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # typer's own complaints about arguments carry format_message; everything else is a fault of ours
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        return _fail(format_message() or "see latentrt --help")
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    sys.stderr.write(f"latentrt: {' '.join(message.split())}\n")
    return 2


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        sys.stderr.write(f"latentrt: warning: {message}\n")
