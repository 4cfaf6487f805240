"""The vectors that a text encoder takes for its tokens, read row by row from the bundle."""

from pathlib import Path

import numpy as np

from latentrt.engines.bundle.records.manifests.manifest import TokenEmbeddingsRecord
from latentrt.engines.errors import BundleError
from latentrt.engines.spec import Array
from latentrt.engines.tensors.tensor_file import TensorFileError, open_tensor_file


class TokenEmbeddings:
    """A table (rows, width) float32 that stays on disk: a prompt touches some dozen rows of SD 1.5's 152 MB."""

    def __init__(self, path: Path, record: TokenEmbeddingsRecord) -> None:
        """Maps the table.

        Raises:
            BundleError: the file does not hold the table that the manifest describes.
        """
        self.rows, self.width = record.rows, record.width
        try:
            table = open_tensor_file(path).tensors[record.tensor]
            if (table.dtype_name, table.shape) != ("float32", (record.rows, record.width)):
                raise TensorFileError(f"it holds {table.dtype_name} {list(table.shape)}")
            self._table = table.bits()
        except (TensorFileError, KeyError) as error:
            raise BundleError(
                f"cannot read the token embeddings in {str(path)!r} ({str(error)[:200]}), expected {record.rows} × "
                f"{record.width} float32; build the bundle again"
            ) from error

    def vectors(self, ids: Array) -> Array:
        """(…) int64 ids below ``rows`` to (…, width) float32, a copy."""
        return np.asarray(self._table[ids])
