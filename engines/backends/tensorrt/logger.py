"""What TensorRT says as it parses, builds and opens."""

from typing import Any


def tensorrt_logger(trt: Any) -> Any:
    """A logger for TensorRT that keeps warnings and errors in ``messages``, as (severity, text)."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is known at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages.append((severity.name, message))

    return Log()


def first_error(log: Any, default: str) -> str:
    """The first error that a logger kept: later ones follow from it."""
    errors = (text for severity, text in log.messages if severity != "WARNING")
    return " ".join(next(errors, default).split())[:600]
