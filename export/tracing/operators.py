"""What torch's exporter need not take apart before it translates a program to ONNX: half of a trace's time.

Between capturing a module and translating it, ``torch.onnx.export`` runs the whole program twice more, to decompose
operators that have no translation. Of those that diffusion models consist of, three have none under their own names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import add, eq, floordiv, getitem, le, mod, mul, or_, sub
from threading import Lock
from typing import Any

import torch

_ATEN = torch.ops.aten
# Translated as they are: none changes its inputs
_TRANSLATED = frozenset(
    {
        _ATEN._assert_scalar.default,  # both are dropped
        _ATEN._assert_tensor_metadata.default,
        _ATEN._to_copy.default,
        _ATEN.add.Tensor,
        _ATEN.arange.default,
        _ATEN.arange.start,
        _ATEN.bitwise_and.Tensor,
        _ATEN.cat.default,
        _ATEN.chunk.default,
        _ATEN.concat.default,
        _ATEN.contiguous.default,
        _ATEN.conv2d.default,
        _ATEN.conv3d.default,
        _ATEN.cos.default,
        _ATEN.div.Tensor,
        _ATEN.dropout.default,
        _ATEN.embedding.default,
        _ATEN.exp.default,
        _ATEN.expand.default,
        _ATEN.flatten.using_ints,
        _ATEN.gather.default,
        _ATEN.gelu.default,
        _ATEN.group_norm.default,
        _ATEN.layer_norm.default,
        _ATEN.linear.default,
        _ATEN.mul.Tensor,
        _ATEN.narrow.default,
        _ATEN.ne.Scalar,
        _ATEN.ones.default,
        _ATEN.pad.default,
        _ATEN.permute.default,
        _ATEN.reshape.default,
        _ATEN.scaled_dot_product_attention.default,
        _ATEN.select.int,
        _ATEN.sigmoid.default,
        _ATEN.silu.default,
        _ATEN.sin.default,
        _ATEN.slice.Tensor,
        _ATEN.stack.default,
        _ATEN.sym_size.int,
        _ATEN.sub.Tensor,
        _ATEN.transpose.int,
        _ATEN.tril.default,
        _ATEN.unflatten.int,
        _ATEN.unsqueeze.default,
        _ATEN.upsample_nearest2d.vec,
        _ATEN.view.default,
        _ATEN.where.Scalar,
        # of sizes
        add,
        eq,
        floordiv,
        getitem,
        le,
        mod,
        mul,
        or_,
        sub,
        torch.sym_max,
        torch.sym_not,
    }
)


_PATCHING = Lock()  # the method is the whole process's


@contextmanager
def translated_operators_kept() -> Iterator[None]:
    """A context in which ``torch.onnx.export`` decomposes a program only if an operator may have no translation."""
    with _PATCHING:
        decompose = torch.export.ExportedProgram.run_decompositions

        def run_decompositions(program: Any, *arguments: Any, **keywords: Any) -> Any:
            _rename(program.graph)
            calls = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
            if all(node.target in _TRANSLATED for node in calls):
                return program
            return decompose(program, *arguments, **keywords)

        torch.export.ExportedProgram.run_decompositions = run_decompositions
        try:
            yield
        finally:
            torch.export.ExportedProgram.run_decompositions = decompose


def _rename(graph: Any) -> None:
    """Writes operators without a translation as their equivalents that have one; assertions say nothing of results."""
    for node in list(graph.nodes):
        if node.target is _ATEN._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        if node.target is _ATEN.to.dtype and len(node.args) == 2 and not node.kwargs:
            source, dtype = node.args
            node.target, node.args, node.kwargs = _ATEN._to_copy.default, (source,), {"dtype": dtype}
        elif node.target is _ATEN.rsub.Scalar and len(node.args) == 2:
            node.target, node.args = _ATEN.sub.Tensor, node.args[::-1]
        elif node.target is _ATEN.__and__.Tensor:
            node.target = _ATEN.bitwise_and.Tensor
