"""The server's models as OpenAI lists them."""

from typing import Literal

from pydantic import BaseModel

from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.runtime.serving.jobs.models import Models


class Model(BaseModel):
    """A model that pictures are drawn with; ``created`` is when its bundle was written."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "latentrt"


class ModelList(BaseModel):
    """All models; the first one is drawn with where none is named."""

    object: Literal["list"] = "list"
    data: list[Model]


def model_named(models: Models, name: str) -> Model:
    """A model of the server.

    Raises:
        UnknownNameError: there is none of that name.
    """
    name = models.catalog.model(name)
    return Model(id=name, created=int((models.bundle(name).root / BUNDLE_FILE).stat().st_mtime))


def all_models(models: Models) -> ModelList:
    """Those of the catalog, in its order."""
    return ModelList(data=[model_named(models, name) for name in models.catalog.models])
