"""The example of the page about OpenAI's API, as it stands there."""

import re
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[4] / "docs" / "serving" / "openai.md"


@pytest.mark.slow
def test_the_example_draws(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In few steps: two pictures by their seeds, one of a stream, and an edit."""
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert 'base_url="http://127.0.0.1:8000/v1"' in example
    monkeypatch.setattr(openai, "OpenAI", lambda base_url, api_key: served.client())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example.replace('steps": 20', 'steps": 2'), str(PAGE), "exec"), names)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"apple-7.png", "apple-8.png", "apple-so-far.png"}
    assert {Image.open(tmp_path / name).size for name in files} == {(32, 32)}
    assert len(names["answer"].data) == 1
