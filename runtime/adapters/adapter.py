"""One adapter: what a file of trained weights changes about a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from latentrt.runtime.adapters.formulas.formula import Formula

ModelWeights = Mapping[str, Mapping[str, tuple[int, ...] | None]]
"""Shapes of a model's weights by component, then by their names in the checkpoint's part.

None is a weight that the model has and computes nothing with, such as those of SDXL's last layer in its first text
encoder: files may change it, and nothing comes of it.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """What one file changes.

    Attributes:
        name: what calls and prompts name it by.
        file: the name of the file or folder, for messages and metadata.
        sha256: of its content.
        short_hash: A1111's, for ``Lora hashes``: the first 12 digits of the file's own ``sshs_model_hash``, or of the
            SHA-256 of what is behind its safetensors header; of other files, of the whole file.
        parts: formulas by component, then by the weight's name; every name is one of the model's, and every formula
            was checked against its shape.
        metadata: the texts of a safetensors header.
    """

    name: str
    file: str
    sha256: str
    short_hash: str
    parts: Mapping[str, Mapping[str, Formula]]
    metadata: Mapping[str, str] = field(default_factory=dict)
