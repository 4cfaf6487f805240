"""How values stand in the settings that A1111 and its like write."""

import json
from typing import Any


def plain(name: str) -> str:
    """A name without the characters that separate settings."""
    return name.replace(",", "").replace(":", "")


def listed(value: Any) -> Any:
    """NumPy's numbers and arrays, and other sequences, as JSON writes them."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


def quoted(value: str) -> str:
    """A value as A1111 writes it: in JSON's quotes where it holds a separator."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value
