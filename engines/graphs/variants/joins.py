"""Where a U-Net's up blocks put a plane of the down path beside their own."""

import re
from typing import TYPE_CHECKING

from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.errors import EngineError
from latentrt.engines.graphs.editor import scope_of

if TYPE_CHECKING:
    import onnx_ir as ir

_UP_BLOCK = re.compile(r"(?:.+\.)?up_blocks\.\d+")


def joins(graph: "ir.Graph", structure: UnetStructure) -> list["ir.Node"]:
    """The nodes that join a block's own plane and a skip, in the order in which they run: the last skip first.

    Raises:
        EngineError: the graph joins another number of planes than the U-Net has.
    """
    found = [
        node
        for node in graph
        if node.op_type == "Concat" and len(node.inputs) == 2 and _UP_BLOCK.fullmatch(scope_of(node))
    ]
    if len(found) != len(structure.skips):
        raise EngineError(
            f"got a U-Net's graph whose up blocks join {len(found)} planes, expected {len(structure.skips)}; build the "
            "bundle again"
        )
    return found
