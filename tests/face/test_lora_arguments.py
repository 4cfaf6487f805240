"""LoRAs as they are named: paths with weights behind colons, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from latentrt.arguments.loras import lora_from_text, loras_from_arguments
from latentrt.engines.errors import RequestError


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files, one of them with colons in its name, and a trainer's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("style.safetensors", "a:0.5.pt", "a", "b:1", "peft/adapter_model.safetensors", "other/style.bin"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("text", "path", "name", "unet", "text_weight"),
    [
        ("style.safetensors", "style.safetensors", "style", 1.0, 1.0),
        ("style.safetensors:0.8", "style.safetensors", "style", 0.8, 0.8),
        ("style.safetensors:-.5:0", "style.safetensors", "style", -0.5, 0.0),
        ("style.safetensors:1e-1: 2 ", "style.safetensors", "style", 0.1, 2.0),
        ("a:0.5.pt:2", "a:0.5.pt", "a_0.5", 2.0, 2.0),
        ("a:0.5", "a", "a", 0.5, 0.5),
        ("b:1", "b:1", "b_1", 1.0, 1.0),
        ("peft:0.3", "peft", "peft", 0.3, 0.3),
        ("peft/adapter_model.safetensors", "peft/adapter_model.safetensors", "peft", 1.0, 1.0),
    ],
)
def test_path_and_weights(text: str, path: str, name: str, unet: float, text_weight: float) -> None:
    """The longest path that exists, then the weights; one is for both."""
    read = lora_from_text(text)
    assert (read.weights is None) == (text == path)
    assert (read.path, read.name) == (Path(path), name)
    assert (read.strength.unet, read.strength.text) == (unet, text_weight)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nowhere.safetensors:0.8", "got LoRA 'nowhere.safetensors', which does not exist"),
        ("no:where.pt:0.8:1", "got LoRA 'no:where.pt', which does not exist"),
        ("nowhere:1:2:3", "got LoRA 'nowhere:1', which does not exist"),
        ("", "got LoRA '', which does not exist"),
        (":0.5", "got LoRA '', which does not exist"),
        ("style.safetensors:", "got weight '' for LoRA 'style.safetensors'"),
        ("style.safetensors:0,8", "got weight '0,8' for"),
        ("style.safetensors:nan", "got weight 'nan' for"),
        ("style.safetensors:1:inf", "got weight 'inf' for"),
        ("style.safetensors:1:2:3", "got 3 weights for LoRA 'style.safetensors', expected PATH"),
    ],
)
def test_what_is_no_lora(text: str, complaint: str) -> None:
    """One sentence each."""
    with pytest.raises(RequestError) as refused:
        lora_from_text(text)
    assert complaint in str(refused.value)


def test_what_a_caller_gives() -> None:
    """Texts, paths, pairs and triples; one alone is a list of one."""
    given = ["style.safetensors:0.8", Path("a"), ("b:1", 2), ["peft", 0.5, 0]]
    read = loras_from_arguments(given)
    assert [(one.name, one.strength.unet, one.strength.text) for one in read] == [
        ("style", 0.8, 0.8),
        ("a", 1.0, 1.0),
        ("b_1", 2.0, 2.0),
        ("peft", 0.5, 0.0),
    ]
    assert loras_from_arguments("a") == (read[1],)
    assert loras_from_arguments(read) == read


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["style.safetensors", "other/style.bin"], "got two LoRAs called 'style' ('style.safetensors' and 'other/sty"),
        (["a:0.5", "a:0.2"], "give one file once with the sum of the weights"),
        ([("a", "x")], "got weight 'x' for LoRA 'a'"),
        ([("a", True)], "got weight True for"),
        ([("nowhere", 1)], "got LoRA 'nowhere', which does not exist"),
        ([()], "got LoRA (), expected PATH"),
        ([3], "got LoRA 3, expected PATH"),
        ({"a": 1}, "got loras {'a': 1}, expected a list"),
    ],
)
def test_what_a_caller_must_not_give(given: Any, complaint: str) -> None:
    """One sentence each."""
    with pytest.raises(RequestError) as refused:
        loras_from_arguments(given)
    assert complaint in str(refused.value)
