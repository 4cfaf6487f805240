"""Whether the calls of a pipeline share the engines' runs."""

from enum import StrEnum


class Batching(StrEnum):
    """What becomes of engine calls that several threads make of one pipeline.

    ``SHARED`` puts them in one line, and runs together what is alike; ``ALONE`` runs each as it comes.
    """

    SHARED = "shared"
    ALONE = "alone"
