"""Which weights an engine of openvino holds apart, so that a LoRA may change them where they are."""

from hashlib import sha256

import numpy as np
import pytest

from latentrt.engines.backends.openvino.blob import Constant
from latentrt.engines.backends.openvino.compiled_weights import CompiledForm, CompiledWeight
from latentrt.engines.backends.openvino.provenance import _found, _weight
from latentrt.engines.spec import Array

WIDE = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS, OTHER = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
ZEROS = np.zeros(4, np.float32)
SAME, TRANSPOSED, FLOAT32 = CompiledForm.SAME, CompiledForm.TRANSPOSED, CompiledForm.FLOAT32
Held = tuple[int, tuple[str, ...], Array]
"""A constant's graph, what it is told to be made of, and its numbers; its offset is its place in the list."""

CASES: dict[str, tuple[dict[str, Array], list[Held], dict[str, list[tuple[int, CompiledForm]]]]] = {
    "by name": ({"w": WIDE}, [(0, ("w",), WIDE), (1, ("w",), WIDE.T)], {"w": [(0, SAME), (1, TRANSPOSED)]}),
    "twice in a graph": ({"w": BIAS}, [(0, ("w",), BIAS), (0, ("w",), BIAS)], {"w": [(0, SAME), (1, SAME)]}),
    "by numbers": ({"w": BIAS}, [(0, (), BIAS), (0, (), OTHER)], {"w": [(0, SAME)]}),
    "sixteen bits": ({"w": BIAS.astype(np.float16)}, [(0, ("w",), BIAS)], {"w": [(0, FLOAT32)]}),
    "one graph lacks it": ({"w": BIAS}, [(0, ("w",), BIAS), (1, ("v",), OTHER)], {}),
    "one graph has other numbers": ({"w": BIAS}, [(0, ("w",), BIAS), (1, ("w",), OTHER)], {}),
    "computed with another": ({"w": BIAS, "v": OTHER}, [(0, ("v", "w"), BIAS + OTHER)], {}),
    "one for two": ({"w": BIAS, "v": BIAS}, [(0, ("v", "w"), BIAS)], {}),
    "two alike": ({"w": BIAS, "v": BIAS}, [(0, (), BIAS), (0, (), BIAS)], {}),
    "a copy without a name": ({"w": BIAS}, [(0, ("w",), BIAS), (0, (), BIAS)], {}),
    "a bias under its matrix's name": (
        {"w": WIDE, "v": BIAS}, [(0, ("w",), WIDE), (0, ("w",), BIAS)], {"w": [(0, SAME)], "v": [(1, SAME)]}
    ),
    "zeros under its matrix's name": ({"w": WIDE, "v": ZEROS}, [(0, ("w",), WIDE), (0, ("w",), ZEROS)], {}),
    "a copy under another's name": (
        {"w": WIDE, "v": BIAS}, [(0, ("w",), WIDE), (0, ("w",), BIAS), (0, ("v",), BIAS)], {"w": [(0, SAME)]}
    ),
    "zeros by name": ({"w": ZEROS}, [(0, ("w",), ZEROS), (0, (), ZEROS)], {"w": [(0, SAME)]}),
    "zeros by numbers": ({"w": ZEROS}, [(0, (), ZEROS)], {}),
    "its own transpose": ({"w": np.eye(3, dtype=np.float32)}, [(0, ("w",), np.eye(3, dtype=np.float32))], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_found_where_it_is_alone_in_every_graph(case: str) -> None:
    initializers, held, expected = CASES[case]
    constants = [
        Constant(graph, frozenset(origins), offset, numbers.nbytes)
        for offset, (graph, origins, numbers) in enumerate(held)
    ]
    digests = {
        offset: sha256(np.ascontiguousarray(numbers).tobytes()).digest() for offset, (_, _, numbers) in enumerate(held)
    }
    found = _found({name: _weight(content) for name, content in initializers.items()}, constants, digests)
    assert found == {
        name: tuple(CompiledWeight(offset=offset, form=form) for offset, form in rows)
        for name, rows in expected.items()
    }
