"""Errors that a user can mend: one sentence each, with what was got, what was expected and what to do."""

_LONGEST = 200  # characters of a value in a message


def shown(value: object) -> str:
    """What a caller gave as a message shows it: on one line, and not at any length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class LatentrtError(Exception):
    """Base of every error that latentrt raises on purpose; the command line turns it into exit status 2."""


class RequestError(LatentrtError, ValueError):
    """A picture was asked for in a way that cannot be served (sampler, size, steps, image, ...)."""


class CheckpointError(LatentrtError):
    """The model to build from is missing, incomplete or of a kind that cannot be built."""


class BundleError(LatentrtError):
    """A bundle is missing, incomplete, altered, or written by a newer latentrt."""


class BusyError(BundleError):
    """Another process is writing the same bundle."""


class EngineError(LatentrtError):
    """No engine of the bundle can run here, or a backend cannot be opened."""


class NotFiniteError(EngineError):
    """A component led to NaN or infinity: settings beyond what its precision holds, or an engine that is damaged."""


class ParityError(LatentrtError):
    """A component differs from its reference, such as its torch module, by more than its gate allows."""


class OutputError(LatentrtError, OSError):
    """A file could not be written; whatever stood there before is unchanged."""
