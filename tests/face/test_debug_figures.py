"""What two sides' tensors tell: figures, turns, the table of modules, and what is proposed to mend them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from latentrt.cli.tables.debugging import row
from latentrt.debugging.comparing import groups
from latentrt.debugging.figures import Figures, figures_of
from latentrt.debugging.findings import module_rows, places_of, short
from latentrt.debugging.islands import suggestion
from latentrt.debugging.marks import Mark
from latentrt.engines.graphs.islands import Island
from latentrt.engines.precision import Precision


def mark(tensor: str, module: str, *sources: str) -> Mark:
    """A tensor of a module."""
    return Mark(
        tensor=tensor, node=f"node_{tensor}", operator="Mul", module=module, sources=sources, weights=(), narrow=True
    )


def figures(error: float = 0.0, expected: float = 1.0, not_finite: int = 0) -> Figures:
    """Some figures."""
    return Figures(error=error, largest=expected, expected=expected, not_finite=not_finite)


def test_figures() -> None:
    """Relative errors; infinity counts where the reference is finite, and what is nowhere finite is left out."""
    a, b = np.array([3, 4], np.float32), np.array([3, 5], np.float32)
    assert figures_of(a, b).error == pytest.approx(1 / math.sqrt(34))
    lost = figures_of(np.array([np.inf, 1, np.nan], np.float32), np.array([1, 1, np.nan], np.float32))
    assert (lost.error, lost.not_finite, lost.largest, lost.expected) == (math.inf, 1, 1, 1)
    assert figures_of(np.zeros(2), np.zeros(2)).error == 0
    assert figures_of(np.ones(2), np.zeros(2)).error == figures_of(np.ones(2), np.ones(3)).error == math.inf
    lowest = np.array([-65504, 1], np.float32)
    assert figures_of(lowest, np.array([-3e38, 1], np.float32), end=65504).error == 0
    assert figures_of(lowest, np.array([3e38, 1], np.float32), end=65504).error > 0.5
    both = figures(0.1, 3.0).worse(figures(0.2, 2.0, 1))
    assert (both.error, both.expected, both.not_finite) == (0.2, 3.0, 1)


def test_turns() -> None:
    """No turn holds more than there is room for, but for one tensor that is larger than that."""
    sizes = {"a": 2, "b": 2, "c": 3, "d": 9, "e": 1}
    assert list(groups(list(sizes), sizes, 4)) == [["a", "b"], ["c"], ["d"], ["e"]]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "unet.down_blocks.1.attentions.0"),
        ("layers.3.self_attn", "layers.3"),
        ("unet.conv_in", "unet.conv_in"),
    ],
)
def test_modules_are_cut(module: str, expected: str) -> None:
    """A row is a block, a transformer or a layer."""
    assert short(module) == expected


def test_growth_by_module() -> None:
    """A module takes the worst of what others made, also by way of a tensor that is not compared."""
    marks = [mark("a", "net.0"), mark("hidden", "net.0", "a"), mark("b", "net.1", "hidden"), mark("c", "net.1", "b")]
    places = places_of(marks, {"a": figures(0.1), "b": figures(0.2), "c": figures(0.5)})
    rows = module_rows(places)
    assert [(row.module, row.takes, row.figures.error, row.tensors) for row in rows] == [
        ("net.0", 0.0, 0.1, 1),
        ("net.1", 0.1, 0.5, 2),
    ]


WHOLE = Island(families=("sd1",), component="net", reason="all")
CHAIN = [mark("a", "in"), mark("b", "grow", "a"), mark("c", "norm", "b"), mark("d", "out", "c")]


def test_what_overflows_is_proposed_with_what_takes_it() -> None:
    """One try mends it: the maker and the taker of the large numbers, and no more."""
    tried = []

    def compared(islands: tuple[Island, ...]) -> dict[str, Figures]:
        tried.append({island.scope for island in islands})
        return {one.tensor: figures(1e-3) for one in CHAIN}

    seen = {
        "a": figures(1e-4),
        "b": figures(math.inf, 1e5, 3),
        "c": figures(math.inf, 1, 3),
        "d": figures(math.inf, 1, 3),
    }
    found = suggestion(WHOLE, CHAIN, seen, ["d"], 1e-2, compared)
    del seen["c"]  # which is not compared, and what it was made of counts in its place
    suggestion(WHOLE, CHAIN, seen, ["d"], 1e-2, compared)
    assert tried == [{"grow", "norm"}, {"grow"}]
    assert found is not None
    assert found.mends
    assert found.error == 1e-3
    rows = [row(island) for island in found.islands]
    assert rows == [
        'Island(families=("sd1",), component="net", scope="grow", reason="numbers up to 1e+05"),',
        'Island(families=("sd1",), component="net", scope="norm", reason="numbers up to 1e+05"),',
    ]


def test_rounding_is_mended_by_those_that_add_most() -> None:
    """Without large numbers modules are tried by their own error, one and then two more."""
    tried = []

    def compared(islands: tuple[Island, ...]) -> dict[str, Figures]:
        tried.append([island.scope for island in islands])
        return {one.tensor: figures(0.1 if len(islands) < 3 else 1e-3) for one in CHAIN}

    seen = {"a": figures(0.01), "b": figures(0.5), "c": figures(0.6), "d": figures(0.61)}
    found = suggestion(WHOLE, CHAIN, seen, ["d"], 1e-2, compared)
    assert tried == [["grow"], ["grow", "norm", "out"]]
    assert found is not None
    assert found.mends


def test_what_needs_no_islands() -> None:
    """Nothing is tried where all is near enough and far from the range's end; near to it, that is kept in fp32."""
    seen = {one.tensor: figures(1e-3) for one in CHAIN}
    assert suggestion(WHOLE, CHAIN, seen, ["d"], 1e-2, lambda islands: pytest.fail("tried")) is None
    seen["d"] = figures(1e-3, 4e4)
    found = suggestion(WHOLE, CHAIN, seen, ["d"], 1e-2, lambda islands: seen)
    assert found is not None
    assert [(island.scope, island.reason) for island in found.islands] == [("out", "numbers up to 4e+04")]
    wide = [replace(one, narrow=False) for one in CHAIN]  # as it is already
    assert suggestion(WHOLE, wide, seen, ["d"], 1e-2, lambda islands: pytest.fail("tried")) is None
    in_bf16 = replace(WHOLE, precisions=(Precision.BF16,))
    assert suggestion(in_bf16, CHAIN, seen, ["d"], 1e-2, lambda islands: seen) is None
    assert row(in_bf16) == 'Island(precisions=(Precision.BF16,), families=("sd1",), component="net", reason="all"),'


def test_what_is_not_mended() -> None:
    """It ends, and says so."""
    broken = {one.tensor: figures(math.inf, 1, 1) for one in CHAIN}
    found = suggestion(WHOLE, CHAIN, broken, ["d"], 1e-2, lambda islands: broken)
    assert found is not None
    assert not found.mends
    assert found.not_finite == 4
