"""The base of everything that a bundle keeps as JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
