"""Where a compiled component holds the weights of its bundle's graph, and in which form."""

from enum import StrEnum

import numpy as np

from latentrt.engines.bundle.records.record import Record
from latentrt.engines.spec import Array


class CompiledForm(StrEnum):
    """How OpenVINO holds what it was given.

    ``same``: byte for byte, of another shape perhaps; ``transposed``: a matrix as its transpose; ``float32``: numbers
    in sixteen bits, exactly as float32.
    """

    SAME = "same"
    TRANSPOSED = "transposed"
    FLOAT32 = "float32"


class CompiledWeight(Record):
    """A constant that holds an initializer of the bundle's: it begins ``offset`` bytes behind the first constant."""

    offset: int
    form: CompiledForm = CompiledForm.SAME

    def compiled(self, content: Array) -> Array:
        """What the bundle's initializer holds, as it is stored here; bfloat16 are its bits, as whole numbers."""
        return in_form(content, self.form)


class CompiledWeights(Record):
    """Of a component: by the bundle's initializer, every constant that holds it.

    ``lost`` were not found again: a graph with other numbers for these is compiled anew.
    """

    weights: dict[str, tuple[CompiledWeight, ...]]
    lost: tuple[str, ...] = ()


def in_form(content: Array, form: CompiledForm) -> Array:
    """Numbers of an initializer as a constant of that form holds them: contiguous."""
    if form is CompiledForm.TRANSPOSED:
        return np.ascontiguousarray(content.T)
    if form is CompiledForm.FLOAT32:
        if content.dtype == np.uint16:  # bfloat16: the upper half of a float32
            return (content.astype(np.uint32) << 16).view(np.float32)
        return content.astype(np.float32)
    return np.ascontiguousarray(content)
