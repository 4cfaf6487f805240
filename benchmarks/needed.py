"""Packages that a benchmark needs beside latentrt's own, looked for before hours are spent."""

from importlib import import_module

from latentrt.engines.errors import RequestError


def check_installed(purpose: str, *modules: str) -> None:
    """Imports them.

    Raises:
        RequestError: one is missing or broken.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            package = error.name or module
            raise RequestError(f"{purpose} needs the package {package}; install latentrt[bench]") from error
