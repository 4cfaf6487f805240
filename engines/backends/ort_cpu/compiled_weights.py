"""Where a compiled component holds the weights of its bundle's graph, and in which layout."""

from enum import StrEnum
from math import prod

import numpy as np

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array

_SIGN = np.uint8(0x80)


class CompiledLayout(StrEnum):
    """How ONNX Runtime lays out what it was given; (O, I, h, w) are a convolution's outputs, inputs and window.

    ``same``: in the same order, of another shape perhaps. ``blocked``: (O/B, I/B, h, w, B of I, B of O), for its
    NCHWc kernels; ``blocked-outputs``: (O/B, I, h, w, B of O), where I is no multiple of B. Outputs are filled up with
    zeros to a multiple of B, those of a bias, too. ``byte-blocks``: of a matrix in eight bits (I, O), unsigned and as
    (O, I/B, B), for its products with weights alone in eight bits. ``repeated``: each number as often as the shape has
    room, one behind the other, as the steps of those are for every block.
    """

    SAME = "same"
    BLOCKED = "blocked"
    BLOCKED_OUTPUTS = "blocked-outputs"
    BYTE_BLOCKS = "byte-blocks"
    REPEATED = "repeated"


class CompiledWeight(Record):
    """One initializer of the compiled graph that holds one of the bundle's."""

    initializer: str
    shape: tuple[int, ...]
    dtype: str
    layout: CompiledLayout = CompiledLayout.SAME
    block: int = 1

    def compiled(self, content: Array) -> Array:
        """What the bundle's initializer holds, as it is stored here: contiguous."""
        if self.layout is CompiledLayout.SAME and content.size == prod(self.shape):
            return np.ascontiguousarray(content.reshape(self.shape), self.dtype)
        if self.layout is CompiledLayout.BYTE_BLOCKS:
            return (np.ascontiguousarray(content.T).view(np.uint8) ^ _SIGN).reshape(self.shape)
        if self.layout is CompiledLayout.REPEATED:
            return np.repeat(content.astype(self.dtype), self.shape[0] // content.size)
        block, outputs = self.block, self.shape[0]
        filled = np.zeros((outputs, *content.shape[1:]), self.dtype)
        filled[: len(content)] = content
        if self.layout is CompiledLayout.SAME:
            return filled
        inputs, height, width = filled.shape[1:]
        if self.layout is CompiledLayout.BLOCKED_OUTPUTS:
            split = filled.reshape(outputs // block, block, inputs, height, width).transpose(0, 2, 3, 4, 1)
        else:
            split = filled.reshape(outputs // block, block, inputs // block, block, height, width)
            split = split.transpose(0, 2, 4, 5, 3, 1)
        return np.ascontiguousarray(split).reshape(self.shape)


class CompiledWeights(Record):
    """Of a component's compiled graph: by the bundle's initializer, all that hold it.

    ``lost`` are those that were not found again by their values, so that nothing may be changed about them.
    """

    weights: dict[str, tuple[CompiledWeight, ...]]
    lost: tuple[str, ...] = ()

    def of(self, initializer: str, component: str) -> tuple[CompiledWeight, ...]:
        """Where an initializer of the bundle is.

        Raises:
            EngineError: it was not found when the engine was compiled.
        """
        found = self.weights.get(initializer)
        if found is None:
            raise EngineError(
                f"the weight {initializer!r} was not found again in the compiled engine of {component}, so it cannot "
                "be changed; leave out the LoRAs that change it, or fuse them with latentrt build --lora"
            )
        return found
