"""onnxscript's optimiser, without what it looks at in vain: half of its time on a U-Net, and more on larger graphs.

For every node it lists all nodes of the graph, because the pattern of one rule ends in two nodes: the square of their
number. Of most nodes the operator alone says that the pattern does not end there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

_PATCHING = Lock()  # the class is the whole process's


def optimize(program: Any) -> None:
    """Optimises a ``torch.onnx.ONNXProgram`` in place."""
    with _rules_tried_where_they_end():
        program.optimize()


@contextmanager
def _rules_tried_where_they_end() -> Iterator[None]:
    """A context in which a rule is tried at the nodes whose operator its pattern ends in."""
    from onnxscript.rewriter import _rewrite_rule

    with _PATCHING:
        tried = _rewrite_rule.RewriteRule.try_rewrite

        def try_rewrite(rule: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
            end = rule._target_pattern.output_nodes[0].op_identifier()
            if end is not None and end[:2] != (node.domain, node.op_type):
                return None
            return tried(rule, model, graph, node, **options)

        _rewrite_rule.RewriteRule.try_rewrite = try_rewrite
        try:
            yield
        finally:
            _rewrite_rule.RewriteRule.try_rewrite = tried
