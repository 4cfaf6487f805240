"""What all providers of ONNX Runtime share."""

from collections.abc import Iterator
from contextlib import contextmanager

from latentrt.engines.errors import EngineError

ERRORS_ONLY = 3
"""Its log severity; its warnings, about packed weights for instance, are of no use to a user."""

CLOSED = "the engine is closed; open the bundle again"
"""What is said to those who run one that was closed."""


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, without the stack that follows."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def run_errors(remedy: str) -> Iterator[None]:
    """Turns what a run raises into one sentence that ends with a remedy; our own errors pass.

    Raises:
        EngineError: the run failed.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise EngineError(f"ONNX Runtime failed: {first_line(error)}; {remedy}") from error
