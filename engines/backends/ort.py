"""What all providers of ONNX Runtime share."""

ERRORS_ONLY = 3
"""Its log severity; its warnings, about packed weights for instance, are of no use to a user."""

CLOSED = "the engine is closed; open the bundle again"
"""What is said to those who run one that was closed."""


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, without the stack that follows."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
