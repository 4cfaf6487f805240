"""A graph that was made of another, in a file of its own with the weights beside it."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.graphs.editor import serialized

if TYPE_CHECKING:
    import onnx_ir as ir


def write_linked(model: "ir.Model", path: Path) -> None:
    """Writes a graph where libraries take weights from the graph's folder alone.

    Files of weights are hard links where the system has them, else copies; those that are there already stay.
    """
    import onnx_ir as ir

    tensors = (value.const_value for value in model.graph.initializers.values())
    for source in sorted({Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}):
        target = path.with_name(source.name)
        if not target.exists():
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
    path.write_bytes(serialized(model))
