"""``--textual-inversion``: triggers are printed, may be given, and are missed where no prompt names them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import latentrt

WARNED = "latentrt: warning: no prompt names the textual inversion"


@pytest.fixture
def embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two embedding files; one has a colon in its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("zorp.safetensors", "a:b.safetensors"):
        save_file({"emb_params": np.full((2, 64), 3.0, np.float32)}, name)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "prompt", "trigger", "warned"),
    [
        ("zorp.safetensors", "a zorp", "zorp", False),
        ("zorp.safetensors", "a cat", "zorp", True),
        ("zorp.safetensors:<mine>", "a <mine>", "<mine>", False),
        ("zorp.safetensors:<mine>", "a zorp", "<mine>", True),
        ("zorp.safetensors:of:two", "of:two", "of:two", False),
        ("a:b.safetensors", "a:b", "a:b", False),
        ("a:b.safetensors:qux", "qux", "qux", False),
    ],
)
def test_triggers(
    tiny_bundle: Path,
    embeddings: Path,
    command: Callable[..., Any],
    given: str,
    prompt: str,
    trigger: str,
    warned: bool,
) -> None:
    """On stderr, so that stdout stays what scripts read."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        ran = command(
            "generate", tiny_bundle, prompt, "--steps", 1, "--seed", 1, "--textual-inversion", given, "--json"
        )
    assert ran.status == 0, ran.stderr
    assert f"write {trigger} in a prompt" in ran.stderr
    assert (f"{WARNED} {trigger!r}" in ran.stderr) is warned
    assert trigger not in ran.stdout or trigger in prompt


@pytest.mark.parametrize("given", ["nowhere.pt", "nowhere.pt:zorp", "zorp.safetensors:"])
def test_refused(tiny_bundle: Path, embeddings: Path, command: Callable[..., Any], given: str) -> None:
    """In one line: a file that is not there, and a trigger that is none."""
    ran = command("generate", tiny_bundle, "a", "--textual-inversion", given)
    assert (ran.status, len(ran.stderr.splitlines())) == (2, 1)
    assert "does not exist" in ran.stderr or "got an empty token" in ran.stderr


def test_calls_warn(tiny_bundle: Path, embeddings: Path) -> None:
    """Of triggers that no prompt names, negative ones included, in any syntax; encoded prompts may name them."""
    common: dict[str, Any] = {"num_inference_steps": 1, "width": 32, "output_type": "latent"}
    with latentrt.open(tiny_bundle) as pipe:
        pipe.load_textual_inversion(["zorp.safetensors", "a:b.safetensors"], ["zorp", "<bad>"])
        for prompt, negative, unnamed in [
            ("a cat", "", "'zorp', '<bad>'"),
            ("a Zorp", "", "'<bad>'"),
            ("zorps", "<BAD>", "'zorp'"),
            ("(zorp)1.2", "(<bad> hand)0.5", None),
        ]:
            calls: list[Callable[..., Any]] = [pipe.encode, lambda *texts, **more: pipe(*texts, **common, **more)]
            for call in calls:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    call(prompt, negative_prompt=negative, prompt_syntax="compel")
                told = [one for one in caught if one.category is latentrt.UnusedTextualInversionWarning]
                assert [unnamed in str(one.message) for one in told] == [True] * (unnamed is not None)  # type: ignore[operator]
                assert all(Path(one.filename) == Path(__file__) for one in told)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipe(**pipe.encode("a zorp", negative_prompt="<bad>"), **common)
            pipe("a <bad> zorp", guidance_scale=1.0, **common)
