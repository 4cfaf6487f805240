"""The names of ``import latentrt``."""

import ast
from pathlib import Path

import latentrt

HOUSE = Path(__file__).resolve().parents[2]


def test_type_checkers_see_what_python_finds() -> None:
    """The imports for type checkers and the table of homes name the same things in the same modules."""
    tree = ast.parse((HOUSE / "latentrt" / "__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == latentrt._HOMES
    for name in latentrt.__all__:
        assert getattr(latentrt, name).__name__ in (name, f"latentrt.{name}")
