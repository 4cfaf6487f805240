"""What ``latentrt serve`` does: its options, the server, and what the terminal shows of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentrt.cli.commands.arguments import Backend, Loop, Threads
from latentrt.cli.serving.catalog_options import CatalogOptions
from latentrt.engines.errors import RequestError

if TYPE_CHECKING:
    import socket

    from latentrt.runtime.serving.http.settings import Settings
    from latentrt.runtime.serving.jobs.limits import Limits
    from latentrt.runtime.serving.jobs.models import Models

_TOKEN = "LATENTRT_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Warm(StrEnum):
    """Which models are opened and draw a picture before the server says that it is ready."""

    FIRST = "first"
    ALL = "all"
    NONE = "none"


class Log(StrEnum):
    """What is written on standard error: a line for every job, or faults alone."""

    JOBS = "jobs"
    FAULTS = "faults"


@dataclass(frozen=True, kw_only=True)
class Serving(CatalogOptions):
    """The options of the command, as typer reads them."""

    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; others than this machine's need a token.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes one that is free.")] = 8000
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=_TOKEN,
            show_envvar=True,
            help="What clients must send. Other users of the machine can see it here: the variable or --token-file "
            "hides it.",
        ),
    ] = None
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="A file that holds the token.")
    ] = None
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Listen beyond this machine without a token, such as behind a proxy.")
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A further name that the server is reached by; repeatable."),
    ] = None
    backend: Backend = "auto"
    threads: Threads = None
    loop: Loop = "host"
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="WxH",
            help="A size that may be asked for; repeatable. All of the bundles' if left out.",
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Of all open models, as 8GB or 500MB; the least used ones are closed."
        ),
    ] = None
    warm: Annotated[
        Warm, typer.Option("--warm", help="The models to open before the server is ready; others open when asked for.")
    ] = Warm.FIRST
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", min=1, help="Jobs drawn at once; as many as fill a model's engines twice if left out."
        ),
    ] = None
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Jobs that may wait; more are told when to come again.")
    ] = 64
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Most steps of a job.")] = 200
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Most pixels of a picture.")] = 4096 * 4096
    max_pictures: Annotated[int, typer.Option("--max-pictures", min=1, help="Most pictures of a job.")] = 16
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost", min=0.0, help="Most millions of steps × pixels × pictures of a job; any if left out."
        ),
    ] = None
    drain: Annotated[
        float,
        typer.Option("--drain", metavar="SECONDS", min=0.0, help="When it is told to end, what runs has so long."),
    ] = 60.0
    log: Annotated[Log, typer.Option("--log", help="What standard error has: a line a job, or faults alone.")] = (
        Log.JOBS
    )

    def run(self, bundles: Sequence[Path]) -> None:
        """Serves until a signal ends it.

        Raises:
            LatentrtError: what can be known before it listens: a bundle, a folder, an option, the port, a missing
                package; or that the first model cannot draw.
        """
        _check_packages()
        from latentrt.cli.serving.server_process import ServerProcess
        from latentrt.opening import open_pipeline
        from latentrt.runtime.serving.jobs.models import Models

        settings, catalog, limits = self._settings(), self.catalog(bundles), self._limits()
        models = Models(
            catalog,
            lambda path: open_pipeline(path, backend=self.backend, threads=self.threads, loop=self.loop),
            byte_limit=_bytes(self.memory),
        )
        self._check(models, limits)
        with self._listening() as opened:
            ServerProcess(
                models=models,
                limits=limits,
                settings=settings,
                warmed={Warm.FIRST: 1, Warm.ALL: None, Warm.NONE: 0}[self.warm],
                drain=self.drain,
                logs_jobs=self.log is Log.JOBS,
            ).run(opened)

    def _settings(self) -> "Settings":
        from latentrt.runtime.serving.http.settings import Settings

        token, local = self._token(), self.host in _LOOPBACK
        if not local and token is None and not self.no_auth:
            raise RequestError(
                f"got --host {self.host} without a token, expected one where others can reach the server; give "
                "--token-file FILE, or --no-auth where something else keeps them out"
            )
        names = {name.lower() for name in (*_LOOPBACK, "[::1]", self.host, *(self.allow_host or ()))}
        called = local or token is None or self.allow_host  # else a page may come under a name that leads here
        return Settings(token=token, hosts=frozenset(names) if called else None)

    def _token(self) -> str | None:
        if self.token_file is None:
            token = self.token
        else:
            try:
                token = self.token_file.read_text("utf-8").strip()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise RequestError(
                    f"cannot read --token-file {str(self.token_file)!r} ({reason}); name another"
                ) from error
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise RequestError(
                "got a token that is empty or has characters which HTTP does not carry, expected letters and digits; "
                "make one with: openssl rand -hex 32"
            )
        return token

    def _limits(self) -> "Limits":
        from latentrt.engines.shapes import profile_from_text
        from latentrt.runtime.serving.jobs.limits import Limits

        profiles = [profile_from_text(text) for text in self.profile or ()]
        return Limits(
            queued=self.queue,
            at_once=self.concurrency,
            pictures=self.max_pictures,
            pixels=self.max_pixels,
            steps=self.max_steps,
            sizes=frozenset((profile.width, profile.height) for profile in profiles) or None,
            cost=self.max_cost,
        )

    def _check(self, models: "Models", limits: "Limits") -> None:
        """Finds out what can be known before anything is opened: whether each bundle runs here, and has the sizes."""
        from latentrt.engines.store.choose import chosen_backend

        sizes = set()
        for name in models.catalog.models:
            bundle = models.bundle(name)
            chosen_backend(bundle, self.backend)
            sizes |= {(profile.width, profile.height) for profile in bundle.manifest.profiles}
        unknown = sorted((limits.sizes or frozenset()) - sizes)
        if unknown:
            known = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            width, height = unknown[0]
            raise RequestError(
                f"got --profile {width}x{height}, which no bundle has, expected some of: {known}; name one of these, "
                "or build a bundle that has it"
            )

    def _listening(self) -> "socket.socket":
        from latentrt.runtime.serving.http.server import listening

        try:
            return listening(self.host, self.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise RequestError(
                f"cannot listen at {self.host} port {self.port} ({reason}); end what listens there, or choose another "
                "--port or --host"
            ) from error


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "multipart", "prometheus_client", "uvicorn") if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"the server needs {', '.join(missing)}, which is not installed; install it with pip install "
            "'latentrt[serve]'"
        )


def _bytes(text: str | None) -> int | None:
    """A size such as 8GB or 500MB, in bytes."""
    if text is None:
        return None
    number, unit = text.strip().upper().removesuffix("B"), 1.0
    for letter, factor in (("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if number.endswith(letter):
            number, unit = number.removesuffix(letter), factor
    try:
        size = float(number) * unit
    except ValueError:
        size = 0.0
    if not 1 <= size < 1e18:
        raise RequestError(f"got --memory {text!r}, expected a size such as 8GB or 500MB; correct it")
    return int(size)
