"""Polygraphy: the package, kept quiet, and set to one of TensorRT's two modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from latentrt.engines.errors import EngineError
from latentrt.engines.precision import Backend


def require_packages() -> None:
    """What debugging needs.

    Raises:
        EngineError: a package is not installed.
    """
    for package in ("onnx", "onnx_ir", "polygraphy"):
        try:
            import_module(package)
        except ImportError as error:
            raise EngineError(f"debugging needs the package {package} ({error}); install latentrt[debug]") from error


@contextmanager
def quiet() -> Iterator[None]:
    """What it logs is left out, and what it raises becomes one sentence.

    Raises:
        EngineError: Polygraphy gives up.
    """
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            yield
    except PolygraphyException as error:
        told = " ".join(str(error).split())[:300]
        raise EngineError(f"Polygraphy cannot run this: {told}; report it, or choose another backend") from error


def choose_tensorrt(backend: Backend) -> None:
    """Sets which of TensorRT's two modules Polygraphy takes: it asks once, when it is first needed.

    Raises:
        EngineError: this process took the other one.
    """
    from polygraphy import config

    wanted = backend is Backend.TENSORRT_RTX
    if "polygraphy.backend.trt" in sys.modules and wanted != config.USE_TENSORRT_RTX:
        raise EngineError(
            f"got backend {backend} in a process that has debugged another of TensorRT's modules, expected one of "
            "them; begin a new process"
        )
    config.USE_TENSORRT_RTX = wanted
