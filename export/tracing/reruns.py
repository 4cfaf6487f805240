"""What ``torch.onnx.export`` computes again for every program, or keeps in vain: half of a trace's time.

All are internals of torch, of which the version is pinned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
import torch._dynamo
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter, get_type_promotion_rule

_PATCHING = Lock()  # the classes are the whole process's
_READ: dict[int, Any] = {}  # torch's translations by opset, which it reads from their sources


@contextmanager
def programs_run_once() -> Iterator[None]:
    """A context in which a program's operators run when it is captured, and then only where a type is promoted.

    torch looks for operands of different types by running the program again, although every node holds what came out
    when it was captured. And it reads the sources of all its translations anew for every program. While it captures one
    it looks up what each operator gave before, which takes longer than to ask again where sizes have names.
    """
    with _PATCHING, torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        run, read = _TypePromotionInterpreter.run_node, ONNXRegistry.from_torchlib

        def run_node(promotion: Any, node: Any) -> Any:
            rule = get_type_promotion_rule(node, promotion.type_promotion_table)
            if rule is not None:
                with promotion._set_current_node(node):
                    promotion._maybe_promote_node(node, rule)
            return node.meta["val"] if "val" in node.meta else torch.fx.Interpreter.run_node(promotion, node)

        def from_torchlib(opset_version: int) -> Any:
            if opset_version not in _READ:
                _READ[opset_version] = read(opset_version)
            registry = ONNXRegistry()
            registry._opset_version = opset_version
            registry.functions = {target: list(found) for target, found in _READ[opset_version].functions.items()}
            return registry

        _TypePromotionInterpreter.run_node = run_node
        ONNXRegistry.from_torchlib = staticmethod(from_torchlib)
        try:
            yield
        finally:
            _TypePromotionInterpreter.run_node = run
            ONNXRegistry.from_torchlib = read
