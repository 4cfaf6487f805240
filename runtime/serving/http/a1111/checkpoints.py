"""The models as A1111's clients know them: titles with hashes, and every way to name one."""

from dataclasses import dataclass

from latentrt.engines.errors import shown
from latentrt.runtime.metadata.model_name import model_name_from_manifest
from latentrt.runtime.serving.jobs.errors import UnknownNameError
from latentrt.runtime.serving.jobs.models import Models


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model: its name here, and the short hash of the file that it was built of, where there is one file."""

    name: str
    short_hash: str | None

    @property
    def title(self) -> str:
        """``emoji [0123456789]``."""
        return self.name if self.short_hash is None else f"{self.name} [{self.short_hash}]"


def checkpoints(models: Models) -> tuple[Checkpoint, ...]:
    """All of them, in the catalog's order."""
    return tuple(checkpoint(models, name) for name in models.catalog.models)


def checkpoint(models: Models, name: str) -> Checkpoint:
    """The model of a name of the catalog."""
    return Checkpoint(name=name, short_hash=model_name_from_manifest(models.bundle(name).manifest).short_hash)


def model_from_checkpoint(models: Models, given: object) -> str:
    """The catalog's name of a model that a client names by that, by its title or by its short hash.

    Raises:
        UnknownNameError: there is none.
    """
    known = checkpoints(models)
    for one in known:
        if given in (one.name, one.title, one.short_hash):
            return one.name
    titles = ", ".join(one.title for one in known)
    raise UnknownNameError(
        f"got sd_model_checkpoint {shown(given)}, expected one of {titles}; choose one of these", what="model"
    )
