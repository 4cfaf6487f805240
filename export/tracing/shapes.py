"""The shapes of operators' results, told instead of computed: a part of a trace's time.

While torch captures a program it computes the shape of every result. Of an operator that consists of others it runs
these, over sizes that have names, although what is recorded is the operator itself.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch._subclasses.fake_impls import get_fast_op_impls
from torch._subclasses.fake_tensor import FakeTensor

_ATEN = torch.ops.aten
_PATCHING = Lock()  # the table is the whole process's


@contextmanager
def shapes_told() -> Iterator[None]:
    """A context in which torch's tracer computes nothing for norms, linear layers, attention and what is between."""
    with _PATCHING:
        table = get_fast_op_impls()
        own = dict(table)
        table.update(_TOLD)
        try:
            yield
        finally:
            table.clear()
            table.update(own)


def _empty(mode: Any, shape: tuple[Any, ...], like: Any) -> FakeTensor:
    """A tensor of a shape, without numbers, of another's type."""
    return FakeTensor(mode, torch.empty(shape, dtype=like.dtype, device="meta"), device=like.device)


def _normed(mode: Any, given: Any, *_: Any, **__: Any) -> FakeTensor:
    return _empty(mode, given.shape, given)


def _alike(mode: Any, given: Any, *_: Any, **__: Any) -> FakeTensor:
    """Number by number, in the layout that was given."""
    empty = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device="meta")
    return FakeTensor(mode, empty, device=given.device)


def _linear(mode: Any, given: Any, weight: Any, bias: Any = None) -> FakeTensor:
    return _empty(mode, (*given.shape[:-1], weight.shape[0]), given)


def _attended(mode: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> FakeTensor:
    return _empty(mode, (*query.shape[:-1], value.shape[-1]), query)


_TOLD: Mapping[Any, Callable[..., FakeTensor]] = {
    _ATEN.dropout.default: _alike,
    _ATEN.gelu.default: _alike,
    _ATEN.group_norm.default: _normed,
    _ATEN.layer_norm.default: _normed,
    _ATEN.linear.default: _linear,
    _ATEN.scaled_dot_product_attention.default: _attended,
    _ATEN.silu.default: _alike,
}
