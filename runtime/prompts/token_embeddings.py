"""The vectors that a text encoder takes for its tokens, read row by row from the bundle."""

import json
from pathlib import Path

import numpy as np

from latentrt.engines.bundle.records.manifest import TokenEmbeddingsRecord
from latentrt.engines.errors import BundleError
from latentrt.engines.spec import Array

_LENGTH_BYTES = 8  # safetensors: the header's length, then the header as JSON, then the tensors


class TokenEmbeddings:
    """A table (rows, width) float32 that stays on disk: a prompt touches some dozen rows of SD 1.5's 152 MB."""

    def __init__(self, path: Path, record: TokenEmbeddingsRecord) -> None:
        """Maps the table.

        Raises:
            BundleError: the file does not hold the table that the manifest describes.
        """
        self.rows, self.width = record.rows, record.width
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
                tensor = json.loads(file.read(length))[record.tensor]
            begin, _ = tensor["data_offsets"]
            shape = (record.rows, record.width)
            if (tensor["dtype"], tuple(tensor["shape"])) != ("F32", shape):
                raise ValueError(f"it holds {tensor['dtype']} {tensor['shape']}")
            self._table: Array = np.memmap(path, np.float32, "r", _LENGTH_BYTES + length + begin, shape)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise BundleError(
                f"cannot read the token embeddings in {str(path)!r} ({str(error)[:200]}), expected {record.rows} × "
                f"{record.width} float32; build the bundle again"
            ) from error

    def vectors(self, ids: Array) -> Array:
        """(…) int64 ids below ``rows`` to (…, width) float32, a copy."""
        return np.asarray(self._table[ids])
