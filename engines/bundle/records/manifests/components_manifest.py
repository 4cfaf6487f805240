"""What every bundle says, whatever it is of: components, profiles and files."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from latentrt.engines.bundle.records.component import ComponentRecord, FileRecord, TensorRecord
from latentrt.engines.bundle.records.profile_text import ProfileText
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, TensorSpec

BUNDLE_FILE = "bundle.json"


class DecisionRecord(Record):
    """One thing that was worked out about a model or chosen by the user, and how."""

    value: str
    reason: str


class SourceRecord(Record):
    """Where the weights came from: a name, a revision if it has one, what was decided, a digest of every file read.

    ``unread`` lists tensors that the files hold and nothing reads, by part or by file, but for those known to be idle.
    """

    name: str
    revision: str | None
    decisions: dict[str, DecisionRecord]
    files: dict[str, FileRecord]
    unread: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class ComponentsManifest(Record):
    """What every ``bundle.json`` has. The files it lists are portable; engines are cache and not among them.

    ``precision`` is what was asked for, but for the components in ``kept_fp32`` and modules of components, which are
    ``COMPONENT:SCOPE`` there; what each component has become, its own record says. ``family`` is that of the model, or
    of the models that an add-on is for; of an upscaler its architecture. The sides of pictures must be multiples of
    ``pixel_multiple``.
    """

    schema_version: int
    latentrt: str
    exporter: dict[str, str]
    family: str
    source: SourceRecord
    precision: Precision
    kept_fp32: tuple[str, ...]
    components: dict[str, ComponentRecord]
    profiles: Annotated[tuple[ProfileText, ...], Field(min_length=1)]
    pixel_multiple: Annotated[int, Field(gt=0)]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _lists_what_it_uses(self) -> "ComponentsManifest":
        missing = [name for name in self._used if name not in self.files]
        if missing:
            raise ValueError(f"files lacks {', '.join(missing)}")
        return self

    @property
    def _used(self) -> list[str]:
        """The files that it names."""
        return [
            name
            for part in self.components.values()
            for name in (part.onnx, part.weights, part.named_weights, part.remainders, part.probes)
            if name
        ]

    @abstractmethod
    def dimensions(self, shapes: Shapes) -> dict[str, int]:
        """The numbers behind the named dimensions."""

    def chunks(self, component: str, arrays: Mapping[str, Array]) -> int:
        """How many prompt chunks the arrays for a component hold; 1 where it takes no prompt."""
        return 1

    def spec(self, component: str, shapes: Shapes, batches: tuple[int, ...]) -> EngineSpec:
        """The component's tensors at these shapes."""
        record, sizes = self.components[component], self.dimensions(shapes)

        def tensors(records: dict[str, TensorRecord]) -> dict[str, TensorSpec]:
            return {
                name: TensorSpec(
                    shape=tuple(d if d == BATCH else sizes.get(str(d), d) for d in tensor.shape),
                    dtype=np.dtype(tensor.dtype),
                    neutral=tensor.neutral,
                )
                for name, tensor in records.items()
            }

        return EngineSpec(inputs=tensors(record.inputs), outputs=tensors(record.outputs), batches=batches)
