"""The settings that a library's class knows, read from its source: importing it would load torch."""

import ast
import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

_LARGEST = 1e30


@cache
def constructor_settings(library: str, file: str, name: str) -> Mapping[str, Any]:
    """The parameters of a class's constructor with their defaults, None for those that have none.

    Args:
        library: an installed package.
        file: below it, as ``schedulers/scheduling_ddim.py``.
        name: the class.
    """
    found = find_spec(library)
    assert found is not None
    assert found.submodule_search_locations is not None
    module = ast.parse((Path(found.submodule_search_locations[0]) / file).read_text("utf-8"))
    kind = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)
    parameters = next(node.args for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = [argument.arg for argument in parameters.args[1:]]
    defaults = [_value(node) for node in parameters.defaults]
    required = [None] * (len(names) - len(defaults))
    return MappingProxyType(dict(zip(names, [*required, *defaults], strict=True)))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a setting is a number that a float can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _value(node: ast.expr) -> Any:
    if ast.unparse(node) == "-float('inf')":
        return -math.inf
    return ast.literal_eval(node)
