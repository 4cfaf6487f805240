"""Packages that only an export needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from latentrt.engines.errors import CheckpointError

_OF_UPSCALERS = ("spandrel", "einops")


@contextmanager
def export_packages() -> Iterator[None]:
    """Turns a missing package of the exporter into an error that says what to install.

    Raises:
        CheckpointError: a package is missing.
    """
    try:
        yield
    except ImportError as error:
        extra = "upscale" if error.name in _OF_UPSCALERS else "export"
        raise CheckpointError(
            f"this build needs the package {error.name}, which is not installed; install latentrt[{extra}]"
        ) from error
